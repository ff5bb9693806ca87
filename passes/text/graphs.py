"""The lines of a graph read back: its placeholders, its calls, and the regions that calls name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from atograph.passes.ir.fake.tensors import empty
from atograph.passes.ir.program import attach
from atograph.passes.ir.propagate import run, run_control, runs_alone
from atograph.passes.ir.regions.control import control_of
from atograph.passes.ir.sizes import text as size_text
from atograph.passes.text.literals import DTYPES, Opaque
from atograph.passes.text.scanner import Scanner
from atograph.passes.text.targets import find_target
from atograph.passes.text.types import TensorType, read_type
from atograph.passes.torch_private import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

_ASSERT = torch.ops.aten._assert_scalar.default


class GraphReader:
    """Reads lines into a graph.

    Args:
        scanner: what to read.
        root: the module that regions become parts of.
    """

    def __init__(self, scanner: Scanner, root: torch.nn.Module) -> None:
        self.scanner, self.root, self.graph = scanner, root, fx.Graph()
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.nodes: dict[str, fx.Node] = {}
        self.state: dict[str, fx.Node] = {}
        self.regions: set[str] = set()
        self.calls = False
        self._taken = set(re.findall(r"%(\w+)", scanner.text))
        scanner.named = self.find

    def find(self, sign: str, name: str) -> Any:
        """What a name stands for: a node (``%``), a region (``@``), or a tensor of the model."""
        if sign == "@":
            if name not in self.regions:
                self.scanner.fail(f"there is no region @{name} before this line")
            return self.graph.create_node("get_attr", name, name=self.free_name(name))
        known = self.nodes if sign else self.state
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, list(known), n=1)
            hint = f"Perhaps {sign}{near[0]}?" if near else None
            self.scanner.fail(f"{sign}{name} is not known before this line", self.scanner.at - len(name), hint)
        return known[name]

    def free_name(self, name: str) -> str:
        """A name for a node that no line of the text has."""
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        while plain in self._taken:
            plain += "_"
        self._taken.add(plain)
        return plain

    def placeholder(
        self,
        name: str,
        told: TensorType | None,
        device: torch.device,
        strides: object,
        at: int,
        state: str | None,
    ) -> None:
        """Add a placeholder.

        Args:
            name: of the node.
            told: its type; None within a region.
            device: it is on.
            strides: of its elements; None: row by row.
            at: where it stands.
            state: its name in the model; None for an input.
        """
        if name in self.nodes or self.calls:
            self.scanner.fail("inputs, parameters, buffers and constants come first, each once", at)
        node = self.graph.placeholder(name)
        node.name = name  # fx renames what is called like a function of Python
        if told is not None:
            steps = strides if isinstance(strides, tuple) and len(strides) == len(told.shape) else None
            node.meta["val"] = empty(self.mode, told.shape, told.dtype, device, steps)
        if state is None:
            self.nodes[name] = node
        else:
            self.state[state] = node

    def op(self, dynamic: Mapping[str, int], *, typed: bool = True) -> None:
        """Read ``%name = aten.op(...) : type`` into a node; its type is derived, and has to be what is told.

        Args:
            dynamic: the dynamic sizes of the program, name → what it is for the example.
            typed: whether nodes have types: not within regions.
        """
        scanner = self.scanner
        start = scanner.at
        scanner.expect("%")
        name = scanner.word("a name")
        scanner.expect("=")
        scanner.skip()
        at = scanner.at
        node, self.calls = self._called(scanner.word("an op"), name, at), True
        if node.name != name or name in self.nodes:
            scanner.fail(f"%{name} is taken: it is there twice, or a word of Python", start)
        self.nodes[name] = node
        if typed:
            type_at = scanner.at
            has_type = scanner.take(":")
            scanner.skip()
            type_at = scanner.at if has_type else type_at
            told = read_type(scanner, dynamic) if has_type else None
            self._give_value(node, told, has_type, at, type_at)

    def region(self) -> None:
        """Read ``@name(%x) { ... }`` into a part of the module."""
        scanner = self.scanner
        scanner.expect("@")
        at, name = scanner.at, scanner.word("the name of a region")
        if scanner.keyword("opaque"):
            scanner.fail(f"what @{name} is was no graph, and has no text", at)
        part = torch.nn.Module()
        inner = GraphReader(scanner, part)
        scanner.expect("(")
        scanner.items(")", lambda: inner._argument())
        scanner.expect("{")
        while scanner.keyword("region"):
            inner.region()
        while scanner.next_is("%"):
            inner.op({}, typed=False)
        if scanner.keyword("return") is None:
            scanner.fail(f"expected a call or 'return' and found {scanner.shown()}")
        inner.graph.output(scanner.value())
        scanner.expect("}")
        attach(self.root, name, fx.GraphModule(part, inner.graph))
        self.regions.add(name)
        scanner.named = self.find

    def _argument(self) -> None:
        self.scanner.expect("%")
        at, name = self.scanner.at, self.scanner.word("a name")
        self.placeholder(name, None, torch.device("cpu"), None, at, None)

    def _called(self, target: str, name: str, at: int) -> fx.Node:
        """The node of a call."""
        scanner = self.scanner
        function = find_target(target)
        if function is None:
            scanner.fail(f"there is no op {target}", at, "An op of a package is known once the package is imported.")
        args: list[Any] = []
        kwargs: dict[str, Any] = {}

        def argument() -> None:
            argument_at, key = scanner.at, scanner.key()
            value = scanner.value()
            if isinstance(value, Opaque):
                scanner.fail(f"a value of the kind {value.kind} has no text", argument_at)
            if key is None:
                args.append(value)
            else:
                kwargs[key] = value

        scanner.expect("(")
        scanner.items(")", argument)
        assert function is not None
        return self.graph.create_node("call_function", function, tuple(args), kwargs, name=name)

    def _give_value(self, node: fx.Node, told: object, has_type: bool, at: int, type_at: int) -> None:
        """Derive what a node gives; where only the data tell, it is what the text says."""
        try:
            control = control_of(node, self.root)
            if control is None and (not runs_alone(node) or node.target is _ASSERT):
                node.meta["val"] = self._value_of(told)
                return
            with self.mode, torch.no_grad():
                value = run(node) if control is None else run_control(control)
        except (DataDependentOutputException, DynamicOutputShapeException):
            value = self._value_of(told)
        except KeyError:
            if not has_type or control is None:
                self.scanner.fail("one of its inputs has no type", at)
            value = self._value_of(told)
        except Exception as error:
            for each in node.all_input_nodes:
                if each.op == "call_function" and each.meta.get("val") is None:
                    self.scanner.fail(f"what %{each.name} gives cannot be told, and needs a type on its line", at)
            said = str(error).strip().splitlines() or [type(error).__name__]
            self.scanner.fail(f"{node.target} does not take its inputs: {said[0].rstrip('.')}", at)
        node.meta["val"] = value
        for result in control.gives if control is not None else ():
            forms = [_shown(each.meta["val"]) for each in result.of if isinstance(each, fx.Node) and "val" in each.meta]
            if len({*forms}) > 1:
                self.scanner.fail(f"the regions of {node.target} do not give the same: {' and '.join(forms)}", at)
        if has_type and not _is_of(value, told):
            self.scanner.fail(f"{node.target} gives {_shown(value)} here, not {_shown(told)}", type_at)

    def _value_of(self, told: object) -> object:
        if isinstance(told, tuple):
            return tuple(self._value_of(part) for part in told)
        if isinstance(told, TensorType):
            return empty(self.mode, told.shape, told.dtype, torch.device("cpu"))
        return told


def _is_of(value: object, told: object) -> bool:
    if isinstance(value, (tuple, list)):
        return isinstance(told, tuple) and len(told) == len(value) and all(map(_is_of, value, told))
    if isinstance(value, torch.Tensor):
        return isinstance(told, TensorType) and (told.dtype, told.shape) == (value.dtype, tuple(value.shape))
    return not isinstance(told, TensorType) and value == told


def _shown(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, (torch.Tensor, TensorType)):
        return f"{DTYPES[value.dtype]}[{', '.join(map(size_text, value.shape))}]"
    return str(value)
