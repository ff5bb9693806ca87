"""A recorder of ATen ops: each op that a model calls, as torch was asked for it, becomes a node of an fx graph.

What torch's `make_fx(pre_dispatch=True)` records, in a quarter of the time: there are no proxies, because tensors
without data run through the model, and a table says which node each of them comes from.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, disable_autocast_cache
from torch.fx.node import Argument
from torch.utils.weak import WeakTensorKeyDictionary

from atograph.capture.by_values.answers import Answer, Answers, NoAnswer
from atograph.capture.by_values.known_values import KnownValues, Unknown
from atograph.passes.ir.decisions import add_check, counting, holding
from atograph.passes.ir.fake.grouped import in_any_width
from atograph.passes.ir.fake.results import result_of
from atograph.passes.ir.sizes import is_dynamic
from atograph.passes.torch_private import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    OpOverload,
    enable_python_dispatcher,
    is_functorch_wrapped_tensor,
    pytree,
)

_ATEN = torch.ops.aten
_READS_DATA = torch.Tag.data_dependent_output
_SIZE_BY_DATA = torch.Tag.dynamic_output_shape


SAME = "same"
"""Says of a node that it gives what it takes."""


class NotTraced(Exception):
    """The model's ops cannot be recorded this way; the text says why."""


class LooksAtValues(NotTraced):
    """The code looks at a value that inputs or weights decide."""


class NotUniform(NotTraced):
    """Another batch does not get the same ops."""


class NotAligned(NotTraced):
    """At another point the model's code calls other ops, or computes what no size tells."""


class Unfollowed(Exception):
    """The code does what no op tells: it exchanges the memory behind a tensor, or draws from a generator of its own."""


@dataclass
class Recording:
    """The ops of one run.

    Attributes:
        graph: placeholders, then ``get_attr`` nodes and calls in the order of the run; sizes are integers.
        constants: ``get_attr`` target → tensor that is neither an input nor the result of an op.
        buffers: placeholder → real tensor of a buffer whose values the code may look at.
    """

    graph: fx.Graph = field(default_factory=fx.Graph)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def known(self) -> KnownValues:
        """The values that depend on no input, and not on the batch."""
        return KnownValues(self.graph, self.constants, self.buffers)

    def known_at(self, batch: int) -> dict[fx.Node, object]:
        """The values that depend on no input, for a batch of some size."""
        return KnownValues(self.graph, self.constants, self.buffers, batch).values()


def record(
    function: Callable[[], Sequence[object]],
    inputs: list[torch.Tensor],
    mode: FakeTensorMode,
    watched: Callable[[fx.Graph], AbstractContextManager[object]],
    buffers: Mapping[int, torch.Tensor] | None = None,
    answers: Answers | None = None,
) -> Recording:
    """Run a function on tensors without data and record its ops.

    Args:
        function: gives the outputs.
        inputs: the tensors that placeholders stand for, made by ``mode``.
        mode: what runs the ops.
        watched: takes the graph that the ops come into, gives what is entered while the function runs.
        buffers: index of an input → the real tensor, for buffers whose values the code may look at.
        answers: what to tell code that looks at values which inputs or weights decide; None: it may not.

    Raises:
        NotTraced: an op that cannot be written down like this.
        Unfollowed: it cannot be followed by any means; besides, whatever the function itself raises.
    """
    recorder = _Recorder(mode, answers)
    for index, tensor in enumerate(inputs):
        recorder.add_input(f"input_{index}", tensor)
    recorder.recording.buffers = {f"input_{index}": tensor for index, tensor in (buffers or {}).items()}
    with mode, enable_python_dispatcher(), disable_autocast_cache(), watched(recorder.recording.graph), recorder:
        results = function()
    recorder.finish(results)
    return recorder.recording


