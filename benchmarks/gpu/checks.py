"""What has to hold of a training on a device, whichever way its steps are computed."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import atograph
from atograph.passes.plan.plan import Plan
from atograph.slimming.index_map import small_module
from atograph.slimming.masking import mask
from atograph.train import Task, Trained, auto_train_once
from atograph.train.saved.checkpoints import Checkpoints, newest
from atograph.train.settings import settings_of
from benchmarks.accuracy.fashion import resnet

_SIDE = 14


class _Stopped(Exception):
    """The run is to be gone on with."""


class _EachStep(Checkpoints):
    """Saves after each step, and what stopped it saves nothing."""

    def due(self) -> bool:
        return True


def data(batches: int = 4, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    """Images in float32 on the CPU, and which quarter of each is brightest."""
    generator = torch.Generator().manual_seed(1)
    x = 0.5 * torch.randn(batches * size, 1, _SIDE, _SIDE, generator=generator)
    y = torch.randint(4, (len(x),), generator=generator)
    half = _SIDE // 2
    for quarter in range(4):
        top, left = half * (quarter // 2), half * (quarter % 2)
        x[y == quarter, :, top : top + half, left : left + half] += 1
    return list(zip(x.split(size), y.split(size), strict=True))


def train(
    options: Namespace, *, stop_at: int | None = None, folder: Path | None = None, **changed: Any
) -> tuple[Trained[Plan], atograph.Graph]:
    """A small network, trained and pruned to 0.4 of its FLOPs.

    Args:
        options: its device.
        stop_at: raise in the loss of this step.
        folder: of checkpoints; those that are there are gone on from.
        changed: settings.
    """
    torch.manual_seed(0)
    model = resnet((8, 8, 16))
    graph = atograph.trace(model, torch.randn(2, 1, _SIDE, _SIDE))
    steps = 0

    def loss(model: nn.Module, batch: Any) -> Tensor:
        nonlocal steps
        x, y = batch
        if torch.device(options.device).type != x.device.type:
            raise AssertionError(f"a batch is on {x.device}")
        steps += model.training
        if steps == stop_at:
            raise _Stopped
        return nn.functional.cross_entropy(model(x), y)

    settings = settings_of({"flops": 0.4, "epochs": 5, "device": options.device, "lr": 0.05, **changed})
    batches = data()
    kept = None if folder is None else _EachStep(folder, {}, 0.0)
    task = Task(batches, batches[:2], loss=loss)
    return auto_train_once(model, graph, task, settings, shrink=partial(small_module, graph), checkpoints=kept), graph


def exact(run: Trained[Plan], graph: atograph.Graph) -> tuple[bool, str]:
    """Whether weights are in float32, the slim network is within the budget, and it is the masked one in float64."""
    with torch.no_grad():
        x = data(1)[0][0].double()
        slim = atograph.slim(graph, run.plan)
        assert slim.module is not None
        masked, small = (each.double().cpu().eval() for each in (mask(run.model, run.plan), slim.module))
        apart = float((masked(x) - small(x)).abs().max() / masked(x).abs().max())
    single = all(parameter.dtype == torch.float32 for parameter in run.model.parameters())
    share, first, last = slim.flops / graph.flops, run.history[0].loss, run.history[-1].loss
    learned = last < first and run.metric_masked is not None
    text = f"loss {first:.2f} to {last:.2f}, {share:.2f} of the FLOPs, masked and slim {apart:.0e} apart"
    return single and learned and share <= 0.4 and apart < 1e-9 and run.slim_from is not None, text


def trained(options: Namespace, **changed: Any) -> tuple[bool, str]:
    """`exact` of a run."""
    return exact(*train(options, **changed))


def resumed(options: Namespace) -> tuple[bool, str]:
    """A run that stopped, and was gone on with, ends as one that did not: bit for bit, or as near as two runs are."""
    one, two = (_weights(train(options)[0]) for _ in range(2))
    with tempfile.TemporaryDirectory() as place:
        with suppress(atograph.UserError):
            train(options, stop_at=18, folder=Path(place))
        assert newest(Path(place)) is not None, "there is something to go on from"
        again = _weights(train(options, folder=Path(place))[0])
    apart, spread = _apart(one, again), _apart(one, two)
    text = "bit for bit" if apart == 0 else f"weights {apart:.0e} apart, of two whole runs {spread:.0e}"
    return apart <= 10 * spread, text


def _weights(run: Trained[Plan]) -> Mapping[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in run.model.state_dict().items()}


def _apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


CHECKS: Mapping[str, Callable[[Namespace], tuple[bool, str]]] = {
    "float32": trained,
    "bfloat16": partial(trained, precision="bfloat16"),
    "float16": partial(trained, precision="float16"),
    "channels last, bfloat16": partial(trained, precision="bfloat16", channels_last=True),
    "accumulate": partial(trained, accumulate=2),
    "progressive": partial(trained, method="progressive"),
    "average, clip": partial(trained, ema=0.9, clip=1.0),
    "resume": resumed,
    "compile": partial(trained, compile=True),
    "compile, bfloat16": partial(trained, compile=True, precision="bfloat16"),
}


def check(name: str, options: Namespace) -> Mapping[str, Any]:
    """One of them, as a row."""
    held, text = CHECKS[name](options)
    return {"training": name, "holds": "yes" if held else "NO", "what was found": text}
