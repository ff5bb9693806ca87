"""Values of recorded nodes that depend on no input: code may look at them, because they are the same in every run.

A mask made of constants, a list of dimensions from ``torch.arange``, strides that a module keeps in a tensor: a
recording runs on tensors without data, and here the few ops that lead to such a value are run again, on real ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.fx.node import Argument

from atograph.passes.ir.randomness import draws
from atograph.passes.ir.sizes import at, is_dynamic, may_follow_batch
from atograph.passes.torch_private import FakeTensor, disable_current_modes, pytree

_MOST = 2**24
"""Tensors of more elements are not computed."""


class _Model(NamedTuple):
    """An argument of an op that tells a type and a device, and no values."""

    position: int
    shape: bool  # whether its shape counts, too


_MODELS = {
    **dict.fromkeys(("new_full", "new_zeros", "new_ones"), _Model(0, shape=False)),
    **dict.fromkeys(("full_like", "zeros_like", "ones_like"), _Model(0, shape=True)),
    **dict.fromkeys(("type_as", "to.other"), _Model(1, shape=False)),
    **dict.fromkeys(("expand_as", "view_as", "reshape_as"), _Model(1, shape=True)),
}


class KnownValues:
    """The values of the nodes of a growing graph, as far as they depend on no input.

    Args:
        graph: it is read on from where it ended when a value is asked for.
        constants: ``get_attr`` target → tensor.
        buffers: placeholder → a buffer's real tensor, for those that code may look at.
        batch: what the batch is taken for; None: what follows it is not known.
        whole: whether ``buffers`` has a tensor of its own for each placeholder, so that only chance is unknown; then
            tensors of any size are computed, and only parameters and constants hold more than this run.
    """

    def __init__(
        self,
        graph: fx.Graph,
        constants: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
        batch: int | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self._whole = whole
        self._constants, self._buffers, self._batch = constants, buffers, batch
        self._values: dict[fx.Node, object] = {}
        self._sources: dict[fx.Node, frozenset[str]] = {}
        self._read_up_to = graph._root
        self._lasting: set[int] = set()  # storages of buffers and constants, which hold more than this run
        self._taken: set[int] = set()  # storages that an op with an unknown result has read
        self._spoilt: set[int] = set()  # storages that were written with what is not known, or after that
        self.read: set[str] = set()

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an op gives on arguments written with nodes, if all of these are known.

        Raises:
            Unknown: one of them is not.
        """
        with disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
            self._read_on()
            nodes = list(_nodes((args, kwargs)))
            self._require(nodes)
            result = func(*self._real(args), **self._real(kwargs))
        self.read.update(*(self._sources[node] for node in nodes))
        return result

    def behind(self, value: object) -> frozenset[str]:
        """The placeholders that arguments written with nodes are computed from."""
        return frozenset().union(*(self._sources[node] for node in _nodes(value)))

    def values(self) -> dict[fx.Node, object]:
        """What is known of the whole graph, as it is in the end: node → tensor, or tensors."""
        with disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
            self._read_on()
        return {node: value for node, value in self._values.items() if _storage(value) not in self._spoilt}

    def _read_on(self) -> None:
        node = self._read_up_to.next
        while node.op != "root":
            try:
                self._evaluate(node)
            except Exception:  # what has no kernel for real tensors, say, stays unknown
                self._spoil(node)
            self._read_up_to = node
            node = node.next

    def _evaluate(self, node: fx.Node) -> None:
        if node.op in ("get_attr", "placeholder"):
            self._start(node)
            return
        args = self._without_models(node)
        nodes = list(_nodes((args, node.kwargs)))
        if draws(node) if self._whole else not self._is_small_and_same(node):
            raise Unknown
        self._require(nodes)
        if self._storages(_targets(node)) & (self._lasting | self._taken):
            raise Unknown
        self._values[node] = node.target(*self._real(args), **self._real(node.kwargs))  # type: ignore[operator]
        self._sources[node] = frozenset().union(*(self._sources[each] for each in nodes))

    def _without_models(self, node: fx.Node) -> tuple[Argument, ...]:
        """The arguments of a node, with an empty tensor for one that only tells a type."""
        target = str(node.target).removeprefix("aten.")
        model = _MODELS.get(target) or _MODELS.get(target.partition(".")[0])
        if model is None or len(node.args) <= model.position:
            return node.args
        args = list(node.args)
        value = args[model.position].meta["val"]  # type: ignore[union-attr]
        shape = list(map(self._number, value.shape)) if model.shape else []
        args[model.position] = torch.empty(shape, dtype=value.dtype, device=value.device)
        return tuple(args)

    def _is_small_and_same(self, node: fx.Node) -> bool:
        return _is_deterministic(node) and self._elements(node.meta.get("val")) <= _MOST

    def _start(self, node: fx.Node) -> None:
        table = self._constants if node.op == "get_attr" else self._buffers
        tensor = table.get(str(node.target))
        if tensor is None or isinstance(tensor, FakeTensor) or tensor.is_meta:
            return
        if tensor.numel() > _MOST and not self._whole:
            return
        self._values[node] = tensor.detach()
        self._sources[node] = frozenset([str(node.target)] if node.op == "placeholder" else [])
        if not self._whole or node.op == "get_attr" or isinstance(tensor, torch.nn.Parameter):
            self._lasting.add(_storage(tensor))

    def _require(self, nodes: list[fx.Node]) -> None:
        for node in nodes:
            if node not in self._values or _storage(self._values[node]) in self._spoilt:
                raise Unknown

    def _spoil(self, node: fx.Node) -> None:
        """What an unknown node writes is unknown, whoever shares its memory; what it reads is not to change."""
        self._spoilt |= self._storages(_targets(node))
        self._taken |= self._storages(_nodes((node.args, node.kwargs)))

    def _storages(self, nodes: Iterable[fx.Node]) -> set[int]:
        return {_storage(self._values[node]) for node in nodes if node in self._values}

    def _real(self, argument: Any) -> Any:
        """An argument with tensors for its nodes.

        Raises:
            Unknown: it holds a number that follows the batch, which is not given.
        """

        def real(leaf: object) -> Any:
            if isinstance(leaf, fx.Node):
                return self._values[leaf]
            return self._number(leaf) if type(leaf) is int else leaf

        return fx.node.map_aggregate(argument, real)

    def _number(self, number: int) -> int:
        if not may_follow_batch(number):
            return number
        if self._batch is None or not is_dynamic(number):
            raise Unknown
        return at(number, self._batch)

    def _elements(self, value: object) -> int:
        tensors = (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor))
        return sum(prod(map(self._number, tensor.shape)) for tensor in tensors)


class Unknown(Exception):
    """A value depends on the inputs, on weights, or on chance."""


def _nodes(value: object) -> Iterator[fx.Node]:
    return (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, fx.Node))


def _targets(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes whose memory a node writes to."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            yield from _nodes(value)


def _is_deterministic(node: fx.Node) -> bool:
    tags = getattr(node.target, "tags", ())
    name = getattr(node.target, "__name__", "")
    return torch.Tag.nondeterministic_seeded not in tags and "empty" not in name


def _storage(value: object) -> int:
    return value.untyped_storage().data_ptr() if isinstance(value, torch.Tensor) and not value.is_sparse else 0
