"""Shares as people write them: 0.3, 30%, and what is none."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from numbers import Real

from atograph.passes.errors import UserError


def share_of(given: object, option: str) -> float:
    """A budget as a number: the share of the dense model's that is kept.

    ``0.3`` and ``"30%"`` are the same; so is ``"0,3"``, as many languages write it.

    Args:
        given: a number or a text.
        option: how it was asked for, for errors: ``--flops``, or ``flops`` in Python.

    Raises:
        UserError: it is none from above 0 to 1.
    """
    value = number_of(given)
    example = f"{option} 0.3 keeps 30 % and removes 70 %." if option.startswith("-") else f"{option}=0.3 keeps 30 %."
    if value is None:
        raise UserError(f"{option} {given} is no number: it is the share to keep, above 0 and at most 1.", hint=example)
    if not 0 < value <= 1:  # false for NaN
        said = given if isinstance(given, str) else f"{value:g}"
        if 1 < value <= 100 and isfinite(value):
            example = f"{value:g} % is {value / 100:g}: {example}"
        raise UserError(
            f"{option} {said} is out of range: it is the share to keep, above 0 and at most 1.", hint=example
        )
    return value


def shares_of(given: object, option: str) -> tuple[float, ...]:
    """One budget or several, as `share_of` reads each: ``"0.7,0.5,0.3"``; a list or tuple in Python.

    A single comma is a decimal one (``"0,3"``, ``"30,5%"``), unless there is a point, or a percent sign before it.

    Raises:
        UserError: one is no share, or is there twice.
    """
    parts: Sequence[object] = given if isinstance(given, (list, tuple)) else (given,)
    if isinstance(given, str) and (given.count(",") > 1 or ("," in given and _no_decimals(given))):
        parts = given.rstrip(", ").split(",")
    shares = tuple(share_of(part, option) for part in parts)
    if len({*shares}) < len(shares) or not shares:
        raise UserError(f"{option} names a budget twice, or none.", hint=f"{option} 0.7,0.5,0.3 goes down a ladder.")
    return shares


def _no_decimals(text: str) -> bool:
    """Whether the comma of a text stands between numbers, and not within one."""
    return "." in text or "%" in text.partition(",")[0]


DEPTH = 0.5
"""How much of what is saved whole branches give, where nothing else is said."""


def depth_of(given: object) -> float | None:
    """How much of what is saved whole branches are to give: a share, or True for `DEPTH`; None for no branches at all.

    Raises:
        UserError: it is no share from 0 to 1.
    """
    if isinstance(given, bool):
        return DEPTH if given else None
    value = number_of(given)
    if value is None or not 0 <= value <= 1:
        raise UserError(
            f"depth={given} is no share from 0 to 1.", hint="It is how much of what is saved goes as whole branches: "
            f"depth=True is {DEPTH:g}.",
        )  # fmt: skip
    return value


def number_of(given: object) -> float | None:
    """The number that a value or a text is; None for anything else."""
    if isinstance(given, bool) or not isinstance(given, (Real, str)):
        return None
    if not isinstance(given, str):
        return float(given)
    text = given.strip()
    percent = text.endswith("%")
    text = text.removesuffix("%").strip()
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        return float(text) / (100 if percent else 1)
    except ValueError:
        return None
