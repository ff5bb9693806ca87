"""FLOPs of a run, counted by `torch.utils.flop_counter` while it happens."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, ClassVar

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from atograph.passes.ir.fake.grouped import GROUPED, of_any_width
from atograph.passes.ir.program import Program
from atograph.passes.ir.regions.control import Control, control_of
from atograph.passes.ir.regions.regions import Regions
from atograph.passes.ir.run import ProgramModule
from atograph.passes.torch_private import (
    FakeTensorMode,
    HigherOrderOperator,
    OpOverloadPacket,
    disable_current_modes,
)


def count_flops(run: Callable[..., object], *args: object, **kwargs: object) -> int:
    """FLOPs of ``run(*args, **kwargs)``, with those of CPU kernels that the counter does not know: attention, LSTM.

    What a program's regions take (``torch.cond``, ``scan``, ...) the data decide; of a `RegionByRegion` it is what it
    says there.
    """
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
    apart = run.flops if isinstance(run, RegionByRegion) else 0
    return int(counter.get_total_flops()) + apart


class RegionByRegion(ProgramModule):
    """A program of whose regions each op is counted: of both branches of a ``torch.cond``, in each round of a ``scan``
    or ``map``, and of one round of a ``while_loop``. What is kept whole (flex attention) is not.

    Attributes:
        flops: of regions in the last run.
    """

    flops = 0

    def _results(self, program: Program, inputs: list[torch.Tensor]) -> Any:
        (called,), self.flops = self._raising, 0
        run = _Counting(called, Regions(program.graph).names)
        results = run.run(*inputs)
        self.flops = run.flops
        return results


class _Counting(fx.Interpreter):
    """Runs a program, its regions without counting them, and counts each of these by itself.

    Args:
        module: that has the graph.
        followed: names of the ops whose regions are counted.
    """

    def __init__(self, module: fx.GraphModule, followed: Collection[str]) -> None:
        super().__init__(module)
        self._followed, self.flops = followed, 0

    def run_node(self, n: fx.Node) -> Any:
        if not isinstance(n.target, HigherOrderOperator):
            return super().run_node(n)
        with disable_current_modes():
            control = control_of(n, self.module) if n.name in self._followed else None
            if control is not None:
                self.flops += self._flops_of(control)
            return super().run_node(n)

    def _flops_of(self, control: Control) -> int:
        """FLOPs of its regions, without data: a branch that is not taken may not be able to take the operands."""
        mode, total = FakeTensorMode(allow_non_fake_inputs=True), 0

        def given(argument: object) -> Any:
            value = self.env[argument] if isinstance(argument, fx.Node) else argument
            return mode.from_tensor(value) if isinstance(value, torch.Tensor) else value

        rounds = self.env[control.along].shape[0] if control.along is not None else 1
        for region in control.regions:
            operands = [given(taken.source)[0] if taken.sliced else given(taken.source)
                        for taken in region.takes.values()]  # fmt: skip
            inner = _Counting(region.module, Regions(region.module.graph).names)
            with mode:
                total += count_flops(inner.run, *operands) + inner.flops
        return int(rounds * total)


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
