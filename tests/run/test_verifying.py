"""``atograph verify``: a run proves itself again, and one that was tampered with does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from runs import SPEC, make_run
from runs import command as invoke
from safetensors.torch import load_file, save_file

import atograph
from atograph.report.run import Report


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("verify"))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_a_run_proves_itself_again(run: Path) -> None:
    code, output = invoke("verify", run, "--trust-spec")
    assert code == 0, output
    for what in ("example inputs", "random inputs", "real inputs"):
        assert f"{what}, batch of 1" in output
    assert output.count(" equal") == 6 and "NOT" not in output and "not checked" not in output
    (run / "slim.int8.xml").touch()
    code, output = invoke("verify", run, "--trust-spec")
    assert code == 0 and "not checked: slim.int8.xml (" in output, output


def test_a_run_of_before_there_were_targets_is_read(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert report.pop("targets") == ["onnx"]
    for entry in report["certificate"]:
        assert entry.pop("targets").keys() == {"onnx"} and entry["slim_onnx"] <= 1e-4
    (run / "report.json").write_text(json.dumps(report))
    entries = Report.load(run / "report.json").certificate
    assert [entry.slim_onnx for entry in entries] == [entry["slim_onnx"] for entry in report["certificate"]]
    atograph.load(run)
    for name, expected in {"verify": "slim = ONNX", "bench": "speed-up"}.items():
        options = [] if name == "verify" else ["--seconds", "0.01", "--batch", "1"]
        code, output = invoke(name, run, "--trust-spec", *options)
        assert code == 0 and expected in output, output


def test_without_data_there_are_two_kinds_of_inputs(run: Path, tmp_path: Path) -> None:
    spec = tmp_path / "bare.py"
    spec.write_text(SPEC.partition("def train_data")[0])
    code, output = invoke("verify", run, "--spec", spec, "--seed", 1)
    assert code == 0 and output.count(" equal") == 4 and "real inputs" not in output


def other_bias(run: Path) -> None:
    model = onnx.load(run / "slim.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "5.bias")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    onnx.save(model, run / "slim.onnx")


def test_another_onnx_file_is_noticed(run: Path) -> None:
    other_bias(run)
    code, output = invoke("verify", run, "--trust-spec")
    assert code == 1 and output.count("NOT EQUAL") == 6
    assert output.endswith("the files of this run do not compute the same.")


def other_weights(run: Path) -> None:
    weights = load_file(run / "slim.safetensors")
    save_file({**weights, "5.bias": weights["5.bias"] + 1}, run / "slim.safetensors")


def other_shapes(run: Path) -> None:
    weights = load_file(run / "slim.safetensors")
    save_file({**weights, "0.weight": torch.zeros(3, 1, 3, 3)}, run / "slim.safetensors")


def other_plan(run: Path) -> None:
    text = (run / "plan.json").read_text()
    (run / "plan.json").write_text(text.replace('"fingerprint":"', '"fingerprint":"0').replace('": "', '": "0', 1))


def other_units(run: Path) -> None:
    """As many units of the same group, but others."""
    plan = json.loads((run / "plan.json").read_text())
    kept = plan["kept"]["g0"]
    plan["kept"]["g0"] = sorted({*range(plan["sizes"]["g0"])} - set(kept))[: len(kept)]
    (run / "plan.json").write_text(json.dumps(plan))


def other_network(run: Path) -> None:
    node = onnx.helper.make_node("Relu", ["elsewhere"], ["there"])
    values = [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in ("elsewhere", "there")]
    graph = onnx.helper.make_graph([node], "other", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, run / "slim.onnx")


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (other_weights, "slim.safetensors: the files of this run do not belong together: 5.bias is another one here"),
        (other_shapes, "do not fit slim.pt2: 1 of another shape: 0.weight (slim.safetensors [3, 1, 3, 3], slim.pt2 ["),
        (other_plan, "the plan is for another model"),
        (other_units, "do not belong together: slim.pt2 is of the plan"),
        (other_network, "ONNX Runtime cannot run this file on these inputs"),
        (lambda run: (run / "slim.onnx").write_bytes(b"nothing"), "this ONNX file cannot be loaded"),
        (lambda run: (run / "slim.safetensors").write_bytes(b"nothing"), "not a safetensors file"),
        (lambda run: shutil.rmtree(run), "there is no such folder"),
        (lambda run: (run / "report.json").write_text("{}"), "report.json"),
    ],
)
def test_files_that_do_not_belong_together(run: Path, tamper: Callable[[Path], None], message: str) -> None:
    tamper(run)
    code, output = invoke("verify", run, "--trust-spec")
    assert code == 2 and message in output


def test_a_model_of_other_groups_is_refused(run: Path, tmp_path: Path) -> None:
    spec = tmp_path / "other.py"
    spec.write_text(SPEC.replace("(1, 16", "(1, 20").replace("(16", "(20"))
    code, output = invoke("verify", run, "--spec", spec)
    assert code == 2 and "the plan is for another model. The first difference is group g0" in output


def test_a_file_that_is_gone_is_named_with_the_option(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    report = (run / "report.json").read_text()
    (run / "report.json").write_text(report.replace("net.py", "gone.py"))
    code, output = invoke("verify", run, "--trust-spec")
    assert code == 2 and "gone.py: no such file." in output and "--spec names another" in output
