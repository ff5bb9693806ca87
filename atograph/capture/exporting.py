"""Programs by `torch.export`, for what cannot be recorded: its symbols become sizes."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from atograph.capture.by_sizes.conditions import may_be_broken
from atograph.capture.by_sizes.dynamic import Wishes
from atograph.capture.by_sizes.points import Try, dynamic_sizes, sets_of_points, within_limits
from atograph.capture.recording.origins import AnnotatedCalls
from atograph.capture.tied import name_as_recorded
from atograph.passes.errors import UserError
from atograph.passes.ir.exported.from_exported import Sized, from_exported
from atograph.passes.ir.exported.signatures import called_like, of_named_parameters
from atograph.passes.ir.exported.symbols import NotIntegral, conditions_of, decided_otherwise
from atograph.passes.ir.fake.recurrent import told_by_shapes
from atograph.passes.ir.interface import Condition, Example
from atograph.passes.ir.points import Points
from atograph.passes.ir.program import Program
from atograph.passes.ir.sizes import is_dynamic
from atograph.passes.torch_private import FakeTensor, pytree
from atograph.values.batch_size import batch_of, tensors_among
from atograph.values.reasons import reason_of
from atograph.values.user_code import line_of_user

_NO_WISHES = Wishes()


def exported_at_sizes(model: nn.Module, inputs: Example, wishes: Wishes) -> Program | None:
    """The program of torch.export with a dynamic batch and other dynamic sizes; None if it cannot be had."""
    try:
        whole = _export(model, inputs[0], inputs[1], wishes)
    except Exception:  # whatever torch.export has against it
        return None
    signature = inspect.signature(model.forward)
    for points in sets_of_points(wishes):
        try:
            program = _program(whole, model, signature, sized=partial(dynamic_sizes, wishes, points))
            Points(program.graph, program.interface.dynamic)
            sized = program.interface.dynamic
            return _limited(program, wishes, partial(decided_otherwise, whole, sized), conditions_of(whole, sized))
        except Exception:  # whatever an op has against a size, or at which limits of which sizes
            continue
    return None


def _limited(program: Program, wishes: Wishes, why_not: Try, conditions: Sequence[Condition]) -> Program:
    """The program with the limits that the code's decisions leave, and those of them that have a say within these."""
    wishes = within_limits(wishes, why_not)
    limited, way = wishes.sizes, tuple(each for each in conditions if may_be_broken(each, wishes))
    dynamic = tuple(
        replace(size, least=each.least, most=each.most, why=each.why)
        for size, each in zip(program.interface.dynamic, limited, strict=True)
    )
    program.interface = replace(program.interface, dynamic=dynamic, ways=(way,) if way else ())
    return program


def exported(model: nn.Module, inputs: Example, repeated: Example, *, dynamic: bool) -> Program:
    """The program of torch.export with a dynamic batch, if it can be had and is asked for.

    Args:
        model: the model.
        inputs: of the example.
        repeated: the same with a batch of two or more.
        dynamic: whether to ask for a dynamic batch at all.

    Raises:
        UserError: torch.export refuses the model, or the model its example inputs.
    """
    signature = inspect.signature(model.forward)
    try:
        try:
            if not dynamic:
                raise NotIntegral("another batch does not get the same ops")
            program = _program(_export(model, *repeated), model, signature)
            _check_batch(program, repeated)
            return program
        except NotIntegral:
            with AnnotatedCalls():
                whole = torch.export.export(model, *inputs, strict=False)
            return _program(whole, model, signature)
    except Exception as error:
        if repeated is not inputs:
            try:  # a model that really wants a batch of one
                return _program(_export(model, *inputs), model, signature)
            except Exception:
                pass
        if isinstance(error, UserError):
            raise
        raise _refused(error, _own_failure(model, inputs), inputs) from error


def _check_batch(program: Program, inputs: Example) -> None:
    """Make sure that what a program asserts of its values was not made for one batch, while other inputs take any.

    Code that counts the tokens of images and has as many images as the example, say.

    Raises:
        NotIntegral: it was.
    """
    leaves, batch = pytree.tree_leaves(inputs), batch_of(inputs)
    sizes = [
        node.meta["val"].shape[0]
        for node in program.input_nodes()
        for leaf in [leaves[program.interface.inputs.index(node.name)]]
        if isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.shape[0] == batch
    ]
    asserts = any(node.target is torch.ops.aten._assert_scalar.default for node in program.graph.nodes)
    if asserts and len({is_dynamic(size) for size in sizes}) > 1:
        raise NotIntegral("it asserts something of the values of inputs, some of which have one batch only")


def looks_at_values(refusal: BaseException) -> bool:
    """Whether torch.export has refused a model because its code looks at values."""
    error: BaseException | None = refusal
    while error is not None and not isinstance(error, GuardOnDataDependentSymNode):
        error = error.__cause__ or error.__context__
    return error is not None


