"""Other forms of a module's ``forward``, and the widths that only they read.

Detectors keep ``forward_split`` or ``forward_fuse`` beside ``forward`` and take it for export or after fusing. The
traced run does not get there, so an attribute that only this form reads keeps its old width. Such a form gives what
``forward`` gives, which is how it is told apart, and how a repair of it is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
from torch import nn

from atograph.passes.ir.interface import Example
from atograph.values.difference import alike, tolerance
from atograph.values.eval_mode import eval_mode, same_buffers
from atograph.values.resized import less_of
from atograph.values.structures import tensors_of

_MOST = 32
"""Values that are tried for one module at most."""


@dataclass(frozen=True)
class _Run:
    """One call of a module: what it took, the tensors that it gave, and the forms that its ``forward`` called itself:
    these are parts of it, which the traced run has shown."""

    args: tuple[object, ...]
    kwargs: dict[str, object]
    results: list[torch.Tensor]
    called: frozenset[str]


def repair_other_forwards(model: nn.Module, module: nn.Module, example: Example, whole: Example) -> tuple[str, ...]:
    """Set the widths that only other forms of ``forward`` read.

    Args:
        model: the dense module.
        module: the slim one, which is repaired already; more of its attributes may be set.
        example: what the slim one is run with.
        whole: what the dense one is run with.

    Returns:
        In words, what was set, and which forms do not fit.
    """
    if not any(_forms(part) for part in model.modules()):
        return ()
    inputs, before = _dense_runs(model, example, whole)
    forms, notes = list(_same_forms(model, before)), list[str]()
    after = _runs(module, inputs) if forms else {}
    for name, form in forms:
        if name not in after:
            continue
        part = module.get_submodule(name)
        values = _fitting(form, model.get_submodule(name), part, after[name])
        if values is None:
            notes.append(f"{_within(name, form)} does not fit the slim widths; forward does")
            continue
        for attribute, value in values.items():
            notes.append(f"{_within(name, attribute)}: {getattr(part, attribute)} → {value} (for {form})")
            setattr(part, attribute, value)
    return tuple(notes)


def _within(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name


def _forms(module: nn.Module) -> list[str]:
    """The methods beside ``forward`` that may be another form of it."""
    if type(module).__module__.partition(".")[0] == "torch":
        return []
    return [name for name in dir(type(module)) if name.startswith("forward_") and callable(getattr(module, name))]


def _dense_runs(model: nn.Module, example: Example, whole: Example) -> tuple[Example, dict[str, _Run]]:
    """What the slim model is to be run with, and the runs of the dense one with that: less than the example, if so."""
    for less in less_of(whole) if whole is example else ():
        with suppress(Exception):  # it takes no such images
            return less, _runs(model, less)
    return example, _runs(model, whole)


def _runs(model: nn.Module, example: Example) -> dict[str, _Run]:
    """The first call of each module that has other forms which it does not call itself, by its name."""
    parts = {name: part for name, part in model.named_modules() if _forms(part)}
    names = {id(part): name for name, part in parts.items()}
    runs: dict[str, _Run] = {}
    called: dict[str, set[str]] = {name: set() for name in parts}

    def note(part: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], result: object) -> None:
        if names[id(part)] not in runs:
            runs[names[id(part)]] = _Run(args, kwargs, tensors_of(result), frozenset(called[names[id(part)]]))

    with eval_mode(model), same_buffers(model), torch.no_grad(), ExitStack() as undone:
        for name, part in parts.items():
            undone.callback(part.register_forward_hook(note, with_kwargs=True).remove)
            for form in _forms(part):
                if form not in vars(part):
                    vars(part)[form] = _noting(getattr(part, form), form, called[name])
                    undone.callback(vars(part).pop, form)
        model(*example[0], **example[1])
    return {name: run for name, run in runs.items() if not run.called.issuperset(_forms(parts[name]))}


def _noting(method: Callable[..., object], form: str, called: set[str]) -> Callable[..., object]:
    def noted(*args: object, **kwargs: object) -> object:
        called.add(form)
        return method(*args, **kwargs)

    return noted


def _same_forms(model: nn.Module, runs: Mapping[str, _Run]) -> Iterator[tuple[str, str]]:
    """Modules by name, with each other form of their ``forward`` that gives the same."""
    with eval_mode(model), same_buffers(model), torch.no_grad():
        for name, run in runs.items():
            part = model.get_submodule(name)
            yield from ((name, form) for form in _forms(part) if form not in run.called and _agrees(part, form, run))


def _agrees(part: nn.Module, form: str, run: _Run) -> bool:
    try:
        results = tensors_of(getattr(part, form)(*run.args, **run.kwargs))
    except Exception:
        return False
    return bool(results) and alike(run.results, results, tolerance(run.results, finest=torch.float32))


def _fitting(form: str, dense: nn.Module, part: nn.Module, run: _Run) -> dict[str, int] | None:
    """The attributes to set so that another form of a module's ``forward`` gives the same; None if there are none."""
    with eval_mode(part), same_buffers(part), torch.no_grad():  # afterwards it holds what it held before
        if _agrees(part, form, run):
            return {}
        for values in _candidates(dense, part):
            old = {attribute: getattr(part, attribute) for attribute in values}
            vars(part).update(values)
            if _agrees(part, form, run) and _agrees(part, "forward", run):
                return values
            vars(part).update(old)
    return None


def _candidates(dense: nn.Module, part: nn.Module) -> Iterator[dict[str, int]]:
    """New values for integers of a module that still are a width of the dense one: each by itself, then all at once."""
    sizes: dict[int, set[int]] = {}
    slim = dict(part.named_parameters())
    for name, parameter in dense.named_parameters():
        for old, new in zip(parameter.shape, slim[name].shape, strict=True):
            sizes.setdefault(old, set()).add(new)
    halves = {old // n: {new // n for new in each if new % n == 0} for old, each in sizes.items() for n in (2, 3, 4)}
    wishes = {
        attribute: sorted(({*sizes.get(value, ()), *halves.get(value, ())}) - {value})
        for attribute, value in vars(part).items()
        if type(value) is int and value == getattr(dense, attribute, None)
    }
    singles = [{attribute: value} for attribute, values in wishes.items() for value in values]
    yield from singles[:_MOST]
    together = {attribute: values[0] for attribute, values in wishes.items() if len(values) == 1}
    if len(together) > 1:
        yield together
