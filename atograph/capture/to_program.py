"""Capture: a model and example inputs become a `Program`, with a dynamic batch and in eval mode."""

from __future__ import annotations

import inspect
import io
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.nn.parameter import is_lazy

from atograph.capture.origins import AnnotatedCalls
from atograph.capture.recorder import NotTraced, NotUniform, Unfollowed
from atograph.capture.time_limit import within_limit
from atograph.capture.tracing import record_program
from atograph.passes.errors import AtographError, UserError
from atograph.passes.ir.exported import NotIntegral, called_like, from_exported, of_named_parameters
from atograph.passes.ir.outputs import returning
from atograph.passes.ir.program import Program
from atograph.passes.ir.sizes import is_dynamic
from atograph.passes.pipeline.verify import verify
from atograph.passes.rewrite.functionalize import Functionalize
from atograph.passes.torch_private import FakeTensor, TopLevelTracedModule, pytree
from atograph.values.eval_mode import eval_mode
from atograph.values.structures import plain, plain_outputs
from atograph.values.user_code import line_of_user


def capture(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    outputs: Sequence[str] = (),
    dead: bool = False,
) -> Program:
    """Capture a model as a program of ATen ops before any decomposition, and make the program functional.

    The first dimension of every input tensor that is as long as the first one's is the batch, and stays dynamic. What
    `tracing` cannot record goes to `torch.export`. The model is left as it is: weights, buffers, and the training flag
    of every module.

    Args:
        model: any module.
        args: positional example inputs, of any pytree shape.
        kwargs: keyword example inputs.
        outputs: names or globs of the outputs that the program returns (`passes.ir.outputs`); none: all of them.
        dead: keep the ops whose results nobody takes, and return these results after the others, in one list.

    Raises:
        UserError: the model cannot be captured; with the reason, the user's line, and what to try. Or one of the
            outputs is none of its.
    """
    if isinstance(model, TopLevelTracedModule):
        raise UserError(
            "this module was made by torch.jit.trace, which has followed its code already, for one batch size.",
            hint="Give the module that it was made from.",
        )
    inputs = (args, dict(kwargs or {}))
    batch = batch_of(inputs)
    if batch == 0:
        raise UserError("the example inputs hold no sample: their first dimension is 0.")
    plain(inputs)  # registers the dataclasses among the inputs
    with eval_mode(model), plain_outputs(model), within_limit(model), torch.no_grad(), _quiet():
        repeated = repeat_single(inputs)  # torch.export would take a batch of one for a constant
        try:
            program = _functional(record_program(model, repeated[0], repeated[1], batch=batch_of(repeated)), dead=dead)
        except Unfollowed as reason:
            at = line_of_user(reason)
            raise UserError(
                f"what the model computes cannot be followed: {reason}{f' (at {at})' if at else ''}.",
                hint="Let the code make new tensors with ops: torch.clone, torch.randn_like, and so on.",
            ) from reason
        except (NotTraced, AtographError) as reason:
            exported = _exported(model, inputs, repeated, dynamic=not isinstance(reason, NotUniform))
            program = _functional(exported, dead=dead)
            if batch is not None and not any(_has_batch(node) for node in program.input_nodes()):
                program.interface = replace(program.interface, fixed=str(reason).splitlines()[0])
        if outputs:
            program = returning(program, outputs)
            verify(program)
    return program


def _has_batch(node: fx.Node) -> bool:
    return any(is_dynamic(size) for size in getattr(node.meta.get("val"), "shape", ()))


def _functional(program: Program, *, dead: bool) -> Program:
    result = Functionalize()(program).graph_module
    assert isinstance(result, Program)
    if dead:
        result = _with_dead_results(result)
    elif result.graph.eliminate_dead_code():  # an auxiliary head whose result nobody takes is no part of the program
        result = result.rewritten(result.graph, result.state)
        result.interface = replace(result.interface, dead=True)
    verify(result)
    return result


def _with_dead_results(program: Program) -> Program:
    output, nodes = program.output_node, program.graph.nodes
    unused = [n for n in nodes if n.op == "call_function" and not n.users and isinstance(n.meta["val"], torch.Tensor)]
    output.args = ([*output.args[0], *unused],)  # type: ignore[misc]
    program.graph.eliminate_dead_code()
    result = program.rewritten(program.graph, program.state)
    results = len(output.args[0]) - len(result.interface.writes)
    result.interface = replace(result.interface, returns=pytree.tree_structure([0] * results))
    return result


