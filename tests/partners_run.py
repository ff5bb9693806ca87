"""A training in two processes of which one goes wrong, for `test_partners.py`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import torch
import typer
from torch import nn

import atograph
from atograph.cli.runner import running
from atograph.train.processes import partners


class Batches:
    """Data that ends in some way in the second process, in the midst of the second epoch."""

    def __init__(self, how: str) -> None:
        self._how, self._passes = how, 0

    def __iter__(self) -> Iterator[Any]:
        self._passes += 1
        for number in range(4):
            if self._passes == 4 and number == 2 and os.environ["RANK"] == "1":
                self._end()
            yield torch.randn(8, 4), torch.randint(2, (8,))

    def _end(self) -> None:
        if self._how == "refuses":
            raise atograph.UserError("the data of this process ends here.")
        os.kill(os.getpid(), signal.SIGSTOP)


def train(how: str) -> None:
    """Train into the folder ``run``; the process ends as the command's would."""
    partners.BEAT = 0.2
    partners.SILENCE = 15 if how == "stops" else 300  # a busy machine makes silent, too
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    try:
        with running():
            atograph.compress(net, Batches(how), flops=0.6, epochs=50, device="cpu", out="run")
    except typer.Exit as end:
        sys.exit(end.exit_code)
