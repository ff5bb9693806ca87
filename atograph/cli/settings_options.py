"""Options of a command made from the fields of the settings, and from the table of budgets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from atograph.passes.budgets.budget import BUDGETS
from atograph.passes.errors import UserError
from atograph.train.settings import TrainSettings
from atograph.train.settings.option import Shown, options_of

_INT8, _HALF = (f"It is made of a finished run: atograph export RUN --{kind}" for kind in ("int8", "fp16"))
_ELSEWHERE = {"int8": _INT8, "quantize": _INT8, "fp16": _HALF, "float16": _HALF, "half": _HALF}
"""An option of other tools → what to type here."""


class TakesSettings(TyperCommand):
    """A command with ``--set``: who writes a setting, or another command's option, as one of its own hears of it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            name = getattr(error, "option_name", "").lstrip("-").replace("-", "_")
            hint = _ELSEWHERE.get(name)
            if _is_setting(name):
                hint = f"It is a setting of the training: --set {name}=VALUE"
            if isinstance(error, typer.BadParameter) or not hasattr(error, "possibilities") or hint is None:
                raise
            vars(error).update(possibilities=None, message=f"No such option: --{name}. {hint}")
            raise


def _is_setting(name: str) -> bool:
    return name in TrainSettings.model_fields


def takes_settings(*names: str, budgets: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of the training's settings, in place of its parameter ``settings``.

    The command gets a dict as ``settings``: field or budget → what was given; what was not given is not in it.

    Args:
        names: of fields; none: all that are options.
        budgets: whether the budgets are options, too.
    """
    fields = [shown for shown in options_of(TrainSettings) if not names or shown.name in names]
    names_of_budgets = [name for name in BUDGETS if name not in TrainSettings.model_fields] if budgets else []
    options = [*map(_budget, names_of_budgets), *map(_option, fields)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: object) -> None:
            given = {option.name: values.pop(option.name) for option in options}
            command(settings={name: value for name, value in given.items() if value is not None}, **values)

        parameters = list(_typed(command))
        at = next(index for index, each in enumerate(parameters) if each.name == "settings")
        parameters[at : at + 1] = options
        vars(run).pop("__wrapped__")  # its parameters are others
        vars(run)["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
        return run

    return decorate


def _typed(command: Callable[..., None]) -> Iterator[inspect.Parameter]:
    """The parameters of a command, each with its type in place of its text."""
    types = get_type_hints(command, include_extras=True)
    for each in inspect.signature(command).parameters.values():
        yield each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=types[each.name])


def _budget(name: str) -> inspect.Parameter:
    try:
        text = BUDGETS.get(name).help
    except UserError as error:  # of a package that is broken: said in full where somebody asks for it
        text = error.message
    return _parameter(name, str, typer.Option(f"--{name.replace('_', '-')}", metavar="SHARE", help=text))


def _option(shown: Shown) -> inspect.Parameter:
    kind = list[str] if shown.kind is list else shown.kind
    option = typer.Option(shown.flag, metavar=shown.metavar, help=shown.help, show_default=False)
    return _parameter(shown.name, kind, option)


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )
