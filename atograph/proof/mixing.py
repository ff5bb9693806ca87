"""Whether a network without some branches still lets one token of a sequence see another.

A language model depends on its own token at each place, so all of its attentions may go without an output that depends
on nothing: exact, and useless. It is seen by trying: another first token, and what changes at the others' places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from atograph.passes.torch_private import pytree
from atograph.slimming.slim import Slim
from atograph.spec.example_inputs import Inputs
from atograph.values.eval_mode import copy_of, eval_mode
from atograph.values.structures import copied, tensors_of

ALONE = (
    "each token is looked at alone: no output depends on what stands at another place, because all branches that mix "
    "places are gone. --freeze keeps some (--freeze 'layers.*.self_attn.q_proj'), and so does a smaller --depth-share"
)


def why_alone(model: nn.Module, slim: Slim, inputs: Inputs) -> str:
    """That a slim network looks at each token alone where the dense one does not, in words; empty where it does not.

    Args:
        model: dense or masked; what it could mix is seen with random weights.
        slim: of a plan; one in which no branch is gone is not looked at.
        inputs: of the dense network, with whole numbers ``[batch, tokens]``.
    """
    if not slim.plan.emptied or slim.state or _with_another_first(inputs) is None:
        return ""
    try:
        if _sees_others(slim, inputs):
            return ""
        dense = copy_of(model)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            for parameter in dense.parameters():
                if parameter.is_floating_point():
                    parameter.copy_(0.1 * torch.randn_like(parameter))
        with eval_mode(dense):
            return ALONE if _sees_others(dense, inputs) else ""
    except Exception:  # a model that random weights or tokens do not suit: nothing is known then
        return ""


def _sees_others(form: Callable[..., Any], inputs: Inputs) -> bool:
    other = _with_another_first(inputs)
    assert other is not None
    results = []
    for each in (inputs, other):
        args, kwargs = copied(each.example)
        with torch.no_grad():
            results.append([value for value in tensors_of(form(*args, **kwargs)) if value.dim() > 1])
    length = next(leaf.shape[1] for leaf in _tokens(inputs))
    pairs = [(a, b) for a, b in zip(*results, strict=True) if a.shape[1] == length]
    return not pairs or any(not torch.equal(a[:, 1:], b[:, 1:]) for a, b in pairs)


def _with_another_first(inputs: Inputs) -> Inputs | None:
    """The same inputs with another first token; None where there are no tokens, or all are the same."""
    if not any(bool((leaf != leaf[:, :1]).any(1).all()) for leaf in _tokens(inputs)):
        return None

    def changed(leaf: Any) -> Any:
        if not _are_tokens(leaf):
            return leaf
        least, most = leaf.min(1).values, leaf.max(1).values
        return torch.cat([torch.where(leaf[:, 0] == least, most, least)[:, None], leaf[:, 1:]], 1)

    return Inputs(*pytree.tree_map(changed, inputs.example))


def _tokens(inputs: Inputs) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(inputs.example) if _are_tokens(leaf)]


def _are_tokens(leaf: object) -> bool:
    """Whether a tensor is one of whole numbers for each of several places."""
    if not isinstance(leaf, Tensor) or leaf.dim() != 2 or leaf.shape[1] < 2:
        return False
    return not (leaf.is_floating_point() or leaf.is_complex() or leaf.dtype is torch.bool)
