"""Programs read back from their text: `format_program` of what is read is the text again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import fx

from atograph.passes.identifiers import identifier
from atograph.passes.ir.interface import Interface
from atograph.passes.ir.program import Program
from atograph.passes.ir.propagate import type_regions
from atograph.passes.public import public
from atograph.passes.text.filling import example_value, state_value
from atograph.passes.text.graphs import GraphReader
from atograph.passes.text.printer import TOLD
from atograph.passes.text.scanner import Scanner
from atograph.passes.text.signatures import read_signature
from atograph.passes.text.types import TensorType, read_type
from atograph.passes.torch_private import pytree

_KINDS = ("param", "buffer", "const", "input")
_SETTABLE = {each.name for each in fields(Interface) if each.compare} - TOLD


@dataclass(frozen=True)
class _Input:
    """An input within the arguments of a call."""

    name: str


@dataclass
class _Read:
    """What the lines of a program say of its interface."""

    signature: Signature | None = None
    call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    inputs: dict[str, TensorType] = field(default_factory=dict)
    devices: dict[str, torch.device] = field(default_factory=dict)
    values: dict[str, torch.Tensor] = field(default_factory=dict)
    writes: dict[str, Any] = field(default_factory=dict)


@public("atograph.passes")
def parse_program(
    text: str, *, state: Mapping[str, torch.Tensor] | None = None, seed: int | None = None, where: str = "text"
) -> Program:
    """Read a program from the text that `format_program` gives.

    Constants whose values are printed have these. Other tensors are those of ``state``; where there is none, they are
    drawn with ``seed``; without one they have shapes and no values (the meta device), and so has the example.

    Args:
        text: of one program; what stands behind it (facts) is a comment.
        state: name in the user's model → tensor.
        seed: of the numbers that are drawn.
        where: what the text is, for errors: a file's name.

    Raises:
        UserError: with line and column, what cannot be read, an op that does not exist or does not take its inputs, or
            a type that is none of what the op gives.
    """
    return _Parser(text, state or {}, seed, where).program()


class _Parser:
    def __init__(self, text: str, state: Mapping[str, torch.Tensor], seed: int | None, where: str) -> None:
        self.scanner, self.state, self.seed = Scanner(text, where), state, seed
        self.read = _Read()
        self.drawn = torch.Generator().manual_seed(seed or 0)
        self.root = torch.nn.Module()
        self.reader = GraphReader(self.scanner, self.root)

    def program(self) -> Program:
        scanner = self.scanner
        if scanner.keyword("program") is None:
            scanner.fail(f"a program begins with 'program {{', and here is {scanner.shown()}")
        scanner.expect("{")
        while self._line():
            pass
        scanner.expect("}")
        if not scanner.ended():
            scanner.fail(f"expected nothing behind the program and found {scanner.shown()}")
        interface = self._interface()
        tensors = {name: self.read.values[name] for name in self.read.state.values()}
        type_regions(self.reader.graph, self.root)
        return Program.build(self.reader.graph, interface, tensors, root=self.root)

    def _line(self) -> bool:
        """Read one line within the program; False at its end."""
        scanner = self.scanner
        scanner.skip()
        at, read = scanner.at, self.read
        word = scanner.keyword("set", "forward", "call", *_KINDS, "region", "write", "return")
        if word == "set":
            self._setting()
        elif word == "forward":
            read.signature = read_signature(scanner)
        elif word == "call":
            read.call = self._call()
        elif word in _KINDS:
            self._placeholder(word, at)
        elif word == "region":
            self.reader.region()
        elif word == "write":
            self._write()
        elif word == "return":
            self._return()
        elif scanner.next_is("%"):
            self.reader.op(self._dynamic())
        else:
            return False
        return True

    def _setting(self) -> None:
        self.scanner.skip()
        at, name = self.scanner.at, self.scanner.word("the name of a setting")
        if name not in _SETTABLE:
            self.scanner.fail(f"there is no setting {name}", at, f"Settings: {', '.join(sorted(_SETTABLE))}.")
        self.scanner.expect("=")
        self.read.settings[name] = self.scanner.value()

    def _call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call: ``(%x, mask=%mask)``; inputs are told below."""
        scanner, before = self.scanner, self.scanner.named
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        scanner.named = lambda sign, name: _Input(name) if sign == "%" else before(sign, name)

        def argument() -> None:
            if (key := scanner.key()) is not None:
                kwargs[key] = scanner.value()
            else:
                args.append(scanner.value())

        scanner.expect("(")
        scanner.items(")", argument)
        scanner.named = before
        return tuple(args), kwargs

    def _placeholder(self, kind: str, at: int) -> None:
        scanner, read = self.scanner, self.read
        if kind == "input":
            scanner.expect("%")
            name_at, name = scanner.at, scanner.word("the name of an input")
            placeholder = identifier(name)
            if placeholder != name:
                scanner.fail(f"no input can be called {name}", name_at, f"Perhaps {placeholder}?")
        else:
            name = scanner.state_name()
            placeholder = self.reader.free_name(f"{kind[0]}_{name}")
        scanner.expect(":")
        type_at = scanner.at
        told = read_type(scanner, self._dynamic())
        if not isinstance(told, TensorType):
            scanner.fail("expected the type of a tensor, such as f32[s0, 3]", type_at)
        assert isinstance(told, TensorType)
        strides = scanner.value() if scanner.keyword("strides") else None
        device = self._device()
        if name in (read.inputs if kind == "input" else read.kinds):
            scanner.fail(f"{name} is there twice", at)
        try:
            self.reader.placeholder(placeholder, told, device, strides, at, None if kind == "input" else name)
        except (RuntimeError, TypeError, ValueError) as error:
            scanner.fail(f"no tensor is like that: {str(error).splitlines()[0].rstrip('.')}", type_at)
        if kind == "input":
            read.inputs[name], read.devices[name] = told, device
            return
        read.state[placeholder], read.kinds[name] = name, kind
        value = (scanner.take("...") or scanner.value()) if scanner.take("=") else None
        read.values[name] = self._tensor(name, kind, told, device, value, at)

    def _device(self) -> torch.device:
        """Where a tensor lies, if that is told."""
        if not self.scanner.keyword("on"):
            return torch.device("cpu")
        self.scanner.skip()
        at = self.scanner.at
        try:
            return torch.device(self.scanner.string())
        except RuntimeError:
            self.scanner.fail("there is no device of that name", at)
            raise

    def _tensor(
        self, name: str, kind: str, told: TensorType, device: torch.device, value: object, at: int
    ) -> torch.Tensor:
        """What a parameter, a buffer or a constant is."""
        if name in self.state:
            given = self.state[name]
            if given.shape != told.shape or given.dtype != told.dtype:
                self.scanner.fail(f"{name} is given as {given.dtype} of the shape {list(given.shape)}", at)
            return given
        if value is not None and value is not True:
            try:
                return torch.tensor(value, dtype=told.dtype, device=device).reshape(told.shape)
            except (TypeError, ValueError, RuntimeError):
                self.scanner.fail(f"the values of {name} are none of its type and shape", at)
        try:
            made = state_value(told, device, self.drawn if self.seed is not None else None)
        except (RuntimeError, MemoryError) as error:
            self.scanner.fail(f"{name} cannot be made: {str(error).splitlines()[0].rstrip('.')}", at)
            raise
        return torch.nn.Parameter(made, made.is_floating_point()) if kind == "param" else made

    def _write(self) -> None:
        scanner = self.scanner
        scanner.skip()
        at = scanner.at
        target = scanner.value()
        if not isinstance(target, fx.Node) or target.op != "placeholder":
            scanner.fail("only inputs, buffers and parameters are written", at)
        scanner.expect("=")
        self.read.writes[target.name] = scanner.value()

    def _return(self) -> None:
        leaves, self.returns = pytree.tree_flatten(self.scanner.value())
        self.reader.graph.output([*self.read.writes.values(), *leaves])

    def _dynamic(self) -> Mapping[str, int]:
        return {size.name: size.values[0] for size in self.read.settings.get("dynamic", ())}

    def _interface(self) -> Interface:
        read = self.read
        if not hasattr(self, "returns"):
            self.scanner.fail("the program does not return")
        args, kwargs = read.call or (tuple(map(_Input, read.inputs)), {})
        leaves, takes = pytree.tree_flatten((args, kwargs))
        names = tuple(leaf.name if isinstance(leaf, _Input) else None for leaf in leaves)
        for name in {*names} - {None} ^ {*read.inputs}:
            self.scanner.fail(f"the input {name} is called and not told, or told and not called")
        generator = self.drawn if self.seed is not None else None
        values = [
            leaf if name is None else example_value(read.inputs[name], read.devices[name], generator)
            for leaf, name in zip(leaves, names, strict=True)
        ]
        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in read.inputs]
        return Interface(
            state=read.state,
            parameters=_of_kind(read.kinds, "param"),
            buffers=_of_kind(read.kinds, "buffer"),
            inputs=names,
            takes=takes,
            returns=self.returns,
            signature=read.signature or Signature(parameters),
            writes=tuple(read.writes),
            example=pytree.tree_unflatten(values, takes),
            **read.settings,
        )


def _of_kind(kinds: Mapping[str, str], kind: str) -> frozenset[str]:
    names: Iterable[str] = (name for name, own in kinds.items() if own == kind)
    return frozenset(names)
