"""Where recorded ops come from: module and user's line of every node; and whether code read the batch size."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from types import FrameType, FunctionType, TracebackType
from typing import Any

import torch
from torch import fx, nn
from torch.fx import traceback
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from atograph.capture.recording.passed_on import passed_on
from atograph.capture.recording.recorder import NotTraced, Unfollowed
from atograph.passes.ir.sizes import is_dynamic
from atograph.passes.torch_private import pytree
from atograph.values.user_code import OURS

MOST_CALLS = 200_000
"""A model that makes more calls to torch than this goes through its samples one by one."""

MOST_ITEMS = 1_000
"""So does one that takes more single samples than this."""

_MANY = 1_000_000

_NOT_THE_USERS = ("/torch/", "\\torch\\", "/contextlib.py")
_LAYERS = ("/torch/nn/modules/", "\\torch\\nn\\modules\\")
_NOT_LAYERS = ("/module.py", "\\module.py")

CallInSource = tuple[str, int, int, str]
"""Where a call to torch stands: file, first line of the function, offset of the instruction, name of what is called."""


class Origins(TorchFunctionMode):
    """While it is entered, nodes get ``nn_module_stack`` and ``stack_trace``, in torch.export's form.

    It also stops a model that goes through its samples one by one.

    Attributes:
        read_batch: whether the model's code may have seen how large the batch is: it has done more with a size that
            depends on it than to pass it on, or ops came from code that cannot be watched (TorchScript).
        passes_batch: whether its code has got such a size at all.
        call: the function of torch that runs, or ran last.
        number: makes of what ``Tensor.item`` gives what code gets.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.call: Callable[..., object] | None = None
        self.number: Callable[[float], object] = lambda value: value
        self.read_batch = self.passes_batch = False
        self._graph: fx.Graph
        self._after: fx.Node  # the last node that a watched call recorded
        self._names = {id(module): name for name, module in reversed(list(model.named_modules()))}
        self._stack: list[tuple[str, type]] = []
        self._seen: fx.Node | None = None  # the last node whose module is known
        self._hooks: list[RemovableHandle] = []
        self._calls = self._items = 0
        self._numbers = count()

    def of(self, graph: fx.Graph) -> Origins:
        """This, for the nodes of a graph, to be entered."""
        self._graph, self._after = graph, _last(graph)
        return self

    @property
    def graph(self) -> fx.Graph:
        """The graph that is recorded."""
        return self._graph

    def __enter__(self) -> Origins:
        self._hooks = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self.read_batch |= _last(self._graph) is not self._after
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._calls += 1
        self._items += func is torch.Tensor.__getitem__ and type(args[1]) is int and _length(args[0]) > _MANY
        in_pieces = func in _TAKES_APART and _TAKES_APART[func](*args, **kwargs) > _MANY
        if in_pieces or self._calls > MOST_CALLS or self._items > MOST_ITEMS:
            raise NotTraced("it goes through its samples one by one")
        if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            raise Unfollowed("it gives a tensor the memory of another one (Tensor.data)")
        before, self.call = _last(self._graph), func
        result = _ALWAYS_CALLED.get(func, func)(*args, **kwargs)
        unwatched = before is not self._after or _runs_users_code(func, types, args, kwargs)
        self.read_batch |= unwatched
        if not self.read_batch and _tells_batch(func, result):
            told = passed_on(result, self._note_batch)
            self.read_batch, self.passes_batch = told is None or func is torch.Tensor.__len__, True
            result = result if self.read_batch else told
        node = self._after = _last(self._graph)
        if node is not before:
            line, call = _stack_trace(), (call_in_source(func), next(self._numbers))
            while node is not before and node.op != "root":
                node.meta.setdefault("stack_trace", line)
                node.meta.setdefault("call", call)
                node = node.prev
        return self.number(result) if func is torch.Tensor.item else result

    def _note_batch(self) -> None:
        self.read_batch = True

    def _enter(self, module: nn.Module, _args: object) -> None:
        self._mark()
        self._stack.append((self._names.get(id(module), ""), type(module)))

    def _leave(self, _module: nn.Module, _args: object, _result: object) -> None:
        self._mark()
        self._stack.pop()

    def _mark(self) -> None:
        """The nodes since the last call belong to the innermost module."""
        stack = {name: (name, f"{kind.__module__}.{kind.__qualname__}") for name, kind in self._stack}
        last = _last(self._graph)
        node = last
        while node is not self._seen and node.op != "root":
            node.meta.setdefault("nn_module_stack", stack)
            node = node.prev
        self._seen = last


