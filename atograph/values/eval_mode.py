"""The user's model put into eval mode for a while, and copies of it; either way the model stays as it is."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from types import CellType, FunctionType
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from atograph.passes.errors import UserError
from atograph.passes.torch_private import FakeTensor
from atograph.values.snapshot import Snapshot
from atograph.values.user_code import one_line

M = TypeVar("M", bound=nn.Module)
V = TypeVar("V")


@contextmanager
def eval_mode(model: nn.Module, *, files: bool = True) -> Iterator[None]:
    """Every module in eval mode and without what it keeps from earlier runs; afterwards all is as before.

    Args:
        model: what its ``forward`` changes is put back.
        files: whether the global variables of the files that define the model are put back as well. Not where code
            of the user's runs to remember something: a metric over the validation data.

    Some modules compute a table from their weights once and keep it (LeViT's attention biases); by convention
    ``train()`` makes them forget it. One kept while tensors are fake, or from before a mask, would be wrong.
    """
    flags = [(module, module.training) for module in model.modules()]
    with unchanged(model, files=files), _same_values(module for module, _training in flags):
        set_mode(model, training=True)
        set_mode(model, training=False)
        try:
            yield
        finally:
            for module, training in flags:
                if module.training != training:  # of a ScriptModule it is no attribute like others
                    module.training = training


def set_mode(model: nn.Module, *, training: bool) -> None:
    """``model.train(training)``; what ``ExportedProgram.module()`` gives has no modes, and stays as it is."""
    try:
        model.train(training)
    except NotImplementedError:
        if not isinstance(model, fx.GraphModule):
            raise


@contextmanager
def forward_within(
    model: nn.Module, around: Callable[[Callable[..., object], tuple[object, ...], dict[str, object]], object]
) -> Iterator[None]:
    """Within it, the model's ``forward`` is ``around(forward, args, kwargs)``."""
    forward, own = model.forward, "forward" in vars(model)

    @wraps(forward)
    def replaced(*args: object, **kwargs: object) -> object:
        return around(forward, args, kwargs)

    model.forward = replaced
    try:
        yield
    finally:
        if own:
            model.forward = forward
        else:
            del model.forward


@contextmanager
def unchanged(model: nn.Module, *, files: bool = True) -> Iterator[None]:
    """Afterwards the model's modules, and with ``files`` the files that define them, hold what they held before.

    Within it nothing is compiled: `torch.compile` would leave its own in these files, and compile for modes and tensors
    that no training has.
    """
    before = Snapshot(model, files=files)
    with uncompiled():
        try:
            yield
        finally:
            before.restore()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Within it, what `torch.compile` was asked to compile runs as it is written; but for regions of torch's own.

    ``torch.cond``, ``scan`` and the like compile their bodies with each call, which lifts the weights out of them.
    """
    if "torch._dynamo" not in sys.modules:  # nobody has asked, and to import it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"), patch.object(torch, "compile", _of_regions(torch.compile)):
        yield


def _of_regions(original: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` that does so for what code of torch's own asks, whatever the stance is."""

    def compiled(*args: Any, **options: Any) -> Any:
        made = original(*args, **options)
        if not str(sys._getframe(1).f_globals.get("__name__")).startswith("torch."):
            return made

        def call(*inputs: object, **others: object) -> object:
            with torch.compiler.set_stance("default"):
                return made(*inputs, **others)

        return call

    return compiled


@contextmanager
def _same_values(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Undo what modules do to their tensors when they change mode (some merge weights for evaluation)."""
    changing = (
        module
        for module in modules
        if type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval
    )
    with _held(tensor for module in changing for tensor in (*module.parameters(), *module.buffers())):
        yield


@contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Undo what a run writes into the model's buffers in place: `unchanged` puts back which tensors there are."""
    with _held(model.buffers()):
        yield


@contextmanager
def _held(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Afterwards tensors have the values that they had before."""
    own = {
        id(tensor): tensor
        for tensor in tensors
        if not is_lazy(tensor) and not tensor.is_meta and not isinstance(tensor, FakeTensor)
    }
    before = [(tensor, tensor.detach().clone()) for tensor in own.values()]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in before:
                if not torch.equal(tensor, values):
                    tensor.data.copy_(values)


class _CopyingResults(TorchFunctionMode):
    """Within it `copy.deepcopy` takes tensors that were computed, too: the copy has their values, and no history.

    Modules keep such tensors from their last call: a weight that a hook makes before each call (the old
    ``torch.nn.utils.weight_norm``), a state that ``forward`` leaves behind. torch itself copies leaves only.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func is torch.Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return copy.deepcopy(tensor.detach(), memo)  # by way of the memo, views of one storage stay so
        return func(*args, **(kwargs or {}))


def deep_copy(value: V, shared: Iterable[torch.Tensor] = ()) -> V:
    """A deep copy of anything that holds tensors, computed ones included.

    Args:
        value: left as it is.
        shared: tensors that are not copied.
    """
    memo: dict[int, object] = {id(each): each for each in (*shared, *_scripted_functions(value))}
    with _CopyingResults():
        copied = copy.deepcopy(value, memo)
    if isinstance(copied, nn.Module):
        _rebind(copied, memo)
    return copied


def _rebind(copied: nn.Module, memo: Mapping[int, object]) -> None:
    """Let functions that modules hold, as hooks or attributes, mean the copy: `copy.deepcopy` leaves closures alone."""
    for module in copied.modules():
        holders = [vars(module), *(held for name, held in vars(module).items() if name.endswith("hooks"))]
        for holder in (each for each in holders if isinstance(each, dict)):
            for key, value in holder.items():
                if isinstance(value, FunctionType):
                    holder[key] = _bound_to(value, memo)


def _bound_to(function: FunctionType, memo: Mapping[int, object]) -> FunctionType:
    """A function with copies in the place of what its closure holds, where there are copies."""
    before = [_content(cell) for cell in function.__closure__ or ()]
    after = [memo.get(id(each), each) for each in before]
    if all(one is other for one, other in zip(before, after, strict=True)):
        return function
    cells = tuple(
        cell if one is other else CellType(other)
        for cell, one, other in zip(function.__closure__ or (), before, after, strict=True)
    )
    bound = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    for name in ("__kwdefaults__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        setattr(bound, name, getattr(function, name))
    bound.__dict__.update(function.__dict__)
    return bound


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing was put there yet
        return cell


def _scripted_functions(value: object) -> list[object]:
    """The scripted functions that a model's modules hold; they cannot be copied, and hold nothing that changes."""
    held = (
        [each for module in value.modules() for each in vars(module).values()]
        if isinstance(value, nn.Module)
        else [value]
    )
    return [each for each in held if isinstance(each, torch.jit.ScriptFunction)]


def copy_of(model: M, shared: Iterable[torch.Tensor] = ()) -> M:
    """A deep copy of a model, without what its modules keep from earlier runs.

    Args:
        model: left as it is.
        shared: tensors that are not copied, because the caller puts others in their place.

    Raises:
        UserError: the model holds something that cannot be copied.
    """
    flags = [module.training for module in model.modules()]
    try:
        with eval_mode(model):
            copied = deep_copy(model, shared)
    except Exception as error:
        attribute = next(_uncopyable(model), "")
        raise UserError(
            f"the model cannot be copied: {type(error).__name__}: {one_line(error)}",
            where=attribute or None,
            hint="Keep such a thing outside of the model, or give its class a __deepcopy__.",
        ) from error
    for module, training in zip(copied.modules(), flags, strict=True):
        module.training = training
    return copied


def _uncopyable(model: nn.Module) -> Iterator[str]:
    """The attributes of a model's modules that cannot be copied: ``encoder.lock``."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name != "_modules":
                try:
                    deep_copy(value)
                except Exception:
                    yield f"{path}.{name}".lstrip(".")
