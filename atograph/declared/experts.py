"""Whole experts of a mixture that go, their rows of the router with them: which ones, and the model without them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from atograph.declared.counted import Counted, is_in, numbers_in, the_number
from atograph.declared.reduced import Reduced
from atograph.declared.routing import Routing
from atograph.declared.smaller import smaller
from atograph.passes.declared import Declared
from atograph.passes.errors import UserError
from atograph.passes.public import public
from atograph.spec.example_inputs import inputs_of_batch
from atograph.values.batches import to_device
from atograph.values.eval_mode import eval_mode

_PER_TOKEN = re.compile(r"experts_per_tok|(moe|router)_top_?k$|top_k_experts$|^moe_k$|selected_experts$")
"""What configurations call the number of experts that each token is sent to."""

BATCHES = 8
"""Batches of data that routers are watched on."""


@public("atograph")
def keep_experts(model: nn.Module, share: float, data: Iterable[object] | None = None) -> Reduced:
    """A model with fewer experts in each mixture, and rows of the routers with them: another function, as declared.

    What a token would have been sent to the experts that are gone for, others do now. Where no token meets one of them,
    nothing changes if the router weighs the chosen ones only (`Reduced.certify`). Each mixture keeps its own ones, and
    all equally many.

    Args:
        model: of transformers, or one with such a model in it; it is left as it is. What it calls an expert is found in
            its configuration: the number that counts them, and what has one row or module for each.
        share: of the experts of each mixture that stay, ``0.5`` for half.
        data: batches, as `compress` takes them: those experts stay that routers send most to on the first eight, by the
            weight that a token has for them among its chosen ones. None: those whose weights are largest.

    Raises:
        UserError: the model has no mixture that can be told; or fewer would stay than each token is sent to; or the
            routers do not choose in a way that can be watched.
    """
    if not 0 < share < 1:
        raise UserError(f"the share of experts that stay lies between 0 and 1, not at {share:g}.")
    path, part, found = the_number(
        model, re.compile("expert"), "mixture of experts",
        "Experts are counted by num_experts, num_local_experts or n_routed_experts in its configuration.",
    )  # fmt: skip
    blocks = found.blocks()
    groups = _groups(part, found)
    count = max(groups, math.floor(found.size * share / groups + 0.5) * groups)
    _check_count(part, found, count)
    scores = _by_weights(part, found) if data is None else _by_use(model, path, part, found, data)
    kept = {block: _best(scores[block], count, groups) for block in blocks}
    change = Declared(kind="experts", part=path, field=found.field, size=found.size, kept=kept)
    return Reduced(model, smaller(model, change), change)


def _groups(part: nn.Module, found: Counted) -> int:
    """Into how many equal runs the router splits its experts, of which it chooses some first."""
    config = vars(part)["config"]
    for name in found.field.split(".")[:-1]:
        config = getattr(config, name)
    groups = getattr(config, "n_group", None)
    return groups if type(groups) is int and 1 < groups < found.size and found.size % groups == 0 else 1


def _check_count(part: nn.Module, found: Counted, count: int) -> None:
    """Make sure that a token can still be sent to as many experts as before, and that some are gone."""
    if count >= found.size:
        raise UserError(f"of {found.size} experts that share keeps all.", hint="Name a smaller one.")
    for name, number in numbers_in(vars(part)["config"]):
        if _PER_TOKEN.search(name) and number > count:
            raise UserError(
                f"{count} of {found.size} experts would stay in {found.blocks()[0]}, and each token is sent to "
                f"{number} ({name}).",
                hint=f"The smallest share is {number / found.size:g}; or make the model with a smaller {name}.",
            )


def _by_weights(part: nn.Module, found: Counted) -> dict[str, Tensor]:
    """Mixture → norm of each expert's weights, ``[experts]``."""
    scores = {}
    tensors = part.state_dict()
    for block in found.blocks():
        total = torch.zeros(found.size, dtype=torch.float64)
        for name, each in found.rows.items():
            if is_in(name, block) and name not in found.routers and not tensors[name].is_meta:
                rows = tensors[name].double().movedim(found.dims.get(name, 0), 0)
                total += rows.reshape(found.size, -1).square().sum(1).cpu() if each else 0
        for head in found.lists:
            for name, tensor in tensors.items():
                place = name[len(head) :].partition(".")[0]
                if name.startswith(head) and is_in(head, block) and place.isdigit() and not tensor.is_meta:
                    total[int(place)] += tensor.double().square().sum().cpu()
        scores[block] = total
    return scores


def _by_use(model: nn.Module, path: str, part: nn.Module, found: Counted, data: Iterable[object]) -> dict[str, Tensor]:
    """Mixture → what its router sends to each expert on some batches, ``[experts]``, a share of all."""
    scores = {block: torch.zeros(found.size, dtype=torch.float64) for block in found.blocks()}
    device = next((tensor.device for tensor in part.parameters()), torch.device("cpu"))
    for number, batch in enumerate(data):
        if number == BATCHES:
            break
        inputs = inputs_of_batch(to_device(batch, device))
        routing = Routing(part, found.routers_of_blocks(), found.size)
        with eval_mode(model), torch.no_grad(), routing:
            model(*inputs.args, **inputs.kwargs)
        for block, total in scores.items():
            for logits, chosen in zip(routing.logits[block], routing.chosen[block], strict=True):
                total += _sent(logits, chosen)
    silent = next((block for block, total in scores.items() if not total.any()), None)
    if silent is not None:
        raise UserError(
            f"what {silent} sends to its experts could not be watched: its router makes no logits of its weights, or "
            "there are no batches.",
            hint="Without data, experts are chosen by their weights.",
        )
    return {block: total / total.sum() for block, total in scores.items()}


def _sent(logits: Tensor, chosen: Tensor | None) -> Tensor:
    """What each expert gets, ``[experts]``: of each token one in all, shared among the chosen ones by their logits."""
    shares = logits.double()
    if chosen is not None:
        out = torch.full_like(shares, -torch.inf)
        shares = out.scatter(1, chosen, shares.gather(1, chosen))
    return shares.softmax(1).sum(0).cpu()


def _best(scores: Tensor, count: int, groups: int) -> tuple[int, ...]:
    """The experts with the highest scores, equally many of each run of them; in order."""
    runs = scores.reshape(groups, -1)
    best = runs.argsort(dim=1, descending=True, stable=True)[:, : count // groups]
    return tuple(sorted((best + torch.arange(groups)[:, None] * runs.shape[1]).flatten().tolist()))
