"""Tensors without data in the place of meta tensors."""

from __future__ import annotations

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from atograph.passes.ir.interface import Example
from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule
from atograph.passes.torch_private import FakeTensorMode, pytree


def with_stand_ins(module: ProgramModule, program: Program) -> Example:
    """Example inputs as tensors without data, on the device that the program runs on; so are the module's meta tensors
    from then on."""
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv(), export=True)
    devices = {
        name: node.meta["val"].device
        for node in program.graph.nodes
        if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor)
        for name in [program.interface.state.get(node.name, node.name)]
    }

    def fake(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        with mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for leaf, tensor in table.items():
                if tensor is not None and tensor.is_meta:
                    made = fake(tensor, _device_of(tensor, program, devices))
                    trained = isinstance(tensor, nn.Parameter)
                    table[leaf] = nn.Parameter(made, tensor.requires_grad) if trained else made  # type: ignore[assignment]
    leaves, structure = pytree.tree_flatten(program.interface.example)
    stand_ins = [
        fake(leaf, devices.get(name or "", leaf.device)) if isinstance(leaf, torch.Tensor) else leaf
        for name, leaf in zip(program.interface.inputs, leaves, strict=True)
    ]
    example: Example = pytree.tree_unflatten(stand_ins, structure)
    return example


def _device_of(tensor: torch.Tensor, program: Program, devices: dict[str, torch.device]) -> torch.device:
    return next(devices[name] for name, value in program.state.items() if value is tensor)