class _Recorder(ProxyTorchDispatchMode):  # type: ignore[no-untyped-call]
    """Of torch's mode, only its place in the dispatcher is used: before autograd and before any decomposition."""

    def __init__(self, mode: FakeTensorMode, answers: Answers | None) -> None:
        super().__init__(None, "fake", pre_dispatch=True)  # type: ignore[arg-type]
        self.recording, self._answers = Recording(), answers
        self._graph = self.recording.graph
        self._mode = mode
        self._nodes: MutableMapping[torch.Tensor, fx.Node] = WeakTensorKeyDictionary()
        if answers is not None:
            answers.node_of = self._nodes

    def add_input(self, name: str, tensor: torch.Tensor) -> None:
        self._come_from(self._graph.placeholder(name), tensor)

    def finish(self, results: Sequence[object]) -> None:
        self._graph.output(self._written(results))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._is_any_autocast_enabled():
            raise NotTraced("it casts by itself, under autocast")
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        if _READS_DATA in func.tags:
            return self._value(func, args, kwargs)
        func, args, kwargs = in_any_width(func, args, kwargs)
        if func is _ATEN.index.Tensor:
            args = self._with_places(*args)
        called = _ATEN.lift_fresh_copy.default if func is _ATEN.lift_fresh.default else func
        written_args, written_kwargs = self._written(args), self._written(kwargs)
        if func.overloadpacket is _ATEN.set_:
            raise Unfollowed("it gives a tensor the memory of another one (Tensor.set_)")
        known = self._known_result(called, written_args, written_kwargs) if _SIZE_BY_DATA in func.tags else None
        if known is not None:
            return known
        result = self._written_in_place(func, args, kwargs) if _writes(func) else self._result(func, args, kwargs)
        if isinstance(result, (bool, int, float, complex, str)):
            return result
        name = self._graph._target_to_str(func.overloadpacket.__name__)
        node = self._graph.create_node("call_function", called, written_args, written_kwargs, name)
        if func is _ATEN.contiguous.default:
            node.meta[SAME] = args[0].is_contiguous(**kwargs)
            result = self._result(_ATEN.alias.default, args, {}) if result is args[0] else result
        self._come_from(node, result)
        return result

    def _value(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A number that code looks at: known if it depends on no input; torch itself knows that of some constants."""
        written_args, written_kwargs = self._written(args), self._written(kwargs)
        try:
            return self.recording.known.call(func, written_args, written_kwargs)
        except Unknown:
            if self._answers is None:
                return func(*args, **kwargs)
        try:
            constants = self.recording.constants
            answer = self._answers.to(func, written_args, written_kwargs, self._graph, constants, read=args[0])
        except NoAnswer as reason:
            raise NotTraced(str(reason)) from reason
        if answer.decision is not None:
            self._check(written_args, written_kwargs, answer)
        return answer.value

    def _check(self, args: Sequence[Argument], kwargs: Mapping[str, Argument], answer: Answer) -> None:
        """Record what raises where another input gives another answer."""
        with torch._C._DisablePythonDispatcher():
            holds = holding(self._graph, answer.op, args, kwargs, answer.value)
        if holds is None:
            raise NotTraced(f"it looks at values by {answer.op}")
        add_check(self._graph, holds, str(answer.decision))

    def _result(self, func: OpOverload, args: Sequence[object], kwargs: dict[str, object]) -> object:
        try:
            with torch._C._DisablePythonDispatcher():
                return result_of(func, args, kwargs)
        except DataDependentOutputException:  # aten.is_nonzero, which has no tag
            return self._value(func, args, kwargs)
        except DynamicOutputShapeException:
            if self._answers is None:
                raise
            return self._of_answered_size(self._answers, func, self._written(args), self._written(kwargs))

    def _of_answered_size(
        self, answers: Answers, func: OpOverload, args: Sequence[Argument], kwargs: Mapping[str, Argument]
    ) -> torch.Tensor:
        """The result of an op whose shape values decide, in the shape that it has for the example."""
        tensors = [leaf.meta["val"] for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, fx.Node)]
        if any(is_dynamic(size) for tensor in tensors for size in tensor.shape):
            raise NotTraced("how large a result is depends on the values of each sample")
        with torch._C._DisablePythonDispatcher():
            count = counting(self._graph, func, args, kwargs)
        if count is None:
            raise NotTraced(f"how large the result of {func} is depends on values")
        try:
            constants = self.recording.constants
            answer = answers.to(_ATEN.item.default, (count,), {}, self._graph, constants, "the size of ")
            value = answers.example(func, args, kwargs)
        except NoAnswer as reason:
            raise NotTraced(str(reason)) from reason
        if answer.decision is not None:
            self._check((count,), {}, answer)
        return self._mode.from_tensor(value)

    def _known_result(self, func: OpOverload, args: Sequence[Argument], kwargs: Mapping[str, Argument]) -> object:
        """The result of an op whose shape depends on values, if these are known: another constant."""
        try:
            result = self.recording.known.call(func, args, kwargs)
        except Unknown:
            return None
        return pytree.tree_map_only(torch.Tensor, self._constant_like, result)

    def _with_places(
        self, x: torch.Tensor, indices: list[torch.Tensor | None]
    ) -> tuple[torch.Tensor, Sequence[torch.Tensor | None]]:
        """The arguments of an index, with numbers for a mask that is known: so many elements whatever the input is."""
        places: list[torch.Tensor | None] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                places.append(index)
                continue
            try:
                numbers = self.recording.known.call(_places, (self._written(index),), {})
            except Unknown:
                return x, indices
            places += map(self._constant_like, numbers)
        return x, places

    def _constant_like(self, value: torch.Tensor) -> torch.Tensor:
        fake = self._mode.from_tensor(value)
        node = self._constant(value)
        self._come_from(node, fake)
        return fake

    def _written_in_place(self, func: OpOverload, args: Sequence[object], kwargs: dict[str, object]) -> torch.Tensor:
        target = args[0] if args and isinstance(args[0], torch.Tensor) else None
        before = target if target is None else (target.shape, target.stride())
        with torch._C._DisablePythonDispatcher():
            result = result_of(func, args, kwargs)
        if target is not None and (target.shape, target.stride()) != before:
            raise NotTraced(f"{func} changes the shape of a tensor in place")
        if not isinstance(result, torch.Tensor):
            raise NotTraced(f"{func} writes in place and does not give back what it wrote")
        return result

    def _written(self, value: Any) -> Any:
        """A value with nodes for its tensors."""
        if isinstance(value, torch.Tensor):
            node = self._nodes.get(value)
            return self._constant(value) if node is None else node
        if type(value) in (tuple, list):
            return type(value)(self._written(item) for item in value)
        if type(value) is dict:
            return {key: self._written(item) for key, item in value.items()}
        if isinstance(value, torch.Generator):
            raise Unfollowed("it draws random numbers from a torch.Generator of its own")
        return value

    def _come_from(self, node: fx.Node, result: object) -> None:
        node.meta["val"] = result
        if isinstance(result, torch.Tensor):
            self._nodes[result] = node
            if isinstance(node.target, OpOverload) and _makes(node.target):
                node.meta["val"] = result.detach()
        elif isinstance(result, (tuple, list)):
            for index, item in enumerate(result):
                if item is not None:
                    self._come_from(self._graph.call_function(operator.getitem, (node, index)), item)

    def _constant(self, value: torch.Tensor) -> fx.Node:
        if is_functorch_wrapped_tensor(value):
            raise NotTraced("its code maps a function over samples")
        name = f"_tensor_constant{len(self.recording.constants)}"
        self.recording.constants[name] = value
        node = self._graph.create_node("get_attr", name)
        self._come_from(node, value)
        node.meta["val"] = value if isinstance(value, FakeTensor) else self._mode.from_tensor(value)
        return node


def _places(mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return mask.nonzero(as_tuple=True)


@cache
def _writes(func: OpOverload) -> bool:
    """Whether an op writes into one of its inputs."""
    return bool(func._schema.is_mutable)


@cache
def _makes(func: OpOverload) -> bool:
    """Whether an op makes a tensor from options (torch.arange); torch wraps that anew if anyone else holds it."""
    return any(argument.name == "pin_memory" for argument in func._schema.arguments)
