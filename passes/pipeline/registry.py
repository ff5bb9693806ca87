"""Names of passes: ours, and those that other packages register under the entry-point group ``atograph.passes``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TypeAlias

from atograph.passes.base import Pass
from atograph.passes.errors import InternalError, UserError
from atograph.passes.public import public

Loader: TypeAlias = Callable[[], type[Pass]]

GROUP = "atograph.passes"

_OURS = {
    "functionalize": "rewrite.functionalize:Functionalize",
    "gather-shuffles": "rewrite.gather_shuffles:GatherShuffles",
    "infer-axes": "analysis.infer_axes:InferAxes",
    "find-groups": "analysis.groups:FindGroups",
    "couple-groups": "analysis.couple_groups:CoupleGroups",
    "estimate-cost": "cost.cost:EstimateCost",
    "plan-random": "plan.choose:PlanRandom",
    "plan-magnitude": "plan.choose:PlanMagnitude",
    "slim": "rewrite.slim:Slim",
}


def _loader(target: str) -> Loader:
    module, name = target.split(":")
    return lambda: getattr(import_module(f"atograph.passes.{module}"), name)


_loaders: dict[str, Loader] = {name: _loader(target) for name, target in _OURS.items()}


@public("atograph.passes")
def register(name: str, loader: Loader) -> None:
    """Add a pass under a name.

    Raises:
        InternalError: the name is taken.
    """
    if name in _loaders:
        raise InternalError(f"two passes are called '{name}'.")
    _loaders[name] = loader


@cache
def _load_entry_points() -> None:
    for point in entry_points(group=GROUP):
        register(point.name, point.load)


def pass_names() -> list[str]:
    """Every known pass, ours first."""
    _load_entry_points()
    return list(_loaders)


def pass_class(name: str) -> type[Pass]:
    """The class of a pass.

    Raises:
        UserError: no pass has this name, or what is registered under it is no pass.
    """
    known = pass_names()
    if name not in known:
        raise UserError(f"there is no pass '{name}'.", hint=f"Known passes: {', '.join(known)}.")
    found = _loaders[name]()
    if not (isinstance(found, type) and issubclass(found, Pass)) or found.name != name:
        raise UserError(f"what is registered as the pass '{name}' is not a Pass of that name.")
    return found
