"""Whether a model computes the same each time, as the slim one will: it is called twice, and compared with its program.

Random numbers, clocks, counters and files read in ``forward`` are no part of a program, or make it another one at each
run; a proof about such a model would say nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from atograph.capture.time_limit import within_limit
from atograph.passes.errors import UserError
from atograph.passes.ir.outputs import OutputPath
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import random_ops
from atograph.passes.ir.run import ProgramModule
from atograph.spec.example_inputs import Inputs
from atograph.train.saved.seeding import order_kept, random_state
from atograph.values.difference import TOLERANCES, relative_difference
from atograph.values.eval_mode import eval_mode
from atograph.values.structures import copied, tensors_of

TOLERANCE, REPEATED = TOLERANCES[torch.float32], 1e-5
"""Largest relative difference between the model and its program in float32, and between two runs of the model."""

_SHOWN, _TRIES = 3, 8
_TABLES = set(vars(nn.Module()))
"""The attributes that every module has."""


def check_steady(model: nn.Module, inputs: Inputs, program: Program, *, where: str) -> list[str]:
    """Make sure that a model in eval mode is a function of its inputs and weights, the one that was captured.

    The model, its code's variables and all generators of random numbers are left as they were; only parameters that
    ``forward`` itself changes are not put back.

    Args:
        model: that can be called with ``inputs``.
        inputs: example inputs.
        program: what was captured of it.
        where: what a refusal is about.

    Returns:
        What ``forward`` changes each time it is called, though its outputs do not show it: names of attributes, buffers
        and variables.

    Raises:
        UserError: it gives something else the second time, or than the program gives.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with order_kept(()), eval_mode(model), torch.no_grad():
        try:
            random = random_state(())
            left_out = program.interface.left_out.values()
            first = _outputs(model, inputs, left_out)
            drawn = _drawn(random, random_state(()))
            before = dict(_held(model))
            # which way a coin decides may be the same twice
            again = max(_difference(first, _outputs(model, inputs, left_out)) for _ in range(_TRIES if drawn else 1))
            changed = [name for name, token in _held(model) if not _same(token, before.get(name))] + drawn
            captured = _difference(first, _outputs(ProgramModule(program), inputs))
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)
    if again > REPEATED:
        what = f"does not compute the same twice: in eval mode its outputs differ by {again:.1e} (relative)"
    elif captured > TOLERANCE:
        what = (
            f"computes something else than what was captured of it: their outputs differ by {captured:.1e} (relative)"
        )
    elif any(random_ops(program)):
        what = "does not always compute the same in eval mode, though it did twice"
    else:
        return changed
    raise UserError(
        f"the model {what}; {_cause(program, changed)}.",
        where=where,
        hint="In eval mode it has to be a function of its inputs and weights: draw random numbers, and count, only "
        "if self.training.",
    )


def _cause(program: Program, changed: list[str]) -> str:
    drawn = list(random_ops(program))
    causes = [
        *([f"it draws random numbers: {listed(drawn)}"] if drawn else []),
        *([f"each call changes {listed(changed)}"] if changed else []),
    ]
    return "; ".join(causes) or "it may read a clock or a file"


def _drawn(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The generators that have moved on."""
    found = ["the state of Python's random"] if before["python"] != after["python"] else []
    if "numpy" in before:  # the name of the generator, its numbers, and where it is among them
        (_, numbers, *where), (_, numbers_after, *where_after) = before["numpy"], after["numpy"]
        if where != where_after or not torch.equal(numbers, numbers_after):
            found.append("the state of numpy.random")
    return found


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _outputs(model: nn.Module, inputs: Inputs, left_out: Collection[OutputPath] = ()) -> list[torch.Tensor]:
    args, kwargs = copied(inputs.example)
    with within_limit(model, "a call of the model"):
        return [value.clone() for value in tensors_of(model(*args, **kwargs), left_out)]


def _difference(references: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    if [value.shape for value in references] != [value.shape for value in others]:
        return float("inf")
    pairs = zip(references, others, strict=True)
    return max((relative_difference(one, other) for one, other in pairs), default=0.0)


def _held(model: nn.Module) -> Iterator[tuple[str, tuple[object, ...]]]:
    """What the modules, and the files that define them, hold: a token for each name that changes with it."""
    files = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in _TABLES:
                yield f"{path}.{name}".lstrip("."), _token(value)
        for name, tensor in (*module.named_buffers(recurse=False), *module.named_parameters(recurse=False)):
            yield f"{path}.{name}".lstrip("."), _token(tensor)
        own = type(module).__module__
        if own.partition(".")[0] != "torch" and own in sys.modules:
            files[own] = sys.modules[own]
    for own, file in files.items():
        for name, value in list(vars(file).items()):
            yield f"{own}.{name}", _token(value)


def _token(value: Any) -> tuple[object, ...]:
    if isinstance(value, torch.Tensor):
        return (value, 0 if value.is_inference() else value._version)
    if type(value) is dict:
        return (value, *value.keys(), *value.values())
    return (value, *value) if type(value) in (list, set) else (value,)


def _same(token: tuple[object, ...], before: tuple[object, ...] | None) -> bool:
    if before is None or len(token) != len(before):
        return False
    return all(one is other or (type(one) is int and one == other) for one, other in zip(token, before, strict=True))
