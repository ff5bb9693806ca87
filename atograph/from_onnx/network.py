"""A whole ONNX file as a module that is called by the names of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch

from atograph.from_onnx import rows
from atograph.from_onnx.body import Body
from atograph.from_onnx.file import OnnxFile, identifiers, read_onnx
from atograph.from_onnx.known import Known
from atograph.from_onnx.op import NotKnown, Op
from atograph.passes.errors import UserError
from atograph.passes.identifiers import identifier
from atograph.values.user_code import one_line


class OnnxNetwork(Body):
    """The network of an ONNX file; its weights are parameters under the names that the file has for them.

    Attributes:
        file: what was read.
        arguments: input of the file → the parameter of ``forward``.
        names: input of the program, and output that it calls otherwise → what files call it.
    """

    def __init__(self, file: OnnxFile) -> None:
        rows.load()
        try:
            super().__init__(file.model.graph, file.opsets)
        except UserError as error:
            raise UserError(error.message, where=str(file.path), hint=error.hint) from error
        if self.outer:
            raise UserError(f"nothing gives the value {self.outer[0]!r}, which it reads.", where=str(file.path))
        self.file = file
        self.arguments = identifiers(self.inputs)
        self.names = {own: name for name, own in self.arguments.items()}
        self.names |= {f"output_{name}": name for name in self.outputs if name[:1].isdigit()}

    @property
    def unrolled(self) -> str:
        """The place of a loop that went round as often as an input is long, when it was last computed; empty: none."""
        return next((op.place for op in self.modules() if isinstance(op, Op) and op.by_length), "")

    def by_name(self, values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """All outputs by their names, of the inputs by theirs.

        Raises:
            UserError: a node cannot be computed; with its name, and why.
        """
        given = [values[name] for name in self.inputs]
        like = next((each for each in given if isinstance(each, torch.Tensor)), None)
        made = self.compute(given, {})
        found = {}
        for name, value in zip(self.outputs, made, strict=True):
            if isinstance(value, Known):
                value = value.tensor().to("cpu" if like is None else like.device)
            found[name] = value
        return found

    def _apply(self, function: Callable[..., Any], recurse: bool = True) -> Self:
        """Moved or cast; where the weights become float64, so does all that the file calls float32."""
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        self.set_width()
        return self

    def set_width(self) -> None:
        """Let what the file calls float32 be of the type of its weights."""
        types = {each.dtype for each in self.parameters()}
        wide = torch.float64 if torch.float64 in types and torch.float32 not in types else torch.float32
        for module in self.modules():
            if isinstance(module, Op):
                module.wide = wide


def network_of(file: OnnxFile | Path | str) -> OnnxNetwork:
    """The network of an ONNX file: a class of its own, whose ``forward`` has the file's inputs for parameters.

    Raises:
        UserError: it cannot be read, or has an op of which nothing is known.
    """
    read = file if isinstance(file, OnnxFile) else read_onnx(Path(file))
    arguments = identifiers([each.name for each in read.inputs])
    kind = type("OnnxNetwork", (OnnxNetwork,), {"forward": _forward(arguments.values()), "__module__": __name__})
    made = kind(read)
    made.eval()
    assert isinstance(made, OnnxNetwork)
    return made


def _forward(names: Iterable[str]) -> Callable[..., dict[str, torch.Tensor]]:
    """A method with these parameters, in the order of the inputs, made as `dataclasses` makes an ``__init__``: whoever
    wraps it, or asks for its code, finds an ordinary one (torch.export does)."""
    listed = [*names]
    assert all(identifier(name) == name for name in listed), "no code is in a name"
    values = "".join(f"{name}, " for name in listed)
    space: dict[str, Any] = {}
    exec(f"def forward(self, {values}):\n    return self.by_name(dict(zip(self.inputs, ({values}))))", space)
    found: Callable[..., dict[str, torch.Tensor]] = space["forward"]
    return found


def tried(network: OnnxNetwork, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What a network gives, with an error that names the node where it gives nothing.

    Raises:
        UserError: a node cannot be computed.
    """
    try:
        with torch.no_grad():
            return network.by_name(inputs)
    except UserError as error:
        kind = NotKnown if isinstance(error, NotKnown) else UserError
        raise kind(error.message, where=str(network.file.path), hint=error.hint) from error
    except Exception as error:
        at = next((note for note in getattr(error, "__notes__", ())), "a node")
        raise UserError(f"{at} cannot be computed: {one_line(error)}.", where=str(network.file.path)) from error
