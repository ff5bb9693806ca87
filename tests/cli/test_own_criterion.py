"""A criterion that the SPEC registers is a name on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest
from typer.testing import CliRunner

from atograph.cli.app import app
from atograph.passes.criteria.table import CRITERIA

SPEC = """
    import torch
    from torch import nn
    from atograph.passes import Criterion, criterion

    @criterion
    class First(Criterion):
        "The first units are the important ones."
        name = "of-the-spec"
        def importance(self):
            return torch.cat([torch.arange(size, 0.0, -1.0) for size in self.units.sizes])

    def model(): return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    def example_inputs(): return torch.ones(4, 3)
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for table in ("_loaders", "_homes", "_by_hand"):
        monkeypatch.setattr(CRITERIA, table, getattr(CRITERIA, table).copy())
    (tmp_path / "own_criterion.py").write_text(dedent(SPEC))
    return tmp_path


@pytest.mark.parametrize("named", [["--method", "of-the-spec"], ["--method", "at-once", "--set", "prior=of-the-spec"]])
def test_in_a_run(spec: Path, named: list[str]) -> None:
    asked = ["--flops", "0.5", "--round-to", "1", "--epochs", "0", "--out", "run"]
    done = CliRunner().invoke(app, ["compress", "own_criterion.py", *asked, *named])
    assert done.exit_code == 0, done.output
    assert '"g0":[0,1,2,3]' in "".join((spec / "run" / "plan.json").read_text().split())


def test_in_a_sweep(spec: Path) -> None:
    done = CliRunner().invoke(app, ["sweep", "own_criterion.py", "--flops", "0.5", "--method", "of-the-spec"])
    assert done.exit_code == 0 and "of-the-spec" in done.output, done.output


def test_a_name_that_the_spec_does_not_register_either(spec: Path) -> None:
    for command in (["compress"], ["sweep"]):
        done = CliRunner().invoke(app, [*command, "own_criterion.py", "--flops", "0.5", "--method", "of-the-spek"])
        assert done.exit_code == 2 and "of-the-spek" in done.stderr and "of-the-spec" in done.stderr
