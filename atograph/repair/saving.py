"""A slim model that no configuration describes is not saved as if one did.

``from_pretrained`` of transformers and its like makes a model from the configuration that ``save_pretrained`` wrote.
Where that says other widths, or computes something else at these widths, ``save_pretrained`` refuses instead. Layers
that compute nothing are not saved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from fractions import Fraction
from functools import partial
from inspect import signature
from typing import Any, NoReturn

import torch
from torch import nn

from atograph.passes.errors import UserError
from atograph.repair.calls.corrections import is_corrected
from atograph.repair.config import configured_parts, fit_config, follow_config, in_both, shapes_of
from atograph.repair.config_fields import set_field

SAVING = ("save_pretrained", "push_to_hub")
"""The methods that write a model with its configuration."""

Gone = Mapping[str, tuple[int, ...]]
"""Path of a list of layers → which of them compute nothing."""


class Refusal:
    """Stands in the place of ``save_pretrained`` and ``push_to_hub``; it is copied and pickled with the module.

    Args:
        kind: the class of the module.
        why: why no configuration describes it.
    """

    def __init__(self, kind: str, why: str) -> None:
        self.kind, self.why = kind, why

    def __call__(self, *_args: object, **_kwargs: object) -> NoReturn:
        """Refuse."""
        raise UserError(
            f"this slim {self.kind} cannot be saved with save_pretrained, because no configuration describes it: "
            f"{self.why}. What from_pretrained made of the files would be another model.",
            hint="slim.save(folder) writes the slim program, its weights and the plan; torch.save(module, path) writes "
            "the module. A configuration has one number for all layers: plans with uniform=True keep what it can say, "
            'and leave whole what it cannot. A Trainer that trains this module takes save_strategy="no".',
        )


class SavedShorter:
    """Stands in their place where layers of a slim module compute nothing; copied and pickled with it.

    Args:
        module: the slim module.
        name: which of the two.
        fields: of its configuration what is another one with fewer layers.
        gone: the layers that are not saved.
    """

    def __init__(self, module: nn.Module, name: str, fields: Mapping[str, object], gone: Gone) -> None:
        self._module, self._name, self._fields, self._gone = module, name, fields, gone

    def __call__(self, *args: object, **kwargs: object) -> object:
        """As transformers' own method, of a model without the layers that are gone.

        Raises:
            UserError: the module has other weights by now than a model of its configuration.
        """
        module, kind = self._module, type(self._module)
        called = signature(getattr(kind, self._name)).bind(module, *args, **kwargs)
        state = called.arguments.pop("state_dict", None) or module.state_dict()
        config = deepcopy(module.config)
        for field, value in self._fields.items():
            set_field(config, field, value)
        with torch.device("meta"):  # the weights are there, in the types that they have; nothing is drawn
            shorter: Any = kind(config)
        weights = {new: value for name, value in state.items() if (new := renamed(name, self._gone))}
        try:
            missing = shorter.load_state_dict(weights, strict=False, assign=True)
        except RuntimeError as error:
            raise _other_weights(kind, str(error)) from error
        shorter.tie_weights()
        lacking = [name for name in missing.missing_keys if shorter.state_dict()[name].is_meta]
        if lacking or missing.unexpected_keys:
            raise _other_weights(kind, ", ".join([*lacking, *missing.unexpected_keys][:3]))
        if hasattr(module, "generation_config"):
            shorter.generation_config = deepcopy(module.generation_config)
        return getattr(shorter, self._name)(*called.args[1:], **called.kwargs)


def _other_weights(kind: type[nn.Module], what: str) -> UserError:
    return UserError(
        f"this slim {kind.__name__} is saved without the layers that compute nothing, and its weights are not those "
        f"of a model of its configuration: {what}.",
        hint="Save it before its parts are exchanged, or with torch.save(module, path).",
    )


def renamed(name: str, gone: Gone) -> str:
    """The name of a weight once layers are gone; empty if it goes with one of them."""
    for path, places in gone.items():
        if match := re.match(rf"{re.escape(path)}\.(\d+)(?=\.)", name):
            place = int(match[1])
            before = sum(each < place for each in places)
            return "" if place in places else f"{path}.{place - before}{name[match.end() :]}"
    return name


def refuse_saving(dense: nn.Module, module: nn.Module, why: str, but: Collection[str] = ()) -> None:
    """Have ``save_pretrained`` refuse, in a slim module and in its parts that have one.

    Args:
        dense: the dense module; parts that are as they are there stay as they are.
        module: the slim module.
        why: why no configuration describes it.
        but: names of parts that are left alone, with all that is in them.
    """
    for name, part, before in in_both(module, dense):
        if any(name == each or name.startswith(f"{each}.") for each in but):
            continue
        saving = [each for each in SAVING if callable(getattr(type(part), each, None))]
        if saving and (shapes_of(part) != shapes_of(before) or any(is_corrected(each) for each in part.modules())):
            refusal = Refusal(type(part).__name__ + (f" ({name})" if name else ""), why)
            vars(part).update(dict.fromkeys(saving, refusal))


def allow_saving(module: nn.Module) -> None:
    """Let it save again what a configuration describes: a module that was made slim twice."""
    for part in module.modules():
        for name in SAVING:
            if isinstance(vars(part).get(name), (Refusal, SavedShorter)):
                del vars(part)[name]


def why_unsaved(module: nn.Module) -> str:
    """Why ``save_pretrained`` refuses a slim module; empty where it does not, or where there is none."""
    refusal = next((vars(part)[name] for part in module.modules() for name in SAVING if name in vars(part)), None)
    return refusal.why if isinstance(refusal, Refusal) else ""


def say_in_configuration(
    dense: nn.Module,
    module: nn.Module,
    same: Callable[[nn.Module], bool],
    ratios: Collection[Fraction] = (),
    odd: str = "",
) -> tuple[str, ...]:
    """Set the numbers of configurations that say what a slim module is; where none do, ``save_pretrained`` refuses.

    A model may be one that is made from a configuration, or hold some: each of these is looked at by itself.

    Args:
        dense: the dense module.
        module: the slim one.
        same: whether a module computes what the slim one does.
        ratios: as for `fit_config`.
        odd: why no configuration says it, where that is known; empty where it is not.

    Returns:
        In words, what was set.
    """
    allow_saving(module)
    words, parts, whole = list[str](), dict(configured_parts(dense)), "it is made without a configuration"
    for path, part in parts.items():
        own = module.get_submodule(path)
        fit = odd or fit_config(part, own, partial(_same, module, path, same), ratios)
        if isinstance(fit, str):
            whole = fit
            refuse_saving(part, own, fit)
            continue
        prefix = f"{path}." if path else ""
        words += [prefix + word for word in follow_config(part, own, fit)]
    if "" not in parts:
        refuse_saving(dense, module, odd or whole, but=parts)
    return tuple(words)


def _same(module: nn.Module, path: str, same: Callable[[nn.Module], bool], fresh: nn.Module) -> bool:
    """Whether a module computes the same with another one as a part of it."""
    if not path:
        return same(fresh)
    with _in_place_of(module, path, fresh):
        return same(module)


@contextmanager
def _in_place_of(module: nn.Module, path: str, part: nn.Module) -> Iterator[None]:
    outer, _dot, name = path.rpartition(".")
    holder = module.get_submodule(outer)
    before = getattr(holder, name)
    setattr(holder, name, part)
    try:
        yield
    finally:
        setattr(holder, name, before)
