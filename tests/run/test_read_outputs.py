"""A run that reads some outputs: its loss gets all of them, its folder remembers, and its auxiliary head is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from runs import command
from torch import Tensor, nn
from torch.nn import functional as F

import atograph
from atograph.passes.errors import UserError
from atograph.run.unfinished.resumption import identity
from atograph.run.verify import verify_run
from atograph.train.pruning.selection import BY_CRITERION
from atograph.train.saved.checkpoints import check_identity
from atograph.train.settings import settings_of

SPEC = """import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.head, self.aux = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, x):
        feats = self.a(x).relu()
        return {"logits": self.head(feats), "aux": self.aux(feats), "feats": feats}

def model():
    return Net()

def train_data():
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    return list(zip(x.split(16), x[:, :3].argmax(1).split(16)))

val_data = train_data

def loss(model, batch):
    out = model(batch[0])
    return F.cross_entropy(out["logits"], batch[1]) + 0.3 * F.cross_entropy(out["aux"], batch[1])

def metric(model, batch):
    return float((model(batch[0])["logits"].argmax(1) == batch[1]).float().mean())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "net.py").write_text(SPEC)
    (folder / "says.py").write_text(SPEC + '\noutputs = ["logits"]\n')
    given = ("--flops", "0.5", "--epochs", "4", "--out", folder / "run", "--outputs", "log*")
    code, output = command("compress", folder / "net.py", *given)
    assert code == 0 and "trained in the dense module" not in output, output
    return folder / "run"


def test_the_folder_of_a_run_remembers(run: Path) -> None:
    assert json.loads((run / "plan.json").read_text())["outputs"] == ["logits"]
    assert json.loads((run / "report.json").read_text())["settings"]["outputs"] == ["log*"]
    assert [each.name for each in onnx.load(run / "slim.onnx").graph.output] == ["logits"]
    result = atograph.load(run)(torch.randn(2, 6))
    assert result["logits"].shape == (2, 3) and result["aux"] is None is result["feats"]
    code, output = command("verify", run, "--trust-spec")
    assert code == 0 and output.count(" equal") == 6 and "NOT" not in output, output
    code, output = command("bench", run, "--trust-spec", "--seconds", "0.01", "--batch", "1")
    assert code == 0 and "speed-up" in output, output


def test_a_plan_is_applied_with_its_outputs(run: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    exec(SPEC, scope)
    from safetensors.torch import save_file

    save_file(scope["model"]().state_dict(), tmp_path / "dense.safetensors")
    given = ("--weights", tmp_path / "dense.safetensors", "--out", tmp_path / "applied")
    code, output = command("apply", run / "plan.json", run.with_name("net.py"), *given)
    assert code == 0 and "left out, because the program does not read them: aux" in output, output
    assert atograph.load(tmp_path / "applied")(torch.randn(2, 6))["aux"] is None


COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no choice": (("inspect", "net.py"), ("0 of 4 groups can be pruned",)),
    "an option": (
        ("inspect", "net.py", "--outputs", "logits"),
        ("1 of 3 groups", "Left out of what it returns: aux, feats."),
    ),
    "two of them": (("inspect", "net.py", "--outputs", "logits,aux"), ("1 of 4 groups", "returns: feats.")),
    "two options": (("inspect", "net.py", "--outputs", "logits", "--outputs", "aux"), ("returns: feats.",)),
    "the file says so": (("inspect", "says.py"), ("1 of 3 groups", "returns: aux, feats.")),
    "the option wins": (("inspect", "says.py", "--outputs", "aux"), ("returns: logits, feats.",)),
    "passes": (
        ("opt", "says.py", "--passes", "infer-axes"),
        ('return {"logits": %head_linear, "aux": None, "feats": None}',),
    ),
    "passes with an option": (
        ("opt", "net.py", "--passes", "infer-axes", "--outputs", "feats"),
        ('return {"logits": None, "aux": None, "feats": %relu}',),
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_them(name: str, run: Path) -> None:
    (which, spec, *options), texts = COMMANDS[name]
    code, output = command(which, run.with_name(spec), *options)
    assert code == 0 and all(text in output for text in texts), output


WRONG: dict[str, tuple[str, tuple[str, ...], str]] = {
    "no such output": ("", ("--outputs", "logit"), "no output 'logit'"),
    "no list": ("outputs = 3", (), "`outputs` is an int, not a list of names"),
    "no names": ("outputs = [None]", (), "not a list of names"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(name: str, tmp_path: Path) -> None:
    more, options, text = WRONG[name]
    (tmp_path / "net.py").write_text(f"{SPEC}\n{more}\n")
    code, output = command("inspect", tmp_path / "net.py", *options)
    assert code == 2 and text in output, output


def test_a_run_goes_on_with_the_same_outputs_only(tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(SPEC, scope)
    torch.manual_seed(0)
    model, x = scope["model"](), torch.randn(2, 6)
    identities = [
        identity(settings_of({"outputs": each}), atograph.trace(model, x, outputs=each), None, BY_CRITERION)
        for each in (["logits"], ["logits", "aux"])
    ]
    with pytest.raises(UserError, match="outputs"):
        check_identity(*identities, tmp_path)


class Net(nn.Module):
    """An auxiliary head of some kind."""

    def __init__(self, act: Callable[[Tensor], Tensor], aux: nn.Module) -> None:
        super().__init__()
        self.act, self.a, self.head, self.aux = act, nn.Linear(6, 16), nn.Linear(16, 3), aux

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feats = self.act(self.a(x))
        return self.head(feats), self.aux(feats)


AUXILIARY: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[], nn.Module], bool]] = {
    "a linear one": (torch.relu, lambda: nn.Linear(16, 3), True),
    "a deep one": (torch.relu, lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), True),
    "one that sees what is not zero": (torch.sigmoid, lambda: nn.Linear(16, 3), False),
    "a norm over what is cut": (torch.relu, lambda: nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3)), False),
}


