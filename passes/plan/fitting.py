"""The multiple of widths that suits a network, where none was asked for and nothing is measured."""

from __future__ import annotations

from typing import Literal

from atograph.passes.analysis.groups import Groups
from atograph.passes.budgets.budgets import Budgets
from atograph.passes.plan.least import fewest

Rounding = int | Literal["fit", "auto"]
"""What may be asked for: a multiple; the one that `fitting` finds; what is measured to be fastest."""

LARGEST = 16
"""Channels in a block of kernels with AVX-512 (NCHWc in ONNX Runtime); with AVX2, and in tensor cores, it is 8."""

_BLOCKS = 8
"""Whole blocks that the usual group has at least where widths are to be whole blocks."""

_STEPS = 16
"""Widths that the usual group keeps a choice of where it has fewer blocks: with fewer, what is left of a budget fills
no step, and kernels gain little by multiples that are no blocks."""

_CHOICES = 32
"""Steps that all groups of a network have together at least: with fewer, a budget may be missed by a layer's share."""


def fitting(groups: Groups, budgets: Budgets, floor: float) -> int:
    """The power of two, up to 16, that suits a network: whole blocks, or what leaves its groups a choice.

    It is 16 where the usual width, which half of all units are in groups of at least, is 128 or more, and at most a
    sixteenth of the usual width in narrower networks. So a wide network with a few narrow layers gets 16, and one of
    32 channels throughout gets 2. (Narrow groups take less by themselves: `Group.step`.) It is finer where a network
    has few groups, and where a budget would be out of reach.

    Args:
        groups: the program's groups.
        budgets: those that the plan is to meet.
        floor: share of each group that stays at least.
    """
    usual = _typical(groups)
    multiple = LARGEST
    while multiple > 1 and usual < (_BLOCKS if multiple == LARGEST else _STEPS) * multiple:
        multiple //= 2
    while multiple > 1 and not (_fills(groups, multiple) and _in_reach(groups, budgets, floor, multiple)):
        multiple //= 2
    return multiple


def _typical(groups: Groups) -> int:
    """The median over all prunable units of the sizes of their groups; those that are taken one by one do not count."""
    sizes = sorted(group.size for group in groups.prunable if not group.outer)
    below, half = 0, sum(sizes) / 2
    for size in sizes:
        below += size
        if below >= half:
            return size
    return 1


def _fills(groups: Groups, multiple: int) -> bool:
    """Whether there are enough steps to come near any budget."""
    return sum(group.size // group.step(multiple) for group in groups.prunable) >= _CHOICES


def _in_reach(groups: Groups, budgets: Budgets, floor: float, multiple: int) -> bool:
    smallest = budgets.kept(fewest(groups, floor, multiple))
    return all(float(share) <= budgets.shares[name] for name, share in smallest.items())
