"""OpenVINO as a target: what is written, proved, refused, and what it gets wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import SPEC, command
from torch import nn

import atograph
from atograph.passes.errors import InternalError, UserError
from atograph.proof.certificate import certify
from atograph.slimming.masking import zero_
from atograph.slimming.slim import Slim
from atograph.spec.example_inputs import Inputs
from atograph.targets.deployed import Deployed, export, load
from atograph.targets.openvino import OpenVino

worker = pytest.importorskip("atograph.openvino.worker", reason="openvino is not installed", exc_type=ImportError)

X = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 4)
    ).eval()


def made(model: nn.Module, x: torch.Tensor) -> Slim:
    graph = atograph.trace(model, x)
    plan = graph.plan(flops=0.5)
    zero_(model, plan)
    return atograph.slim(graph, plan)


def written(slim: Slim, folder: Path) -> Deployed:
    path = export(OpenVino(), slim.program, folder / OpenVino.file, slim.metadata)
    return load(OpenVino(), path, slim.program)


def test_the_file_computes_what_the_program_does_at_any_batch(tmp_path: Path) -> None:
    model = network()
    slim = made(model, X)
    file = written(slim, tmp_path)
    entries = certify(model, slim, [file], Inputs((X,), {}))
    assert [entry.batch for entry in entries] == [1, 5]
    for entry in entries:
        assert entry.holds and entry.targets["openvino"].difference < 1e-5 and not entry.faults
    assert file.plan == slim.plan.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slim.bin", "slim.xml"]


def test_another_computation_fails_the_certificate(tmp_path: Path) -> None:
    model = network()
    slim = made(model, X)
    file = written(slim, tmp_path)
    weights = tmp_path / "slim.bin"
    weight = slim.program.state_dict["4.weight"].detach()
    whole, one = weights.read_bytes(), weight.numpy().tobytes()
    assert whole.count(one) == 1
    weights.write_bytes(whole.replace(one, (2 * weight).numpy().tobytes()))
    other = load(OpenVino(), file.run._path, slim.program)  # type: ignore[attr-defined]
    with pytest.raises(InternalError, match="slim and OpenVINO by"):
        certify(model, slim, [other], Inputs((X,), {}))


class Several(nn.Module):
    """Inputs by name, one that is not read, integers, a dict with a number in it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(11, 8), nn.Linear(8, 32), nn.Linear(32, 3)

    def forward(self, ids: torch.Tensor, unread: torch.Tensor, *, scale: torch.Tensor) -> dict[str, object]:
        hidden = torch.relu(self.hidden(self.words(ids)))
        return {"logits": self.head(hidden) * scale, "best": self.head(hidden).argmax(-1), "count": 3, "ids": ids}


def test_inputs_have_their_names_and_outputs_their_form(tmp_path: Path) -> None:
    model, ids = Several().eval(), torch.randint(11, (4, 6))
    args, kwargs = (ids, torch.zeros(4)), {"scale": torch.tensor([0.5, 1.0, 2.0])}
    graph = atograph.trace(model, args, kwargs)
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    found, expected = written(slim, tmp_path)(*args, **kwargs), slim(*args, **kwargs)
    assert isinstance(found, dict) and found.keys() == expected.keys() and found["count"] == 3
    for name in ("logits", "best", "ids"):
        torch.testing.assert_close(found[name], expected[name])


def test_it_computes_in_float32(tmp_path: Path) -> None:
    """Unless told otherwise, OpenVINO computes in bfloat16 where the processor is faster at that."""
    file = written(made(network(), X), tmp_path)

    compiled = worker.openvino.Core().compile_model(str(file.run._path), "CPU", worker._options(0))  # type: ignore[attr-defined]
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


def test_types_that_it_has_no_arithmetic_for_are_refused() -> None:
    with pytest.raises(UserError, match=r"OpenVINO computes in float32 on the CPU, and a is in float64"):
        OpenVino().check({"a": torch.zeros(1, dtype=torch.float64)})
    with pytest.raises(UserError, match="bfloat16"):
        OpenVino().check({"a": torch.zeros(1, dtype=torch.bfloat16)})
    OpenVino().check({"a": torch.zeros(1)})