@pytest.mark.long
@pytest.mark.parametrize("name", AUXILIARY)
def test_an_auxiliary_head_is_trained_and_cut(name: str, tmp_path: Path) -> None:
    act, aux, alike = AUXILIARY[name]
    torch.manual_seed(0)
    model, x = Net(act, aux()), torch.randn(64, 6)
    data = [*zip(x.split(16), x[:, :3].argmax(1).split(16), strict=True)]
    before = {name: value.clone() for name, value in model.aux.state_dict().items()}

    def loss(model: nn.Module, batch: Any) -> Tensor:
        y, other = model(batch[0])
        return F.cross_entropy(y, batch[1]) + 0.3 * F.cross_entropy(other, batch[1])

    result = atograph.compress(
        model, data, flops=0.5, epochs=4, loss=loss, outputs=["0"], out=tmp_path / "run", targets=["pt2"]
    )
    assert result.slim.flops < 0.55 * atograph.trace(model, x, outputs=["0"]).flops
    assert all(not torch.equal(value, before[name]) for name, value in model.aux.state_dict().items())
    module = result.slim.module
    assert module is not None, result.slim.why_no_module
    with torch.no_grad():
        (y, other), (expected, masked) = module(x), model.eval()(x)
    torch.testing.assert_close(y, expected)
    if alike:  # what it reads is zero where it is cut
        torch.testing.assert_close(other, masked)
    assert all(entry.holds for _what, entry in verify_run(tmp_path / "run", Net(act, aux()), targets=["pt2"]))


def test_a_loop_of_ones_own() -> None:
    torch.manual_seed(0)
    model, x = Net(torch.relu, nn.Linear(16, 3)), torch.randn(64, 6)
    y, optimizer = x[:, :3].argmax(1), torch.optim.SGD(model.parameters(), 0.1)
    ato = atograph.AutoTrainOnce(model, x[:4], steps=40, flops=0.5, optimizer=optimizer, outputs=["0"], epochs=4)

    def loss(model: nn.Module) -> Tensor:
        first, second = model(x)
        return F.cross_entropy(first, y) + F.cross_entropy(second, y)

    for _ in range(40):
        ato.controller_step(loss)
        optimizer.zero_grad()
        loss(ato.model).backward()
        optimizer.step()
        ato.project(0.1)
    assert not ato.why_dense and ato.model is not model
    small = ato.cut(model.state_dict())
    assert {name: value.shape for name, value in small.items()} == {
        name: value.shape for name, value in ato.model.state_dict().items()
    }
    slim = ato.finish()
    with torch.no_grad():
        torch.testing.assert_close(slim(x)[0], model.eval()(x)[0])
    assert slim(x)[1] is None


class Apart(nn.Module):
    """An output that needs together, or whole, what the rest keeps apart."""

    def __init__(self, other: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.o, self.last = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(32, 3), nn.Linear(16, 2)
        self.norm, self.other = nn.GroupNorm(4, 16), other

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.a(x).relu(), self.b(x).relu()
        return self.o(torch.cat([a, b], -1)), self.last(self.norm(self.other(a, b)))


APART: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a sum": lambda a, b: a + b,
    "groups of units": lambda a, b: a,
    "units in order": lambda a, b: b.sort(1)[0],
}


@pytest.mark.parametrize("name", APART)
def test_an_output_that_cannot_be_cut_with_the_rest_is_told(name: str) -> None:
    torch.manual_seed(0)
    model, x = Apart(APART[name]).eval(), torch.randn(2, 6)
    graph = atograph.trace(model, x, outputs=["0"])
    first, second = [group.name for group in graph.prunable]
    plan = graph.plan(kept={first: [0, 1, 5], second: range(9)})
    slim = atograph.slim(graph, plan)
    with torch.no_grad():
        torch.testing.assert_close(slim(x)[0], atograph.mask(model, plan)(x)[0])
    assert slim.module is None
    assert "output_1: left out, and its code cannot be cut as the plan cuts the rest" in slim.why_no_module
    kept = atograph.keep_module(graph)
    assert atograph.slim(kept, kept.plan(random=0)).module is not None


@pytest.mark.parametrize("given", ["a,b", ["a", "b"], ["a , b"], ("a", "b")])
def test_settings_take_names_in_every_form(given: Any) -> None:
    assert settings_of({"outputs": given}).outputs == ("a", "b")
    assert settings_of({"outputs": 0}).outputs == ("0",) == settings_of({"outputs": [0]}).outputs
    with pytest.raises(UserError, match="training setting outputs: expected a list of names"):
        settings_of({"outputs": 1.5})
