"""FLOPs of a run, counted by `torch.utils.flop_counter` while it happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from atograph.passes.ir.fake.grouped import GROUPED, of_any_width
from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule
from atograph.passes.torch_private import HigherOrderOperator, OpOverloadPacket, disable_current_modes


def count_flops(run: Callable[..., object], *args: object, **kwargs: object) -> int:
    """FLOPs of ``run(*args, **kwargs)``, with those of CPU kernels that the counter does not know: attention, LSTM."""
    on_cpu: dict[OpOverloadPacket, Callable[..., int]] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        torch.ops.aten.mkldnn_rnn_layer: _recurrent_flops,
        GROUPED.overloadpacket: _grouped_flops,
    }
    if (grouped := of_any_width()) is not None:
        on_cpu[grouped.overloadpacket] = _grouped_flops
    counter = FlopCounterMode(display=False, custom_mapping=on_cpu)
    counter.mod_tracker = _Everything()  # type: ignore[assignment]
    with torch.no_grad(), counter:
        run(*args, **kwargs)
    return int(counter.get_total_flops())


class WithoutRegions(ProgramModule):
    """A program whose regions (``torch.cond``, ``scan``, ...) are run and not counted: the data decide which way they
    go, and how often."""

    def _results(self, program: Program, inputs: list[torch.Tensor]) -> Any:
        (called,) = self._raising
        return _Uncounted(called).run(*inputs)


class _Uncounted(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        with disable_current_modes() if isinstance(n.target, HigherOrderOperator) else nullcontext():
            return super().run_node(n)


class _Everything:
    """Stands for the counter's tracker of modules, which fails at a module that returns a view of its parameter."""

    parents: ClassVar[set[str]] = {"Global"}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_args: object) -> None:
        pass


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *_args: object, out_shape: object = None, **_kwargs: object
) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _grouped_flops(
    rows: torch.Size, matrices: torch.Size, *_args: object, out_shape: object = None, **_kwargs: object
) -> int:
    """Each row meets one matrix."""
    return int(2 * rows[0] * matrices[1] * matrices[2])


def _recurrent_flops(
    sequence: torch.Size,
    from_input: torch.Size,
    from_hidden: torch.Size,
    *_args: object,
    out_shape: object = None,
    **_kwargs: object,
) -> int:
    """Of one layer and direction: (inputs + hidden) × gates at each step of each sequence."""
    steps, batch, inputs = sequence
    return int(2 * steps * batch * (from_input[0] * inputs + from_hidden[0] * from_hidden[1]))