def _contiguous(x: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    others = {} if memory_format is torch.contiguous_format else {"memory_format": memory_format}
    result: torch.Tensor = torch.ops.aten.contiguous.default(x, **others)
    return result


_ALWAYS_CALLED = {torch.Tensor.contiguous: _contiguous}
"""Functions that call no op where there is nothing to do: which sizes these are must not change what is recorded."""


class AnnotatedCalls(TorchFunctionMode):
    """While it is entered, what `torch.export` captures says at each node which call to torch it comes from.

    `note` then puts that where `Origins` does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if torch.compiler.is_dynamo_compiling():  # it traces the body of a region, and this as well; it has no frames
            return func(*args, **(kwargs or {}))
        call = (call_in_source(func), next(self._numbers))
        with traceback.preserve_node_meta(), traceback.annotate({_CALL: call}):
            return func(*args, **(kwargs or {}))

    @staticmethod
    def note(graph: fx.Graph) -> None:
        """Take the annotations of a captured graph for its nodes' ``call``."""
        for node in graph.nodes:
            custom = node.meta.get("custom", {})
            if _CALL in custom:
                node.meta["call"] = custom[_CALL]
                node.meta["custom"] = {key: value for key, value in custom.items() if key != _CALL}


_CALL = "atograph.call"


def _length(tensor: torch.Tensor, dim: int = 0) -> int:
    return tensor.shape[dim] if tensor.dim() else 0


def _pieces(tensor: torch.Tensor, split_size_or_sections: Any = 1, dim: int = 0, **_other: Any) -> int:
    size = split_size_or_sections
    return _length(tensor, dim) // max(1, size) if type(size) is int else len(size)


def _chunks(_tensor: torch.Tensor, chunks: object = 1, *_rest: object, **_other: object) -> int:
    return chunks if type(chunks) is int else 1


_TAKES_APART: dict[Callable[..., object], Callable[..., int]] = {
    torch.Tensor.__iter__: _length, torch.Tensor.unbind: _length, torch.unbind: _length,
    torch.Tensor.split: _pieces, torch.split: _pieces,
    torch.Tensor.chunk: _chunks, torch.chunk: _chunks,
    torch.Tensor.tensor_split: _chunks, torch.tensor_split: _chunks,
}  # fmt: skip
"""Functions that give many tensors → how many."""


def _runs_users_code(
    func: Callable[..., object], types: Iterable[type], args: Sequence[object], kwargs: Mapping[str, object]
) -> bool:
    """Whether a call runs Python code that is not torch's, in which nothing is watched."""
    given = (*args, *kwargs.values())
    return (
        (isinstance(func, FunctionType) and func.__module__.split(".")[0] != "torch")
        or any(not issubclass(kind, torch.Tensor) for kind in types)
        or any(isinstance(value, FunctionType) for value in given)
    )


def _tells_batch(func: Callable[..., object], result: object) -> bool:
    """Whether the result of a call to torch may say how large the batch is."""
    if result is None or isinstance(result, (torch.Tensor, torch.dtype, torch.device)):
        return False
    if type(result) is bool:
        return func not in _SAYS_THE_SAME and getattr(func, "__name__", "") != "__get__"  # a property: is_cuda, ...
    leaves = pytree.tree_leaves(result)
    return any(
        is_dynamic(leaf) if type(leaf) is int else not isinstance(leaf, (torch.Tensor, type(None))) for leaf in leaves
    )


_SAYS_THE_SAME = {
    torch.is_floating_point, torch.Tensor.is_floating_point, torch.is_complex, torch.Tensor.is_complex,
    torch.is_tensor, torch.is_autocast_enabled,
}  # fmt: skip
"""Functions that say yes or no for any batch."""


def _last(graph: fx.Graph) -> fx.Node:
    return graph._root.prev


def call_in_source(func: Callable[..., object]) -> CallInSource:
    """The place of the call to torch that a `TorchFunctionMode` is handling.

    It is in the user's code, or in that of one of torch's own layers.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not issues_calls(frame.f_code.co_filename):
        frame = frame.f_back
    name = str(getattr(func, "__name__", func))
    return ("", 0, 0, name) if frame is None else (
        frame.f_code.co_filename, frame.f_code.co_firstlineno, frame.f_lasti, name
    )  # fmt: skip


@cache
def issues_calls(file: str) -> bool:
    """Whether the code in a file is the user's, a library's, or that of torch's own layers."""
    if any(part in file for part in _LAYERS):
        return not file.endswith(_NOT_LAYERS)
    return not file.startswith(OURS) and not any(part in file for part in _NOT_THE_USERS)


def line_of_user() -> str:
    """``file:line`` of the innermost line outside torch and atograph; empty where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    frame = _of_user(frame)
    return "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _stack_trace() -> str:
    """The same line as torch writes it."""
    frame = _of_user(sys._getframe(2))
    if frame is None:
        return ""
    return f'File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}'


def _of_user(frame: FrameType | None) -> FrameType | None:
    """The innermost frame outside torch, up to atograph; in a file if there is one, for generated code has no lines."""
    generated: FrameType | None = None
    while frame is not None and not frame.f_code.co_filename.startswith(OURS):
        if not any(part in frame.f_code.co_filename for part in _NOT_THE_USERS):
            if not frame.f_code.co_filename.startswith("<"):
                return frame
            generated = generated or frame
        frame = frame.f_back
    return generated