def test_without_the_package_it_is_refused_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atograph.sessions.runtime_process.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"needs the package openvino, which is not installed"):
        OpenVino().check({"a": torch.zeros(1)})


def test_a_full_disk_is_said_in_the_words_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "slim.bin").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"slim\.xml: cannot write there: No space left on device"):
        export(OpenVino(), made(network(), X).program, tmp_path / "slim.xml")


def test_a_file_without_its_weights_is_named(tmp_path: Path) -> None:
    slim = made(network(), X)
    file = written(slim, tmp_path)
    (tmp_path / "slim.bin").unlink()
    with pytest.raises(UserError, match=r"OpenVINO file cannot be loaded.*\.bin"):
        OpenVino().load(file.run._path, slim.program)  # type: ignore[attr-defined]


def test_a_run_deploys_to_it_and_is_proved_again(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SPEC)
    run = tmp_path / "run"
    code, output = command(
        "compress", tmp_path / "net.py", "--flops", 0.5, "--epochs", 1, "--target", "openvino", "--target", "onnx",
        "--out", run, "-q",
    )  # fmt: skip
    assert code == 0 and "OpenVINO" in output, output
    assert (run / "slim.xml").is_file() and (run / "slim.bin").is_file()
    report = json.loads((run / "report.json").read_text())
    assert all(entry["targets"]["openvino"]["difference"] < 1e-4 for entry in report["certificate"])
    code, output = command("verify", run, "--trust-spec")
    assert code == 0 and "slim = OpenVINO" in output, output
    code, output = command("export", run, "--target", "openvino", "--out", tmp_path / "copy.xml")
    assert code == 0 and "openvino and the slim program differ by" in output, output
    assert "copy.xml and copy.bin, which belong together (" in output, output
    assert (tmp_path / "copy.bin").read_bytes() == (run / "slim.bin").read_bytes()
    code, output = command("export", run, "--target", "openvino", "--out", tmp_path / "copy.xml")
    assert code == 2 and "is there already" in output, output
    code, output = command("bench", run, "--trust-spec", "--batch", 2, "--seconds", 0.01)
    assert code == 0, output
    for text in ("ONNX Runtime, batch 2", "OpenVINO, batch 2"):
        assert text in output, output
    code, output = command("bench", run, "--trust-spec", "--target", "pt2")
    assert code == 2 and "the target 'pt2' is not timed" in output, output


def test_a_sweep_is_timed_where_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = atograph.trace(network(), X)
    report = atograph.sweep(graph, 0.5, latency=True, latency_target="openvino").report
    assert report.runtime == "OpenVINO" and report.dense.ms and report.rows[0].point and report.rows[0].point.ms
    with pytest.raises(UserError, match="'pt2' is not timed"):
        atograph.sweep(graph, 0.5, latency=True, latency_target="pt2")
    (tmp_path / "net.py").write_text(SPEC)
    monkeypatch.setenv("COLUMNS", "200")
    how = ("sweep", tmp_path / "net.py", "--flops", 0.5, "--method", "magnitude", "--latency-target", "openvino")
    code, output = command(*how, "--latency")
    assert code == 0 and "OpenVINO ms, batch 1" in output, output
    code, output = command(*how)
    assert code == 2 and "give --latency, too" in output, output


@pytest.mark.parametrize(("targets", "asked"), [(["openvino"], None), (["onnx", "openvino"], "openvino")])
def test_a_ladder_is_timed_in_the_target_of_its_runs(targets: list[str], asked: str | None) -> None:
    torch.manual_seed(0)
    how: dict[str, Any] = {
        "flops": [0.7, 0.5],
        "method": "magnitude",
        "epochs": 0,
        "targets": targets,
        "latency_target": asked,
    }
    ladder = atograph.compress_ladder(network(), [(X, torch.arange(5) % 4)], **how)
    report = ladder.report
    assert report.runtime == "OpenVINO" and report.dense.ms and not report.notes
    assert all(rung.ms and rung.latency == rung.ms / report.dense.ms for rung in report.rungs)
    runtimes = [each.runtime for each in ladder[0].report.latency_ms]
    assert runtimes.count("OpenVINO") and runtimes.count("ONNX Runtime") == (len(runtimes) / 2 if asked else 0)
    assert "OpenVINO ms, batch 1" in str(ladder)
