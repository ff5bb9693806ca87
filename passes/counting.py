"""FLOPs of a node that has no formula: counted once, on fake tensors, with the sizes it was captured with."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from atograph.passes.propagate import mode_of
from atograph.passes.sizes import Symbols
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch.utils.flop_counter import FlopCounterMode


def flops_of(node: fx.Node, symbols: Symbols) -> int:
    """What `torch.utils.flop_counter` counts for a node and a batch of one; 0 where the node cannot run on its own."""

    def value(argument: fx.Node) -> Any:
        if argument.op == "get_attr":  # the body of a higher-order op
            return getattr(argument.graph.owning_module, str(argument.target))
        return argument.meta.get("val")

    args, kwargs = fx.map_arg((node.args, node.kwargs), value)
    mode = mode_of(node.graph)
    unguarded = mode.shape_env.suppress_guards() if mode.shape_env is not None else nullcontext()
    try:
        with mode, torch.no_grad(), enable_python_dispatcher(), unguarded, FlopCounterMode(display=False) as counter:
            node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception:  # an op without a fake implementation, say
        return 0
    return symbols.at(symbols.encode(counter.get_total_flops()))
