"""Values of settings in each form that people give them in, and the types that read these."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from atograph.passes.cost.share import number_of
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.errors import UserError
from atograph.train.settings.method_table import METHODS
from atograph.values.dynamic_sizes import texts_of
from atograph.values.state_texts import state_texts


def floors_by_layer(values: dict[str, Any]) -> dict[str, Any]:
    """``floor="0.1,backbone.c2=0.5"`` as a floor for all groups, and widths that are at least so much."""
    given = values.get("floor")
    if not isinstance(given, str) or "=" not in given:
        return values
    parts = [part.strip() for part in given.split(",")]
    own = [part for part in parts if "=" not in part]
    rest = {name: value for name, value in values.items() if name != "floor"}
    width = rest.get("width") or ()
    listed = (width,) if isinstance(width, str) else tuple(width)
    layers = tuple(f"{part}.." for part in parts if "=" in part)
    return {**rest, **({"floor": own[0]} if own else {}), "width": (*layers, *listed)}


def _number(given: object) -> object:
    """``5%`` and ``0,05`` as the number that they are."""
    value = number_of(given)
    return given if value is None else value


def _pairs(given: object) -> object:
    """Each ``A=B`` as a pair."""
    if not isinstance(given, (list, tuple)):
        return given
    texts = [each for each in given if isinstance(each, str)]
    for text in texts:
        if not all(text.partition("=")):
            raise ValueError(f"'{text}' is not of the form A=B")
    return tuple(
        tuple(part.strip() for part in each.split("=", 1)) if isinstance(each, str) else each for each in given
    )


def _one_or_more(given: object) -> object:
    """A lone name as a list of one."""
    return (given,) if isinstance(given, str) else given


def _sizes(given: Any) -> object:
    """What is dynamic, in any form that `trace` takes, as texts."""
    try:
        return _listed(texts_of(given))
    except UserError as error:
        raise ValueError(error.message) from error


def _state(given: Any) -> object:
    """What is state, in any form that `trace` takes, as texts."""
    try:
        return state_texts(given)
    except UserError as error:
        raise ValueError(error.message) from error


def _tokens(given: object) -> object:
    """The path of a file as text, and numbers as a tuple."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        return str(given) if isinstance(given, Path) else given
    return tuple(int(token) for token in given)


def _pipeline(given: object) -> object:
    """Passes in either form that `trace` takes, as text."""
    return str(given) if hasattr(given, "passes") else given


def _listed(given: object) -> object:
    """``A,B`` as two names, and positions as names."""
    each = given if isinstance(given, (list, tuple)) else (given,)
    if not all(type(name) in (str, int) for name in each):
        return given
    return tuple(part.strip() for name in each for part in str(name).split(","))


def _prior(name: str) -> str:
    """A criterion of the table, or none."""
    if name != "none" and name not in CRITERIA:
        raise ValueError(f"a criterion, one of {', '.join(CRITERIA)}, or none")
    return name


def _method(name: str) -> str:
    """A method of the table."""
    if name not in METHODS:
        raise ValueError(f"a method, one of {', '.join(METHODS)}")
    return name


Fraction = Annotated[float, Field(ge=0.0, le=1.0), BeforeValidator(_number)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]
Pairs = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)]
Listed = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Sizes = Annotated[tuple[str, ...], BeforeValidator(_sizes)]
State = Annotated[tuple[str, ...], BeforeValidator(_state)]
Tokens = Annotated[str | tuple[int, ...] | None, BeforeValidator(_tokens)]
Pipeline = Annotated[str, BeforeValidator(_pipeline)]
Method = Annotated[str, AfterValidator(_method)]
Prior = Annotated[str, AfterValidator(_prior)]

DECLARED = frozenset({"experts", "keep_tokens"})
"""The settings that change what the model means; alone they train nothing."""

SAYS_WHAT_GOES = ("drop", *sorted(DECLARED))
"""The settings that need no budget beside them: without one nothing else is cut."""
