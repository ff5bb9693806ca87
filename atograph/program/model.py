"""The slim program of a file, called as a module; it runs in a process of its own, as nobody knows what it does."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from atograph.onnx.export import export_onnx
from atograph.onnx.kept_apart import Pair
from atograph.onnx.names import output_names
from atograph.passes.errors import UserError
from atograph.passes.ir.exported.called import module_of
from atograph.passes.torch_private import OpOverload, pytree
from atograph.process import child_process
from atograph.process.child_process import Child, ChildDied, ChildError, ChildRefused
from atograph.program import pt2_file
from atograph.program.worker import packed, unpacked

_SECONDS_PER_BYTE = 60 / 1e9
"""More time for large programs: a minute for each GB of weights."""

_EXPORT_SECONDS = 1800.0
"""What an export may take."""

_DAMAGED = "It is damaged; copy it again, or make it again."

_LIBRARIES = {
    "aten": None,
    "prims": None,
    "torchvision": "torchvision",
    "quantized_decomposed": "torch.ao.quantization.fx._decomposed",
}
"""Libraries of ops that the process can have, and the module that brings them where torch alone does not."""

_numbers = count(1)
_child: Child | None = None


def program_child() -> Child:
    """The process that programs of files run in: one for all, and another one once it has died."""
    global _child
    if _child is None or not _child.alive:
        _child = Child("atograph.program.worker")
    return _child


class ProgramModel(nn.Module):
    """The slim program of a folder as a module, in another process, on what inputs it may be called with.

    A program with ops of the user's own, which his own code has defined here, is run here: no other process has them.

    Attributes:
        program: as it was read.
        seconds: what a call may take.

    Args:
        folder: where it was read from.
        program: what was read.
    """

    def __init__(self, folder: Path, program: ExportedProgram) -> None:
        super().__init__()
        self._file, self.program, self._number = folder / pt2_file.NAME, program, next(_numbers)
        ops = {op for op in _targets(program) if isinstance(op, OpOverload)}
        libraries = {op.namespace for op in ops}
        self._here = not libraries <= _LIBRARIES.keys()
        self._source = {
            "folder": str(folder.resolve()),
            "ops": sorted(map(str, ops)),
            "imports": sorted(filter(None, (_LIBRARIES.get(library) for library in libraries))),
        }
        size = sum(value.nbytes for value in program.state_dict.values())
        self.seconds = child_process.SECONDS + _SECONDS_PER_BYTE * size

    def forward(self, *args: object, **kwargs: object) -> Any:
        """Run the program.

        Raises:
            UserError: it cannot be run on these inputs, does not survive them, or takes too long.
        """
        try:
            if self._here:
                with torch.no_grad():
                    return module_of(self.program)(*args, **kwargs)
            values = program_child().call("run", self._number, self._source, self._leaves(args, kwargs),
                                          seconds=self.seconds)  # fmt: skip
            leaves = [unpacked(value) for value in values]
        except Exception as error:  # whatever its ops raise
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            how = "does not survive" if isinstance(error, ChildDied) else "cannot be run on"
            raise UserError(
                f"this slim program {how} its example inputs: {reason[:300].rstrip('.')}.",
                where=str(self._file),
                hint=_DAMAGED,
            ) from error
        spec = self.program.call_spec.out_spec
        return leaves if spec is None else pytree.tree_unflatten(leaves, spec)

    def _leaves(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[object]:
        given = (args, dict(kwargs))
        spec = self.program.call_spec.in_spec
        try:  # by the names of keywords, whatever their order is
            leaves = pytree.tree_leaves(given) if spec is None else spec.flatten_up_to(given)
        except ValueError:
            leaves = pytree.tree_leaves(given)
        return [packed(leaf) for leaf in leaves]

    def export_onnx(
        self,
        path: Path,
        *,
        opset: int | None = None,
        metadata: Mapping[str, str] | None = None,
        external_data: bool = False,
        apart: Collection[Pair] = (),
    ) -> Path:
        """`onnx.export.export_onnx` of the program, in the other process: torch.onnx computes what is constant.

        Raises:
            UserError: as there; or it does not survive it.
        """
        options: dict[str, Any] = {"opset": opset, "metadata": dict(metadata or {}), "external_data": external_data}
        if self._here:
            return export_onnx(self.program, path, apart=apart, **options)
        options |= {"apart": [list(pair) for pair in apart], "outputs": output_names(self.program)}
        try:
            said = program_child().call("export", self._number, self._source, str(path.resolve()), options,
                                        seconds=_EXPORT_SECONDS)  # fmt: skip
        except ChildError as error:
            code = error.errno if isinstance(error, ChildRefused) else None
            if code is not None:
                raise OSError(code, os.strerror(code)) from error
            raise UserError(
                f"this slim program cannot be exported: {str(error)[:300].rstrip('.')}.",
                where=str(self._file),
                hint=_DAMAGED,
            ) from error
        if said is not None:
            message, where, hint = said
            raise UserError(message, where=where, hint=hint)
        return path

    def onnx_file(self, aside: Path) -> Path:
        """The ``slim.onnx`` beside it; where there is none (after `Slim.save`, ``atograph apply``) one made aside."""
        path = self._file.with_name("slim.onnx")
        return path if path.is_file() else self.export_onnx(aside / path.name)


def _targets(program: ExportedProgram) -> Iterator[object]:
    """What its nodes call, those of regions as well."""
    for part in program.graph_module.modules():
        if isinstance(part, fx.GraphModule):
            yield from (node.target for node in part.graph.nodes if node.op == "call_function")