def _export(
    model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], wishes: Wishes = _NO_WISHES
) -> ExportedProgram:
    dynamic: Any = ShapesCollection()  # type: ignore[no-untyped-call]
    batch = batch_of((args, kwargs))
    dims: dict[int, dict[int, object]] = {}
    leaves = pytree.tree_leaves((args, kwargs))
    for tensor in tensors_among((args, kwargs)):
        if tensor.dim() and tensor.shape[0] == batch:
            dims.setdefault(id(tensor), {})[0] = Dim.AUTO
    for size in wishes.sizes:
        for leaf, dim, _multiple in size.places:
            dims.setdefault(id(leaves[leaf]), {})[dim] = Dim.AUTO
    for tensor in {id(t): t for t in tensors_among((args, kwargs))}.values():
        if id(tensor) in dims:
            dynamic[tensor] = dims[id(tensor)]
    with _named_arguments(model, args, kwargs), AnnotatedCalls(), told_by_shapes():
        shapes = dynamic.dynamic_shapes(model, args, kwargs)
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


@contextmanager
def _named_arguments(model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Iterator[None]:
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


def _program(
    exported: ExportedProgram, model: nn.Module, signature: inspect.Signature, sized: Sized | None = None
) -> Program:
    program = from_exported(exported, signature, sized)
    name_as_recorded(program, model)
    AnnotatedCalls.note(program.graph)
    return program


def _own_failure(model: nn.Module, inputs: Example) -> Exception | None:
    """What the model raises when it simply runs, where it has weights to run with."""
    state = (*model.parameters(), *model.buffers(), *tensors_among(inputs))
    if any(is_lazy(value) or value.is_meta or isinstance(value, FakeTensor) for value in state):
        return None
    try:
        model(*inputs[0], **inputs[1])
    except Exception as error:
        return error
    return None


def _of_a_dict(args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """What a dict among the positional inputs is, which may have been meant as keywords."""
    given = args[-1] if args and not kwargs else None
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        return ""
    before = "()" if len(args) == 1 else f"({'..., ' * (len(args) - 1)})".replace(", )", ",)")
    names = ", ".join(f"{name!r}: ..." for name in list(given)[:3]) + (", ..." if len(given) > 3 else "")
    form = f"(model, {before}, {{{names}}})"
    return f"A dict among the positional inputs is one argument; keywords are the third: {form}. "


def _of_arrays(inputs: Example) -> str:
    """What to say where arrays of numpy, or shapes, are given for tensors."""
    leaves = pytree.tree_leaves(inputs)
    if any(isinstance(each, np.ndarray) for each in leaves):
        return "Inputs are tensors: torch.from_numpy(array). "
    if leaves and all(type(each) is int for each in leaves):
        return f"Inputs are tensors, and not their shapes: torch.randn({', '.join(map(str, leaves))}). "
    return ""


def _refused(error: Exception, own: Exception | None, inputs: Example) -> UserError:
    error = error if own is None else own
    kind, reason = reason_of(error)
    reason = (reason or "no reason given").rstrip(".:")
    at = line_of_user(error)
    kind = "" if isinstance(error, NotIntegral) else f"{kind}: "
    what = f"{kind}{reason[:400]}" + (f" (at {at})." if at else ".")
    if own is not None:
        given = f"{_of_arrays(inputs)}{_of_a_dict(*inputs)}"
        return UserError(
            f"the model fails on its example inputs, without any capture: {what}",
            hint=f"{given}Call the model with them, in eval mode, until it runs; then trace it.",
        )
    return UserError(
        f"torch.export cannot capture this model: {what}",
        hint=next((hint for meets, hint in _HINTS if meets(error)), _BRANCHES),
    )


_BRANCHES = (
    "Branches on tensor values and calls into other libraries cannot be captured; see torch.export's programming "
    "model, or freeze the decision in an attribute before atograph sees the model."
)
_CHECKED = (
    "A distribution looks at its parameters and values, to check them: make it with validate_args=False, or call "
    "torch.distributions.Distribution.set_default_validate_args(False) before atograph sees the model."
)
_PACKED = (
    "A packed sequence (pack_padded_sequence) has as many rows as there are steps in the data, which no program can "
    "hold. Give the recurrent layer the padded batch: forward in time, its outputs at steps that are no padding are "
    "the same, and the last one of each is output[range(batch), lengths - 1]. Backward in time padding is read "
    "first: there, give sequences of one length."
)


def _in_distributions(error: BaseException) -> bool:
    """Whether a distribution of torch was looking at values."""
    return any(
        {"torch", "distributions"} <= set(Path(frame.filename).parts)
        for frame in traceback.extract_tb(error.__traceback__)
    )


def _packs(error: BaseException) -> bool:
    """Whether sequences of several lengths were packed into one."""
    return any(
        frame.f_globals.get("__name__") == PackedSequence.__module__
        or any(isinstance(value, PackedSequence) for value in frame.f_locals.values())
        for frame, _line in traceback.walk_tb(error.__traceback__)
    )


_HINTS = ((_in_distributions, _CHECKED), (_packs, _PACKED))
"""What an error of a capture was about, and what to do then."""
