"""How long a training step of a slim network takes on a device, beside one of the dense network."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import atograph
from benchmarks.accuracy.fashion import NETWORKS


@dataclass(frozen=True)
class Step:
    """What is timed.

    Attributes:
        network: of `benchmarks.accuracy.fashion`, or of torchvision (for images of 224 pixels).
        flops: share of the FLOPs that the slim network keeps, by magnitude.
        precision: of the forward pass.
        round_to: widths are multiples of it.
        batch: images of a step.
    """

    network: str
    flops: float
    precision: str
    round_to: int
    batch: int

    def __str__(self) -> str:
        return f"{self.network} at {self.flops:g}, {self.precision}, round_to={self.round_to}"


def steps(options: Namespace) -> Iterator[Step]:
    """All that are timed."""
    if options.reduced:
        yield Step("ResNet-20", 0.5, "float32", 1, 16)
        return
    for network, batch in {**dict.fromkeys(NETWORKS, 128), "resnet50": 64, "vit_b_16": 64}.items():
        for precision in ("float32", "bfloat16"):
            for flops in (0.5, 0.3):
                for round_to in (1, 8):
                    yield Step(network, flops, precision, round_to, batch)


def measure(step: Step, options: Namespace, count: int = 20) -> Mapping[str, Any]:
    """Milliseconds of a step of each network, in turns; channels last in bfloat16."""
    device = torch.device(options.device)
    model, side, channels = _network(step.network, options)
    graph = atograph.trace(model, torch.randn(2, channels, side, side))
    slim = atograph.slim(graph, graph.plan(flops=step.flops, round_to=step.round_to))
    assert slim.module is not None, slim.why_no_module
    half = step.precision == "bfloat16"
    layout = torch.channels_last if half else torch.contiguous_format
    x = torch.randn(step.batch, channels, side, side).to(device, memory_format=layout)
    y = torch.arange(step.batch, device=device) % 10
    both = [each.to(device).to(memory_format=layout).train() for each in (model, slim.module)]  # type: ignore[call-overload]
    runs = [_stepping(each, x, y, half=half) for each in both]
    took: list[list[float]] = [[], []]
    for number in range(count + 3):
        for which, run in enumerate(runs):
            _wait(device)
            started = time.perf_counter()
            run()
            _wait(device)
            if number >= 3:
                took[which].append(1000 * (time.perf_counter() - started))
    dense, small = (median(each) for each in took)
    return {
        "network": step.network, "batch": step.batch, "precision": step.precision, "FLOPs": step.flops,
        "round_to": step.round_to, "FLOPs kept": round(slim.flops / graph.flops, 3), "ms, dense": round(dense, 2),
        "ms, slim": round(small, 2), "slim / dense": round(small / dense, 2),
    }  # fmt: skip


def _network(name: str, options: Namespace) -> tuple[nn.Module, int, int]:
    """A network, the side of its images, and their channels."""
    torch.manual_seed(0)
    if name in NETWORKS:
        return NETWORKS[name](options.width), 28 // options.shrink, 1
    import torchvision

    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model, 224, 3


def _stepping(model: nn.Module, x: Tensor, y: Tensor, *, half: bool) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16) if half else nullcontext():
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
