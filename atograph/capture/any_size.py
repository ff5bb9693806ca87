"""How a model is captured: recorded if that goes, by torch.export if not; at as many sizes as can be had."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from itertools import product
from typing import TypeAlias

from torch import fx, nn

from atograph.capture.by_sizes.dynamic import Wishes, with_batch_elsewhere
from atograph.capture.exporting import exported, exported_at_sizes, looks_at_values
from atograph.capture.recording.recorder import LooksAtValues, NotAligned, NotTraced, NotUniform, Unfollowed
from atograph.capture.tracing import record_program
from atograph.passes.errors import AtographError, UserError
from atograph.passes.ir.interface import A_SIZE_LIKE_OTHERS, DynamicSize, Example
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import random_ops
from atograph.passes.ir.run import ProgramModule
from atograph.passes.ir.sizes import is_dynamic
from atograph.passes.torch_private import FakeTensor
from atograph.values.batch_size import batch_of
from atograph.values.difference import largest_difference
from atograph.values.eval_mode import unchanged
from atograph.values.resized import resized
from atograph.values.structures import copied, tensors_of

_COARSER = (32, 16, 8, 4, 2)
"""What sizes may be multiples of where not all of them get the same ops, as networks with strides do."""

_ROOMY = 8
"""So many multiples in the example leave room for points on both sides."""

_ROUNDING = 1e-3
"""How far a program that decides by values may be from the model for the example, relative to the largest number."""

Finish: TypeAlias = Callable[[Program], Program]
"""What makes a program functional."""


def captured(model: nn.Module, inputs: Example, repeated: Example, wishes: Wishes, finish: Finish) -> Program:
    """The program of a model, which says of each size that was to be dynamic whether it is, or why not.

    Args:
        model: in eval mode.
        inputs: of the example.
        repeated: the same with a batch of two or more.
        wishes: which sizes are to be dynamic.
        finish: makes a program functional.

    Raises:
        UserError: it cannot be captured.
        Unfollowed: it cannot be followed by any means.
    """
    program = _captured(model, inputs, repeated, wishes, finish)
    if program.interface.fixed and wishes.batch:
        program = _with_batch_elsewhere(model, inputs, wishes, finish) or program
    asked_from_one = {size.name for size in wishes.sizes if size.least == 1}
    for size in program.interface.dynamic:
        if size.least == 2 and size.name in asked_from_one:
            _try_one(program, size, model, repeated)
    return program


def _with_batch_elsewhere(model: nn.Module, inputs: Example, wishes: Wishes, finish: Finish) -> Program | None:
    """The program of a model whose batch is a size like others, since it is not first in every input; None if none."""
    for tried in with_batch_elsewhere(wishes, inputs, batch_of(inputs)):
        try:
            try:
                program = finish(_recorded(model, inputs, tried))
            except NotAligned as reason:
                program = _at_other_sizes(model, inputs, tried, finish, str(reason))
            except LooksAtValues:
                decided = _decided(model, inputs, inputs, tried, finish)
                if decided is None:
                    continue
                program = decided
        except (NotTraced, AtographError):
            continue
        if tried.sizes[0].name in {size.name for size in program.interface.dynamic}:
            program.interface = replace(program.interface, fixed=A_SIZE_LIKE_OTHERS)
            return program
    return None


def _try_one(program: Program, size: DynamicSize, model: nn.Module, inputs: Example) -> None:
    """Let a size begin with 1 where the model calls other ops there, and the program gives the same all the same.

    A decoder makes no mask for a single token, say.
    """
    interface, values = program.interface, program.state.values()
    if any(random_ops(program)) or any(value.is_meta or isinstance(value, FakeTensor) for value in values):
        return  # nobody knows of chance, and without weights
    from_one = replace(size, least=1, why=size.why if size.most is not None else "")
    dynamic = tuple(from_one if each is size else each for each in interface.dynamic)
    program.interface = replace(interface, dynamic=dynamic)
    try:
        sizes = {each.name: each.values[0] for each in dynamic if not each.parts} | {size.name: 1}
        args, kwargs = resized(inputs, program.interface, sizes | program.interface.sums(sizes))
        if _gives_the_same(program, model, (args, kwargs)):
            return
    except Exception:  # the model takes no such size, or the program
        pass
    program.interface = interface


def _captured(model: nn.Module, inputs: Example, repeated: Example, wishes: Wishes, finish: Finish) -> Program:
    try:
        return finish(_recorded(model, repeated, wishes))
    except NotAligned as reason:
        return _at_other_sizes(model, repeated, wishes, finish, str(reason))
    except Unfollowed:
        raise
    except (NotTraced, AtographError) as reason:
        printed = io.StringIO()  # what torch.export says of a refusal
        try:
            with redirect_stderr(printed):
                program = finish(_exported(model, inputs, repeated, wishes, reason))
                if isinstance(reason, LooksAtValues) and not _gives_the_same(program, model, inputs):
                    raise UserError(f"torch.export records something else than the model computes: {reason}")
            sys.stderr.write(printed.getvalue())
        except UserError as refusal:
            if not isinstance(reason, LooksAtValues) and not looks_at_values(refusal):
                raise
            decided = _decided(model, inputs, repeated, wishes, finish)
            if decided is None:
                raise
            return decided
        if wishes.batch and batch_of(inputs) is not None and not any(map(_is_dynamic, program.input_nodes())):
            program.interface = replace(program.interface, fixed=str(reason).splitlines()[0])
        return program


def _exported(model: nn.Module, inputs: Example, repeated: Example, wishes: Wishes, reason: Exception) -> Program:
    """The program of torch.export, at as many sizes as it can have."""
    uniform = wishes.batch and not isinstance(reason, NotUniform)
    program = exported_at_sizes(model, repeated, wishes) if wishes and uniform else None
    if program is None:
        program = _still(exported(model, inputs, repeated, dynamic=uniform), wishes, str(reason))
    return program


def _decided(model: nn.Module, inputs: Example, repeated: Example, wishes: Wishes, finish: Finish) -> Program | None:
    """The program of a model that looks at values, for those that decide as the example's; None if there is none.

    The batch is the example's where the code looks at each sample.
    """
    reason = ""
    for tried, numbers in product((wishes, Wishes(), replace(Wishes(), batch=False)), (True, False)):
        if tried.batch > wishes.batch:
            continue
        given = repeated if tried.batch else inputs
        try:
            recorded = _recorded(model, given, tried, decided_by=inputs, numbers=numbers)
            program = finish(_still(recorded, wishes, reason))
        except (NotTraced, AtographError) as refusal:
            reason = reason or str(refusal)
            continue
        if not _gives_the_same(program, model, inputs):
            continue
        if wishes.batch and not tried.batch:
            program.interface = replace(program.interface, fixed=reason)
        return program
    return None


def _gives_the_same(program: Program, model: nn.Module, inputs: Example) -> bool:
    """Whether a program gives for the example what the model gives; nobody knows of chance, and without weights."""
    values = program.state.values()
    if any(random_ops(program)) or any(value.is_meta or isinstance(value, FakeTensor) for value in values):
        return True
    args, kwargs = copied(inputs)
    with unchanged(model):
        own = tensors_of(model(*args, **kwargs))
    args, kwargs = copied(inputs)
    try:
        given = tensors_of(ProgramModule(program)(*args, **kwargs))
    except (RuntimeError, AtographError):  # a size that a value tells is another one than torch.export has assumed
        return False
    return [each.shape for each in own] == [each.shape for each in given] and largest_difference(own, given) < _ROUNDING


def _at_other_sizes(model: nn.Module, inputs: Example, wishes: Wishes, finish: Finish, reason: str) -> Program:
    """The program of a model that does something else at other sizes, with what torch.export can have, with multiples
    of the sizes, or with some of them."""
    program = exported_at_sizes(model, inputs, wishes) if wishes.batch else None
    if program is not None:
        return finish(program)
    program = _at_multiples(model, inputs, wishes) or _at_some(model, inputs, wishes)
    if program is None:
        program = _recorded(model, inputs, replace(wishes, sizes=()))
    return finish(_still(program, wishes, reason))


def _at_multiples(model: nn.Module, inputs: Example, wishes: Wishes) -> Program | None:
    """The program of a model that calls the same ops at multiples of a number, the smallest such of `_COARSER`.

    What holds at multiples of 8 holds at those of 16, so the largest come first, and the first failure ends it.
    """
    found: Program | None = None
    for factor in _COARSER:
        tried = wishes.coarser(factor)
        if tried is None:
            continue
        program = _if_aligned(model, inputs, tried)
        if program is None and (found or all(size.value >= _ROOMY for size in tried.sizes)):
            break
        found = program or found
    return found


def _at_some(model: nn.Module, inputs: Example, wishes: Wishes) -> Program | None:
    """The program with those of several sizes dynamic that can be so alone."""
    names = [size.name for size in wishes.sizes if not size.parts]
    if len(wishes.sizes) < 2:
        return None
    some = {name for name in names if _if_aligned(model, inputs, wishes.only({name})) is not None}
    return _if_aligned(model, inputs, wishes.only(some))


def _if_aligned(model: nn.Module, inputs: Example, wishes: Wishes) -> Program | None:
    """The program with these sizes; None where the model does something else at others."""
    try:
        return _recorded(model, inputs, wishes)
    except NotAligned:
        return None


def _recorded(
    model: nn.Module, inputs: Example, wishes: Wishes, decided_by: Example | None = None, *, numbers: bool = True
) -> Program:
    """The program that `tracing` records; ``decided_by`` are the inputs that answer where code looks at values.

    Raises:
        NotTraced: as `record_program`.
    """
    args, kwargs = inputs
    batch = batch_of(inputs) if wishes.batch else None
    program = record_program(model, args, kwargs, batch=batch, wishes=wishes, decided_by=decided_by, numbers=numbers)
    if not wishes.batch:
        program.interface = replace(program.interface, fixed="this was asked for")
    return program


def _still(program: Program, wishes: Wishes, reason: str) -> Program:
    """A program that says why it does not have all sizes that were to be dynamic."""
    there = {size.name for size in program.interface.dynamic}
    still = {size.name: reason for size in wishes.sizes if size.name not in there}
    program.interface = replace(program.interface, still=still)
    return program


def _is_dynamic(node: fx.Node) -> bool:
    return any(is_dynamic(size) for size in getattr(node.meta.get("val"), "shape", ()))