def _exported(model: nn.Module, inputs: Any, repeated: Any, *, dynamic: bool) -> Program:
    """The program that torch.export captures, with a dynamic batch if it can be had and is asked for."""
    signature = inspect.signature(model.forward)
    try:
        try:
            if not dynamic:
                raise NotIntegral("another batch does not get the same ops")
            return _program(_export(model, *repeated), signature)
        except NotIntegral:
            with AnnotatedCalls():
                exported = torch.export.export(model, *inputs, strict=False)
            return _program(exported, signature)
    except Exception as error:
        if repeated is not inputs:
            try:  # a model that really wants a batch of one
                return _program(_export(model, *inputs), signature)
            except Exception:
                pass
        if isinstance(error, UserError):
            raise
        raise _refused(error, _own_failure(model, inputs), inputs) from error


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    dynamic: Any = ShapesCollection()  # type: ignore[no-untyped-call]
    batch = batch_of((args, kwargs))
    for tensor in {id(t): t for t in _tensors((args, kwargs))}.values():
        if tensor.dim() and tensor.shape[0] == batch:
            dynamic[tensor] = {0: Dim.AUTO}
    with _named_arguments(model, args, kwargs), AnnotatedCalls():
        shapes = dynamic.dynamic_shapes(model, args, kwargs)
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


@contextmanager
def _named_arguments(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
    """Within it, ``forward`` has a name for each argument: torch.export loses shapes in ``*args`` and ``**kwargs``."""
    own, forward = vars(model).get("forward"), model.forward
    model.forward = called_like(forward, of_named_parameters(inspect.signature(forward), args, kwargs))
    try:
        yield
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own


def _program(exported: ExportedProgram, signature: inspect.Signature) -> Program:
    program = from_exported(exported, signature)
    AnnotatedCalls.note(program.graph)
    return program


def _tensors(inputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]


def batch_of(inputs: Any) -> int | None:
    """The batch size of some inputs: the first dimension of their first tensor; None where there is none."""
    return next((int(t.shape[0]) for t in _tensors(inputs) if t.dim()), None)


def with_batch(inputs: Any, size: int) -> Any:
    """The same inputs with another batch size, by repeating or dropping samples."""
    batch = batch_of(inputs)

    def resize(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.dim() or leaf.shape[0] != batch:
            return leaf
        return leaf[torch.arange(size, device=leaf.device) % leaf.shape[0]]

    return pytree.tree_map(resize, inputs)


def batch_sizes(inputs: Any, program: Program) -> list[int]:
    """What a program can be tried at with some inputs: a batch of one and theirs, or theirs alone where it is fixed."""
    own = batch_of(inputs) or 1
    return [own] if program.interface.fixed else sorted({1, own})


def repeat_single(inputs: Any) -> Any:
    """A batch of one sample made two; anything else as it is."""
    return with_batch(inputs, 2) if batch_of(inputs) == 1 else inputs


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


def _own_failure(model: nn.Module, inputs: Any) -> Exception | None:
    """What the model raises when it simply runs, where it has weights to run with."""
    state = (*model.parameters(), *model.buffers(), *_tensors(inputs))
    if any(is_lazy(value) or value.is_meta or isinstance(value, FakeTensor) for value in state):
        return None
    try:
        model(*inputs[0], **inputs[1])
    except Exception as error:
        return error
    return None


def _of_a_dict(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What a dict among the positional inputs is, which may have been meant as keywords."""
    given = args[-1] if args and not kwargs else None
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        return ""
    before = "()" if len(args) == 1 else f"({'..., ' * (len(args) - 1)})".replace(", )", ",)")
    names = ", ".join(f"{name!r}: ..." for name in list(given)[:3]) + (", ..." if len(given) > 3 else "")
    form = f"(model, {before}, {{{names}}})"
    return f"A dict among the positional inputs is one argument; keywords are the third: {form}. "


def _refused(error: Exception, own: Exception | None, inputs: Any) -> UserError:
    error = error if own is None else own
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines[0] if lines else "no reason given").rstrip(".")
    at = line_of_user(error)
    kind = "" if isinstance(error, NotIntegral) else f"{type(error).__name__}: "
    what = f"{kind}{reason[:400]}" + (f" (at {at})." if at else ".")
    if own is not None:
        return UserError(
            f"the model fails on its example inputs, without any capture: {what}",
            hint=f"{_of_a_dict(*inputs)}Call the model with them, in eval mode, until it runs; then trace it.",
        )
    return UserError(
        f"torch.export cannot capture this model: {what}",
        hint=_CHECKED if _in_distributions(error) else _BRANCHES,
    )


_BRANCHES = (
    "Branches on tensor values and calls into other libraries cannot be captured; see torch.export's programming "
    "model, or freeze the decision in an attribute before atograph sees the model."
)
_CHECKED = (
    "A distribution looks at its parameters and values, to check them: make it with validate_args=False, or call "
    "torch.distributions.Distribution.set_default_validate_args(False) before atograph sees the model."
)


def _in_distributions(error: BaseException) -> bool:
    """Whether a distribution of torch was looking at values."""
    return any(
        {"torch", "distributions"} <= set(Path(frame.filename).parts)
        for frame in traceback.extract_tb(error.__traceback__)
    )
