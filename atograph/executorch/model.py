"""A file in ExecuTorch on the CPU, called like the program that it was exported from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, OutputKind

from atograph.onnx.names import with_constants
from atograph.passes.errors import UserError
from atograph.passes.ir.exported.notes import size_names
from atograph.passes.torch_private import pytree
from atograph.sessions.file_model import FileModel
from atograph.sessions.runtime_process import RuntimeProcess

RUNTIME = RuntimeProcess("atograph.executorch.worker", "ExecuTorch", "executorch")

AGAIN = "It may be damaged; `atograph export --target executorch` writes it anew."


class ExecuTorchModel(FileModel):
    """A ``.pte`` file as a module: the same inputs and outputs as the program that it was exported from.

    Args:
        path: the file.
        program: the program that it was exported from; tells the form of inputs and outputs.

    Raises:
        UserError: ExecuTorch is not installed; or there is no such file, or it cannot be loaded.
    """

    runtime = RUNTIME
    form = "ExecuTorch file"

    def __init__(self, path: Path, program: ExportedProgram) -> None:
        RUNTIME.check()
        if not path.is_file():
            raise UserError("there is no such file.", where=str(path), hint=AGAIN)
        nn.Module.__init__(self)
        super().__init__(path, size=path.stat().st_size, hint=AGAIN)
        self.made_from(program)
        self._types = _types_of_outputs(program)

    @property
    def most(self) -> int | None:
        """The largest batch that it has memory for; None where it takes one batch alone."""
        shapes = {int(each.name): each.shape for each in self.inputs}
        sizes = [shapes[at][0] for at in _of_any_batch(self._program) if at in shapes]
        return min((size for size in sizes if isinstance(size, int)), default=None)

    def feed(self, *args: object, **kwargs: object) -> dict[str, Any]:
        """The inputs by their positions: tensors as arrays, those in bfloat16 in float32, and what is no tensor."""
        takes = self._program.call_spec.in_spec
        leaves = pytree.tree_leaves((args, kwargs)) if takes is None else takes.flatten_up_to((args, kwargs))
        return {str(at): _array(leaf) if isinstance(leaf, Tensor) else leaf for at, leaf in enumerate(leaves)}

    def forward(self, *args: object, **kwargs: object) -> Any:
        """Run the file."""
        values = self.run(self.feed(*args, **kwargs))
        tensors = [torch.from_numpy(value).to(type_) for value, type_ in zip(values, self._types, strict=True)]
        return with_constants(self._program, tensors)


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu().contiguous()
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _types_of_outputs(program: ExportedProgram) -> list[torch.dtype]:
    values = zip(program.graph.output_node().args[0], program.graph_signature.output_specs, strict=True)
    return [
        node.meta["val"].dtype
        for node, spec in values
        if spec.kind is OutputKind.USER_OUTPUT and not isinstance(spec.arg, ConstantArgument)
    ]


def _of_any_batch(program: ExportedProgram) -> list[int]:
    """The positions of inputs whose first dim is the batch, where that may be any."""
    nodes = {node.name: node for node in program.graph.nodes}
    found, named = [], size_names(program)
    for at, name in enumerate(program.graph_signature.user_inputs):
        node = nodes.get(str(name))
        shape = [] if node is None else list(getattr(node.meta.get("val"), "shape", ()))
        if shape and isinstance(shape[0], torch.SymInt) and 0 not in named.get(str(name), {}):
            found.append(at)
    return found
