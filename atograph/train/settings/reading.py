"""Settings from what a user gave, and what is said of those that do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from atograph.passes.budgets.budget import BUDGETS
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.errors import UserError
from atograph.train.settings.fields import TrainSettings
from atograph.train.settings.given import DECLARED, SAYS_WHAT_GOES
from atograph.train.settings.method_table import DEFAULT_METHOD, METHODS, OF_ATO


def settings_of(
    values: Mapping[str, Any], method: str = DEFAULT_METHOD, *, beside: Iterable[str] = ()
) -> TrainSettings:
    """Settings from values that a user gave.

    Args:
        values: fields of `TrainSettings`, or of the settings of the method that ``method`` names: one of the table of
            methods, or a criterion by which the initial weights are pruned at once. Other values override what that
            sets.
        method: of values that name none, and hold no setting that only ``ato`` has.
        beside: other names that one may have meant, where there is no such setting.

    Raises:
        UserError: naming the first setting that does not exist or does not fit.
    """
    values = dict(values)
    for old in RENAMED.keys() & values.keys():
        raise UserError(f"there is no training setting {old!r} any more.", hint=RENAMED[old])
    for other in ELSEWHERE.keys() & values.keys():
        raise UserError(f"there is no training setting {other!r}.", hint=ELSEWHERE[other])
    for key in ("method", "prior"):
        if isinstance(given := values.get(key), type) and hasattr(given, "importance"):
            raise UserError(
                f"{key} takes the name of a criterion, not its class.",
                hint=f"Put @criterion above {given.__name__}, and give {key}={getattr(given, 'name', 'NAME')!r}.",
            )
    declared_alone = _only_declared(values)
    usual = "at-once" if declared_alone else method
    values.setdefault("method", usual if values.keys().isdisjoint(OF_ATO) else "ato")
    name = values["method"]
    if not isinstance(name, str) or name not in (*METHODS, *CRITERIA):
        known = f"{', '.join(METHODS)}, or a criterion: {', '.join(CRITERIA)}"
        near = get_close_matches(str(name), [*METHODS, *CRITERIA], n=2)
        perhaps = f"Perhaps {' or '.join(near)}? " if near else ""
        raise UserError(f"there is no method {name!r}.", hint=f"{perhaps}There are: {known}. {OWN}")
    if name not in METHODS:
        if values.get("prior", name) != name:
            raise UserError(
                f"the method {name!r} prunes by that criterion, and prior={values['prior']!r} names another.",
                hint="Give one of them; method='at-once' takes the prior.",
            )
        values |= {"prior": name, "method": "at-once"}
    if declared_alone and values["method"] == "at-once":
        values = {"prior": "magnitude", "epochs": 0, **values}  # nothing is pruned, so nothing has to recover
    chosen = METHODS.get(values["method"])
    kind: type[TrainSettings] = chosen.settings
    values = {**chosen.presets, **values}
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        place = str(first["loc"][0]) if first["loc"] else ""
        about = [
            each for each in error.errors() if each["loc"][:1] == first["loc"][:1]
        ]  # of "this or that" one for each
        if first["type"] == "extra_forbidden":
            near = get_close_matches(place, [*beside, *BUDGETS, *kind.model_fields], n=3)
            hint = f"Perhaps {', '.join(near)}? " if near else ""
            owners = [name for name in METHODS if place in METHODS.get(name).settings.model_fields]
            if owners:
                what = f"the method {chosen.name} has no setting {place!r}, which {' and '.join(owners)} has"
                raise UserError(f"{what}.", hint=f"Leave it out, or give method={owners[0]}.") from error
            raise UserError(f"there is no training setting {place!r}.", hint=f"{hint}{LISTED}") from error
        if first["type"] == "value_error":
            message = ", or: ".join(each["msg"].removeprefix("Value error, ") for each in about).rstrip(".")
            raise UserError(
                f"training setting {place}: {message}." if place else f"training settings: {message}."
            ) from error
        expected = " or ".join(dict.fromkeys(map(_expected, about)))
        raise UserError(
            f"training setting {place}: expected {expected}, got {first['input']!r}.",
            hint=_example(kind, place, expected),
        ) from error


def _only_declared(values: Mapping[str, Any]) -> bool:
    """Whether experts or tokens go, and nothing else."""
    given = {name for name, value in values.items() if value not in (None, (), [], {})}
    return not given.isdisjoint(DECLARED) and given.isdisjoint({*BUDGETS, "budgets", *SAYS_WHAT_GOES} - DECLARED)


OWN = "One of your own is registered where the SPEC is imported, or by a package: docs/write-a-criterion.md."
"""Where a name of a criterion or method comes from."""

LISTED = "docs/settings.md tells of those that matter, and atograph/train/settings/fields.py lists them all."
"""Where they are listed."""

RENAMED = {
    "freeze": "Layers that keep their widths are freeze_layers (--freeze GLOB); the moment from which on the mask of "
    "method=ato is final is search_end.",
    "lambda_freeze": "It is lambda_search_end.",
}
"""Former names, and what to write in their place."""

_CRITERION = "A criterion is named by method= (it prunes at once) or by prior= (step by step); in plan() it is by=."
ELSEWHERE = {"by": _CRITERION, "criterion": _CRITERION}
"""What one would look for here, and what it is called."""

_KINDS = {
    "float": "a number", "finite": "a finite number", "int": "a whole number", "bool": "true or false",
    "string": "a text", "tuple": "a list of names",
}  # fmt: skip


def _expected(error: Mapping[str, Any]) -> str:
    """What would have been right, of an error of pydantic: ``a whole number``, ``a value greater than 0``."""
    kind = _KINDS.get(error["type"].partition("_")[0])
    if kind is not None:
        return kind
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return text if error["type"] == "literal_error" else f"a value {text}"


def _example(kind: type[TrainSettings], name: str, expected: str) -> str | None:
    """How one writes it: with its default, or else a value of its kind: the field's own example, if it has one."""
    field = kind.model_fields[name]
    default = field.examples[0] if field.examples else field.default
    if isinstance(default, tuple):
        return f'In Python: {name}=["stem"].'
    if default is None:
        number = 0.1 if "float" in str(field.annotation) else 10
        default = expected.split(" ")[-1].strip("'") if "'" in expected else number
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return f"An example: --set {name}={text}, in Python {name}={default!r}."


def needs_data(settings: TrainSettings) -> bool:
    """Whether a run reads training batches."""
    if settings.epochs > 0:
        return True
    return settings.prior != "none" and CRITERIA.get(settings.prior).observes() is not None
