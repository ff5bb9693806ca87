"""An ONNX file as it lies on the disk: what it takes, what it gives, its graph."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import inliner

from atograph.from_onnx.op import TYPES
from atograph.passes.errors import UserError
from atograph.passes.identifiers import identifier
from atograph.passes.ir.about import About
from atograph.values.user_code import one_line

SUFFIX = ".onnx"
_INCOMPLETE = "Is it complete, with the weights that lie in a file beside it?"
_BESIDE = "Its weights lie in another file, which belongs beside it, under the name that it was written with."
_INVALID = "ONNX's own checker refuses it: what wrote it has to be mended."
_SHAPELESS = "Inputs and outputs have to say their shapes: onnx.tools.update_model_dims.update_inputs_outputs_dims."
_HINTS = {"'shape'": _SHAPELESS, "Data of TensorProto": _BESIDE}
"""What the checker says, in part → what to do."""

OLDEST = 7
"""The opset from which on ops broadcast as they do now."""


@dataclass(frozen=True)
class FileValue:
    """An input or output.

    Attributes:
        name: as the file has it.
        code: ONNX's number of its type.
        shape: a size, a name, or None for a size that has no name; None for any rank.
    """

    name: str
    code: int
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class OnnxFile:
    """What was read.

    Attributes:
        path: where from.
        model: all of it.
        inputs: what has to be given: without initialisers, which older files list as well.
        outputs: what it gives.
        opsets: by domain.
    """

    path: Path
    model: onnx.ModelProto
    inputs: tuple[FileValue, ...]
    outputs: tuple[FileValue, ...]
    opsets: Mapping[str, int]

    def __deepcopy__(self, _memo: object) -> OnnxFile:
        """Itself: nobody changes it."""
        return self

    @property
    def about(self) -> About:
        """What it says of itself, without what atograph said of the plan that an earlier file was made by."""
        model, graph = self.model, self.model.graph
        said = {entry.key: entry.value for entry in model.metadata_props}
        return About(
            model.doc_string, model.domain, model.model_version, graph.name, graph.doc_string,
            {key: value for key, value in said.items() if not key.startswith("atograph.")},
            {value.name: value.doc_string for value in (*graph.input, *graph.output) if value.doc_string},
        )  # fmt: skip


def read_onnx(path: Path) -> OnnxFile:
    """Read a file, with weights that lie in others beside it.

    Raises:
        UserError: it is none, it is damaged, or takes something that is no tensor.
    """
    if not path.is_file():
        raise UserError("no such file.", where=str(path))
    try:
        model = onnx.load(str(path))
        if model.functions:
            _as_one_opset(model)
            model = inliner.inline_local_functions(model)
        onnx.checker.check_model(model) if model.ByteSize() < 2**31 - 1 else None
    except Exception as error:
        checked = isinstance(error, onnx.checker.ValidationError)
        known = next((hint for word, hint in _HINTS.items() if checked and word in str(error)), _INVALID)
        raise UserError(
            f"this is no ONNX file that can be read: {one_line(error)}.", where=str(path),
            hint=known if checked else _INCOMPLETE,
        ) from error  # fmt: skip
    opsets = {each.domain if each.domain != "ai.onnx" else "": each.version for each in model.opset_import}
    if opsets.get("", OLDEST) < OLDEST:
        raise UserError(
            f"it is of opset {opsets['']}, and ops broadcast in another way before {OLDEST}.", where=str(path),
            hint="onnx.version_converter makes a newer one of it.",
        )  # fmt: skip
    constants = {each.name for each in model.graph.initializer}
    inputs = [_value(each, path) for each in model.graph.input if each.name not in constants]
    return OnnxFile(path, model, tuple(inputs), tuple(_value(each, path) for each in model.graph.output), opsets)


def _as_one_opset(model: onnx.ModelProto) -> None:
    """Let functions be of the opset of the graph where all of their ops are the same in both: others stay calls."""
    versions = {each.domain: each.version for each in model.opset_import}
    for function in model.functions:
        for own in function.opset_import:
            other = versions.get(own.domain, own.version)
            ops = [node.op_type for node in function.node if node.domain == own.domain]
            if other != own.version and all(_since(op, own, own.version) == _since(op, own, other) for op in ops):
                own.version = other


def _since(op: str, opset: onnx.OperatorSetIdProto, version: int) -> int | None:
    """Since when an op is what it is at a version; None for one that ONNX does not know."""
    if not onnx.defs.has(op, version, opset.domain):
        return None
    return int(onnx.defs.get_schema(op, version, opset.domain).since_version)


def _value(value: onnx.ValueInfoProto, path: Path) -> FileValue:
    kind = value.type
    if not kind.HasField("tensor_type") or kind.tensor_type.elem_type not in TYPES:
        raise UserError(
            f"{value.name!r} is no tensor of numbers.", where=str(path),
            hint="Cut it off, with onnx.utils.extract_model say; the rest can be pruned.",
        )  # fmt: skip
    tensor = kind.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(each.dim_value if each.dim_value > 0 else _name(each.dim_param) for each in tensor.shape.dim)
    return FileValue(value.name, tensor.elem_type, shape)


def _name(text: str) -> str | None:
    return None if text in ("", "?") else text


def identifiers(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """A Python name for each of some names (`passes.identifiers`), none twice."""
    known, found = {*taken}, dict[str, str]()
    for name in names:
        plain = identifier(re.sub(r"\W+", "_", unicodedata.normalize("NFKC", name)).strip("_")).strip("_")
        while plain in known:
            plain += "_"
        known.add(plain)
        found[name] = plain
    return found
