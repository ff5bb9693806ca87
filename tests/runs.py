"""A small run for tests of what is done with one, and its commands."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from atograph.cli.app import app

SPEC = """import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))

def train_data():
    torch.manual_seed(1)
    x = torch.randn(64, 1, 8, 8)
    return [(x[i:i + 16], x[i:i + 16, 0, :2, :2].flatten(1).argmax(1)) for i in range(0, 64, 16)]

def val_data():
    return train_data()
"""


def make_run(folder: Path) -> Path:
    """``folder/run``, made from ``folder/net.py``."""
    (folder / "net.py").write_text(SPEC)
    code, output = command(
        "compress", folder / "net.py", "--flops", "0.5", "--epochs", "2", "--out", folder / "run", "-q"
    )
    assert code == 0, output
    return folder / "run"


def command(*arguments: object) -> tuple[int, str]:
    """Exit code of the command, and what it printed, in one line."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, " ".join(done.output.split())
