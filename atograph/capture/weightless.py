"""Models without weights: made on the meta device, and captured as if they had been loaded.

A tensor on the meta device has a shape and a type and no values. Capture needs no more. But an op on a meta tensor and
a CPU tensor fails, and a program that was captured on the meta device would make its constants there for ever. So each
meta tensor is captured as a fake tensor on the CPU, and stands in the program's state as the meta tensor that it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakIdKeyDictionary

from atograph.capture.model_state import current_state
from atograph.capture.standing_in import held_tensors, standing_in
from atograph.capture.to_program import capture
from atograph.passes.ir.interface import Example
from atograph.passes.ir.program import Program
from atograph.passes.public import public
from atograph.passes.torch_private import FakeTensor, FakeTensorMode, pytree
from atograph.values.batch_size import repeat_single
from atograph.values.dynamic_sizes import Dynamic
from atograph.values.state_texts import State


@public("atograph")
@contextmanager
def without_weights() -> Iterator[None]:
    """Modules made inside have their parameters on the meta device, and never more than one of them in memory.

    Unlike under ``torch.device("meta")``, buffers and whatever else a constructor computes keep their values; a
    constructor that computes with its parameters may fail.
    """
    register = nn.Module.register_parameter
    made = WeakIdKeyDictionary()  # a parameter registered twice stays one parameter

    def register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        kept = self._parameters[name]
        if kept is None or is_lazy(kept) or kept.is_meta or isinstance(kept, FakeTensor):  # captured meanwhile
            return
        if kept not in made:
            made[kept] = nn.Parameter(kept.detach().to("meta"), requires_grad=kept.requires_grad)
        self._parameters[name] = made[kept]

    nn.Module.register_parameter = register_parameter  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def is_weightless(model: nn.Module) -> bool:
    """Whether any tensor of a module is on the meta device."""
    return any(tensor.is_meta for _owner, _name, tensor in held_tensors(model))


def capture_weightless(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    *,
    dynamic: Dynamic = None,
    outputs: Sequence[str] = (),
    state: State = None,
) -> Program:
    """`capture` for a model with tensors on the meta device; inputs may be on it too.

    Raises:
        UserError: as `capture`.
    """
    with _stand_ins(model, (args, dict(kwargs))) as (fake_args, fake_kwargs):
        program = capture(model, fake_args, fake_kwargs, dynamic=dynamic, outputs=outputs, state=state)
    values = current_state(model)
    for name, value in program.state.items():
        program.state[name] = values.get(name, _meta(value) if isinstance(value, FakeTensor) else value)
    program.interface = replace(program.interface, example=repeat_single((args, dict(kwargs))))
    return program


@contextmanager
def _stand_ins(model: nn.Module, inputs: Example) -> Iterator[Example]:
    """The inputs as fake tensors; meanwhile the model's meta tensors are fake tensors on the inputs' device."""
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv(), export=True)
    real = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor) and not leaf.is_meta]
    device = real[0].device if real else torch.device("cpu")

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        on = device if tensor.is_meta else tensor.device
        with mode:
            made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=on)
        return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made

    stand_ins = {id(tensor): fake(tensor) for _owner, _name, tensor in held_tensors(model) if tensor.is_meta}
    with ExitStack() as restored:
        if (
            torch.get_default_device().type == "meta"
        ):  # under torch.device("meta"): what forward() makes is not to be empty
            restored.enter_context(torch.device(device))
        restored.enter_context(standing_in(model, stand_ins))
        yield pytree.tree_map(lambda leaf: fake(leaf) if isinstance(leaf, torch.Tensor) else leaf, inputs)


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
