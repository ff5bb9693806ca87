"""Programs of files run in a process of their own: one that crashes, never ends or takes all memory is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import command, make_run
from torch import nn

import atograph
from atograph.files.plan_file import read_plan
from atograph.graph.from_model import trace
from atograph.passes.errors import UserError
from atograph.process import child_process
from atograph.program import model as program_model
from atograph.program.load import load_program
from atograph.program.model import ProgramModel, program_child
from atograph.program.pt2_file import program_bytes

LARGE = 2**40


class Hostile(nn.Module):
    """Takes what the run's network takes; each 7 in it is tampered with below."""

    def __init__(self, harm: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self.harm = harm

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input.flatten(1)[:, :4] + self.harm().sum()


def divided() -> torch.Tensor:
    return torch._weight_norm(torch.ones([7, 3]), torch.ones([7, 1]), 0)


def outside() -> torch.Tensor:
    ones = torch.ones([7])
    norm = torch.ops.aten._native_batch_norm_legit_no_training
    return torch.as_tensor(norm(torch.ones(2, 1, 3), None, None, ones, ones, 0.1, 1e-5)[0])


def endless() -> torch.Tensor:
    return torch.ones(1).expand([7])


def large() -> torch.Tensor:
    return torch.ones([7])


SURVIVES_NOT = "slim.pt2: this slim program does not survive its example inputs: "

HARM: dict[str, tuple[str, Callable[[], torch.Tensor], int, str]] = {
    "takes all memory": ("verify", large, LARGE, "cannot be run on its example inputs: it takes more than the "),
    "never ends": ("verify", endless, LARGE, f"{SURVIVES_NOT}it takes longer than 3 s"),
    "divides by zero": ("verify", divided, 0, f"{SURVIVES_NOT}it ends the process that runs it by the signal SIGFPE"),
    "reads outside": ("export", outside, 0, f"{SURVIVES_NOT}it ends the process that runs it by the signal SIGSEGV"),
}


def put_harm(run: Path, function: Callable[[], torch.Tensor], number: int) -> None:
    """Put a program into a run that does harm."""
    program = torch.export.export(
        Hostile(function).eval(), (torch.randn(16, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    for node in program.graph.nodes:
        node.args = torch.fx.node.map_aggregate(node.args, lambda value: number if value == 7 else value)
    (run / "slim.pt2").write_bytes(program_bytes(program, read_plan(run / "plan.json").digest))


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    yield
    program_child().close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("process"))


def test_an_honest_run_proves_itself_in_one_process(made: Path) -> None:
    code, output = command("verify", made, "--trust-spec")
    assert code == 0 and output.count(" equal") == 6, output
    child = program_child()
    code, output = command("export", made, "--out", made.parent / "again.onnx")
    assert code == 0 and "differ by" in output and program_child() is child, output


@pytest.mark.long
@pytest.mark.parametrize("harm", HARM)
def test_the_command_outlives_what_a_program_does(
    harm: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, function, number, message = HARM[harm]
    run = Path(shutil.copytree(made, tmp_path / "run"))
    put_harm(run, function, number)
    program_child().call("unpacked", 1)  # torch is imported by then
    if harm == "never ends":  # the others are for no clock
        monkeypatch.setattr(child_process, "SECONDS", 3.0)
    before = sorted(run.iterdir())
    code, output = command(name, run, *(("--spec", made.parent / "net.py") if name == "verify" else ("--force",)))
    assert code == 2 and message in output and output.count("error: ") == 1, output
    assert sorted(run.iterdir()) == before


class Structured(nn.Module):
    """Inputs by keyword, outputs in containers; a number and None among them; types that numpy does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor, mask: dict[str, torch.Tensor]) -> dict[str, Any]:
        y = self.b(torch.relu(self.a(x))) * scale
        return {"y": (y, y.bfloat16()), "count": 3, "none": None, "more": [y > 0, mask["m"] & (x > 0)]}


def saved(model: nn.Module, folder: Path, *args: Any, **kwargs: Any) -> ProgramModel:
    """A slim program as it comes from its file."""
    graph = trace(model.eval(), args, kwargs)
    atograph.slim(graph, graph.plan(flops=0.6)).save(folder)
    return ProgramModel(folder, load_program(folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_structure_and_type_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, scale, mask = torch.randn(3, 6, dtype=dtype), torch.ones((), dtype=dtype), {"m": torch.ones(6).bool()}
    own = saved(Structured().to(dtype), tmp_path, x, scale=scale, mask=mask)
    with torch.no_grad():
        expected = atograph.load(tmp_path)(x, scale=scale, mask=mask)
    result = own(x, mask=mask, scale=scale)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    assert result["count"] == 3 and result["y"][1].dtype == torch.bfloat16


@pytest.mark.long
def test_ops_of_the_users_own_run_where_they_are_defined(tmp_path: Path) -> None:
    processes = []

    @torch.library.custom_op("test_process::twice", mutates_args=(), tags=(torch.Tag.pointwise,))
    def twice(x: torch.Tensor) -> torch.Tensor:
        processes.append(os.getpid())
        return x * 2

    twice.register_fake(torch.empty_like)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.ops.test_process.twice(self.a(x)))

    own = saved(Net(), tmp_path, torch.randn(3, 6))
    processes.clear()
    assert own(torch.randn(2, 6)).shape == (2, 4) and processes == [os.getpid()]


@pytest.mark.long
def test_what_an_export_refuses_is_told_as_here(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(self.b(self.a(x)))

    own = saved(Net(), tmp_path, torch.randn(3, 4, 4))
    with pytest.raises(UserError, match=r"nothing to write aten\._linalg_eigh with\. Compute that with other ops"):
        own.export_onnx(tmp_path / "x.onnx")
    assert program_model.program_child().alive
