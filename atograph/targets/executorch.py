"""ExecuTorch's files, with what XNNPACK can compute given to it, in ExecuTorch's runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.export import ExportedProgram

from atograph.onnx.names import with_constants, without_constants
from atograph.passes.errors import UserError
from atograph.passes.torch_private import pytree
from atograph.targets.base import Target


class ExecuTorch(Target):
    """A ``.pte`` file for phones and other small devices: XNNPACK's kernels, and portable ones for the rest.

    It runs inputs up to the largest sizes that it has memory planned for.
    """

    name: ClassVar[str] = "executorch"
    title: ClassVar[str] = "ExecuTorch"
    file: ClassVar[str] = "slim.pte"

    def export(self, program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
        """By ExecuTorch's own exporter."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        edge = to_edge_transform_and_lower(without_constants(program), partitioner=[XnnpackPartitioner()])
        path.write_bytes(edge.to_executorch().buffer)

    def load(self, path: Path, program: ExportedProgram) -> Callable[..., object]:
        """By ExecuTorch's Python runtime, in this process."""
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("forward")

        def run(*args: object, **kwargs: object) -> object:
            given, takes = (args, kwargs), program.call_spec.in_spec
            leaves = pytree.tree_leaves(given) if takes is None else takes.flatten_up_to(given)
            values = method.execute([leaf.contiguous() if isinstance(leaf, Tensor) else leaf for leaf in leaves])
            return with_constants(program, [torch.clone(value) for value in values])

        return run

    def check(self, state: Mapping[str, Tensor]) -> None:
        """ExecuTorch itself."""
        if find_spec("executorch") is None:
            raise UserError(
                "ExecuTorch needs the package executorch, which is not installed.",
                hint="pip install 'atograph[executorch]'",
            )
