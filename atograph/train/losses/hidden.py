"""Hidden states of a network beside those of its teacher, at the units that stay."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.train.losses.blocks import Cuts, Outputs, Plan, blocks_of
from atograph.values.batches import tensors

States = dict[str, list[Tensor]]
"""Module → what it gave, call by call."""

Tell = Callable[[str], object]
"""Takes a sentence that the user should know."""


class HiddenStates:
    """How far the outputs of a network's blocks are from its teacher's, at the units that stay.

    Source: hints of FitNets (Romero et al., arXiv 1412.6550) and the hidden states of TinyBERT (Jiao et al.,
    arXiv 1909.10351): a squared difference in each. There a regressor takes the student's width to the teacher's; here
    none is needed, for a unit of the one is a unit of the other. It is divided by the variance of the teacher's.

    Args:
        weight: by which the mean over the blocks is added to the loss; 0: nothing is looked at.
        layers: names or globs of the modules that are compared; none: `blocks.blocks_of`.
        tell: told once which are left out, and why.
    """

    def __init__(self, weight: float, layers: Sequence[str] = (), tell: Tell | None = None) -> None:
        self.weight, self._layers = weight, layers
        self._tell = tell or partial(warnings.warn, stacklevel=2)
        self._names: list[str] | None = None
        self._outputs: Outputs | None = None
        self._plan: Callable[[], Plan | None] = lambda: None
        self._cuts: tuple[Plan | None, dict[str, Sequence[int]], dict[str, Cuts]] | None = None
        self._told = set[str]()
        self._ever = False

    def of(self, program: Program, plan: Callable[[], Plan | None]) -> None:
        """From now on the network is one that is pruned.

        Args:
            program: of the dense network.
            plan: what is masked at the moment, or gone; None: nothing.
        """
        self._outputs, self._plan = Outputs(program), plan

    @contextmanager
    def watched(self, model: nn.Module, teacher: nn.Module) -> Iterator[States]:
        """Within, notes copies of what the blocks of a model give: the next layer may write into them."""
        states: States = {}
        if not self.weight:
            yield states
            return
        if self._names is None:
            self._names = blocks_of(teacher, self._layers)
        modules = dict(model.named_modules())
        hooks = [
            modules[name].register_forward_hook(partial(_note, states.setdefault(name, [])))
            for name in self._names
            if name in modules
        ]
        try:
            yield states
        finally:
            for hook in hooks:
                hook.remove()

    def difference(self, given: States, wanted: States) -> Tensor | None:
        """The mean over the blocks of the squared difference over the variance of the teacher's; None: there is none.

        Args:
            given: of the network, with a gradient.
            wanted: of its teacher.

        Raises:
            UserError: no block of the network is one of the teacher's.
        """
        found, out = [], dict[str, str]()
        cuts = self._cuts_of({name: each[0].shape for name, each in wanted.items() if each})
        for name, each in wanted.items():
            own = given.get(name)
            why = _why_not(own, each, cuts, name)
            if why or own is None:
                out[name] = why
                continue
            pairs = [_pair(one, other, cuts.get(name, ())) for one, other in zip(own, each, strict=True)]
            found += [relative_difference(one, other) for one, other in pairs if other.numel()]
        self._ever |= bool(found)
        if not self._ever:
            raise UserError(
                f"no hidden state can be compared with the teacher's: {_listed(out) or 'its blocks are not called'}.",
                where="distill_hidden",
                hint="Name modules that both have, with outputs of the same sizes: distill_layers; or leave it out.",
            )
        new = {name: why for name, why in out.items() if name not in self._told}
        if new:
            self._told |= new.keys()
            self._tell(f"hidden states that are not compared with the teacher's: {_listed(new)}")
        return torch.stack(found).mean() if found else None

    def _cuts_of(self, sizes: dict[str, Sequence[int]]) -> dict[str, Cuts]:
        """What stays of the teacher's outputs."""
        if self._outputs is None:
            return {name: (None,) * len(size) for name, size in sizes.items()}
        plan = self._plan()
        if self._cuts is None or self._cuts[0] is not plan or self._cuts[1] != sizes:
            self._cuts = plan, sizes, self._outputs.cuts(sizes, plan)
        return self._cuts[2]


def relative_difference(given: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared difference over the variance of what is wanted, a 0-dim tensor in float32 or better."""
    given, wanted = at_least_float32(given), at_least_float32(wanted)
    scale = wanted.var(correction=0)
    if not bool(scale > 1e-6 * wanted.square().mean()):  # all alike, or one number only
        scale = wanted.square().mean().where(wanted.any(), torch.ones_like(scale))
    return (given - wanted).square().mean() / scale


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself, or of half precision in float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _note(states: list[Tensor], _module: nn.Module, _args: object, output: object) -> None:
    found = [each for each in tensors(output) if each.is_floating_point()]
    if len(found) == 1:  # of several nobody knows which one a node of the program is
        states.append(found[0].clone())


def _why_not(own: list[Tensor] | None, each: list[Tensor], cuts: Mapping[str, Cuts], name: str) -> str:
    """Why the states of a block cannot be compared; empty where they can."""
    if own is None:
        return "the network has no such module"
    if len(own) != len(each):
        return f"called {len(own)} times, and {len(each)} times in the teacher"
    if not each:
        return "it is not called, or gives no tensor of numbers, or several"
    if name not in cuts:
        unlike = next((pair for pair in zip(own, each, strict=True) if pair[0].shape != pair[1].shape), None)
        if unlike is not None:
            return f"its output is {_shape(unlike[0])}, and the teacher's {_shape(unlike[1])}"
        return "nobody knows which units stand where in what it gives"
    if torch.is_grad_enabled() and not all(one.requires_grad for one in own):
        return "no gradient reaches it, for it is frozen, or recomputed in the backward pass"
    wrong = [(one, other) for one, other in zip(own, each, strict=True) if not _fit(one, other, cuts[name])]
    return f"its output is {_shape(wrong[0][0])}, and the teacher's {_shape(wrong[0][1])}" if wrong else ""


def _fit(given: Tensor, wanted: Tensor, cuts: Cuts) -> bool:
    """Whether an output is the teacher's, whole or at what stays of it."""
    if given.dim() != wanted.dim() or len(cuts) != given.dim():
        return False
    sizes = [size if cut is None else len(cut) for size, cut in zip(wanted.shape, cuts, strict=True)]
    return given.shape == wanted.shape or list(given.shape) == sizes


def _pair(given: Tensor, wanted: Tensor, cuts: Cuts) -> tuple[Tensor, Tensor]:
    """Both at what stays."""
    whole = given.shape == wanted.shape
    for dim, cut in enumerate(cuts):
        if cut is not None:
            index = torch.from_numpy(cut).to(wanted.device)
            wanted = wanted.index_select(dim, index)
            given = given.index_select(dim, index) if whole else given
    return given, wanted


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _listed(out: Mapping[str, str]) -> str:
    """Names by reason: ``layer1.0, layer1.1 (the network has no such module)``."""
    by_reason: dict[str, list[str]] = {}
    for name, why in out.items():
        by_reason.setdefault(why, []).append(name)
    shown = 8
    return "; ".join(
        f"{', '.join(names[:shown])}{f' and {len(names) - shown} more' if len(names) > shown else ''} ({why})"
        for why, names in by_reason.items()
    )
