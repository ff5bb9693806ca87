"""Capture: a model and example inputs become a `Program`, with a dynamic batch and in eval mode."""

from __future__ import annotations

import inspect
import io
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from atograph.capture.any_size import captured
from atograph.capture.by_sizes.dynamic import wishes_of
from atograph.capture.by_sizes.lengths import with_lengths
from atograph.capture.finished import ended, functional
from atograph.capture.given.programs import as_given
from atograph.capture.recording.recorder import NotTraced, Unfollowed
from atograph.capture.time_limit import within_limit
from atograph.capture.tracing import record_program
from atograph.passes.errors import AtographError, UserError
from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule
from atograph.passes.torch_private import TopLevelTracedModule
from atograph.values.batch_size import batch_of, repeat_single
from atograph.values.dynamic_sizes import Dynamic, texts_of
from atograph.values.eval_mode import eval_mode
from atograph.values.state_texts import State, state_texts
from atograph.values.structures import plain, plain_outputs
from atograph.values.user_code import line_of_user

_BATCH = "batch"
"""What files call the first dim of the inputs."""


def capture(
    model: nn.Module,
    args: tuple[object, ...] = (),
    kwargs: Mapping[str, object] | None = None,
    *,
    dynamic: Dynamic = None,
    outputs: Sequence[str] = (),
    state: State = None,
    dead: bool = False,
) -> Program:
    """Capture a model as a program of ATen ops before any decomposition, and make the program functional.

    The first dimension of every input tensor that is as long as the first one's is the batch, and stays dynamic. What
    `tracing` cannot record goes to `torch.export`; a size that neither makes dynamic is the example's, and the program
    says so. The model is left as it is: weights, buffers, and the training flag of every module.

    Args:
        model: any module.
        args: positional example inputs, of any pytree shape.
        kwargs: keyword example inputs.
        dynamic: which sizes are to be dynamic besides the batch; False: none, the batch included.
        outputs: names or globs of the outputs that the program returns (`passes.ir.outputs`); none: all of them.
        state: which outputs become which inputs of the next call; they are returned beside ``outputs``.
        dead: keep the ops whose results nobody takes, and return these results after the others, in one list.

    Raises:
        UserError: the model cannot be captured; with the reason, the user's line, and what to try. Or one of the
            outputs is none of its, or what is to be state cannot be that.
    """
    if isinstance(model, TopLevelTracedModule):
        raise UserError(
            "this module was made by torch.jit.trace, which has followed its code already, for one batch size.",
            hint="Give the module that it was made from, or torch.export.export(module, args).",
        )
    inputs = (args, dict(kwargs or {}))
    if isinstance(model, ProgramModule):
        return as_given(model, inputs, dynamic=texts_of(dynamic), outputs=outputs, pairs=state_texts(state))
    batch = batch_of(inputs)
    if batch == 0:
        raise UserError("the example inputs hold no sample: their first dimension is 0.")
    plain(inputs)  # registers the dataclasses among the inputs
    asked, pairs = texts_of(dynamic), state_texts(state)
    wishes = wishes_of(asked, inputs, inspect.signature(model.forward), batch)
    with eval_mode(model), plain_outputs(model), within_limit(model), torch.no_grad(), _quiet():
        repeated = repeat_single(inputs) if wishes.batch else inputs  # a batch of one would be taken for a constant
        try:
            finish = partial(functional, dead=dead)
            # lengths of state are told by one capture at the example's sizes
            first = replace(wishes, sizes=()) if pairs else wishes
            program = ended(captured(model, inputs, repeated, first, finish), outputs, pairs)
            others = [*with_lengths(wishes, program)] or ([wishes] if first != wishes else [])
            for other in others:
                program = ended(captured(model, inputs, repeated, other, finish), outputs, pairs)
                if not program.interface.still:
                    break
        except Unfollowed as reason:
            at = line_of_user(reason)
            raise UserError(
                f"what the model computes cannot be followed: {reason}{f' (at {at})' if at else ''}.",
                hint="Let the code make new tensors with ops: torch.clone, torch.randn_like, and so on.",
            ) from reason
    if not program.interface.fixed and any(size.name == _BATCH for size in program.interface.dynamic):
        raise UserError(
            f"dynamic calls a size {_BATCH!r}, which is what the first dim of the inputs is called.",
            hint="Give it another name.",
        )
    program.interface = replace(program.interface, asked=asked)
    return program


def recorded(model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Program | None:
    """What `capture` gives with the batch alone dynamic; None where the model cannot be recorded on tensors without
    data, for any batch, whatever `torch.export` says. Code that only passes the batch on is recorded once."""
    inputs = repeat_single((args, dict(kwargs)))
    plain(inputs)
    with eval_mode(model), plain_outputs(model), within_limit(model), torch.no_grad(), _quiet():
        try:
            return functional(record_program(model, *inputs, batch=batch_of(inputs), others=False), dead=False)
        except (NotTraced, Unfollowed, AtographError):
            return None


@contextmanager
def _quiet() -> Iterator[None]:
    """torch logs and prints its graph before it raises; the error that we make of it says what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()) as printed:
            yield
        sys.stderr.write(printed.getvalue())  # of a capture that went through: the model's own
    finally:
        logging.disable(before)
