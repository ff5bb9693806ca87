"""A capture that takes too long is given up, wherever the model's code is, and the model is left as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import atograph
from atograph.cli.app import app


def ops(x: Tensor) -> Tensor:
    while True:
        x = x + 1


def plain_python(x: Tensor) -> Tensor:
    total = 0
    for number in range(10**12):
        total += number
    return x + total


def swallowing(x: Tensor) -> Tensor:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


def looking_at_values(x: Tensor) -> Tensor:
    if float(x.sum()) > 0:
        x = x + 1
    return ops(x)


class Dies:
    def __del__(self) -> None:
        while time.monotonic() < Dies.until:
            pass

    until = 0.0


def interrupted_where_python_drops_it(x: Tensor) -> Tensor:
    Dies.until = time.monotonic() + 2.2
    Dies()
    return ops(x)


class Net(nn.Module):
    def __init__(self, slow: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.slow = nn.Linear(4, 4), slow

    def forward(self, x: Tensor) -> Tensor:
        return self.slow(self.first(x))


SLOW = [ops, plain_python, swallowing, looking_at_values, interrupted_where_python_drops_it]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("slow", SLOW, ids=lambda slow: slow.__name__)
def test_code_that_does_not_end(slow: Callable[[Tensor], Tensor]) -> None:
    atograph.trace(Net(torch.relu), torch.randn(2, 4))  # whatever the first capture of a process loads
    model = Net(slow)
    weight, began = model.first.weight, time.monotonic()
    with pytest.raises(atograph.UserError, match=r"takes longer than 2 s \(it was at test_time_limit\.py:\d+ in \w+\)"):
        atograph.trace(model, torch.randn(2, 4), time_limit=2)
    assert time.monotonic() - began < 20
    assert model.first.weight is weight and type(weight) is nn.Parameter and "forward" not in vars(model)
    assert model.training


def test_enough_time_changes_nothing() -> None:
    model = Net(torch.relu)
    threads = threading.active_count()
    limited = atograph.trace(model, torch.randn(2, 4), time_limit=60)
    assert str(limited) == str(atograph.trace(model, torch.randn(2, 4)))
    assert threading.active_count() <= threads + 1 and "forward" not in vars(model)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "5"])
def test_what_is_no_limit(seconds: Any) -> None:
    with pytest.raises(atograph.UserError, match="it is a number above 0"):
        atograph.trace(Net(torch.relu), torch.randn(2, 4), time_limit=seconds)


def test_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        dedent("""
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)

            def forward(self, x):
                for _ in range(1000 * len(x)):
                    pass
                return self.layer(x)

        model = Net

        def example_inputs():
            return torch.randn(2, 4)
    """)
    )
    atograph.trace(Net(torch.relu), torch.randn(2, 4))  # whatever the first capture of a process loads
    spec = str(tmp_path / "endless.py")
    for command in (["inspect", spec], ["opt", spec, "--passes", "infer-axes"]):
        done = CliRunner().invoke(app, [*command, "--capture-limit", "1"])
        assert done.exit_code == 2
        assert "capturing the model takes longer than 1 s (it was at endless.py:12 in forward)" in done.output


CALLED = """
import time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.first = 0, nn.Linear(4, 4)

    def forward(self, x):
        self.calls += 1
        if self.calls >= {slow}:
            while True:
                time.sleep(0.01)
        return self.first(x)

model = Net

def example_inputs():
    return torch.randn(2, 4)

def train_data():
    return [(torch.randn(2, 4), torch.tensor([0, 1]))]
"""


@pytest.mark.parametrize(
    ("command", "slow", "doing"),
    [
        ("compress net.py --flops 0.5", 1, "the first call of the model"),
        ("inspect net.py", 1, "capturing the model"),
        ("compress net.py --flops 0.5", 3, ""),
        ("opt net.py --passes infer-axes", 1, "the first call of the model"),
    ],
)
def test_every_call_of_the_model_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, slow: int, doing: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(CALLED.format(slow=slow))
    began = time.monotonic()
    done = CliRunner().invoke(app, [*command.split(), "--capture-limit", "1"])
    assert done.exit_code == 2 and "takes longer than 1 s (it was at net.py:" in done.output, done.output
    assert doing in done.output and done.output.count("error: ") == 1
    assert time.monotonic() - began < 40 and not Path("runs").exists()
