"""The table of latencies, and how a row of it is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from atograph.ort.model import OnnxModel
from benchmarks.latency import command as latency
from benchmarks.latency import part as latency_part
from benchmarks.zoo.part import Record

PART = {
    "variants": {
        "dense": {"flops": 1.0, "onnx": {"1": 40.0}, "openvino": {"1": 20.0}},
        "default": {"flops": 0.5, "onnx": {"1": 0.625}, "openvino": {"1": 1.25}},
        "depth": {"error": "UserError: out of reach"},
        "Torch-Pruning": {"flops": 0.49, "onnx": {"1": 1.25}, "openvino": {"1": 1.0}},
        "Torch-Pruning, rounded": {"error": "TimeoutError: more than 100 s"},
    },
    "multiple": 16,
}


def test_the_table_tells_what_was_found_and_what_failed() -> None:
    shown = latency.table([{"model": "net", "0.5": PART}]).splitlines()
    assert "| net | 1 | default | 0.500 | 2.00× | 40.00 | 0.625 | 80% | 20.00 | 1.250 | 40% |" in shown
    assert any(line.startswith("| net | 1 | depth | failed: UserError: out of reach |") for line in shown)
    assert "| net | 1 | as it comes | 0.490 | 0.500 | 1.250 | 0.625 | 2.00 | 1.000 | 1.250 | 0.80 |" in shown
    assert any(line.startswith("| net | 1 | rounded | failed: TimeoutError") for line in shown)
    said = latency.summary([{"model": "net", "0.5": PART}])
    assert "ONNX Runtime, batch 1, default: 80% of the ideal speed-up (median of 1), 80% at least; 0 slower" in said
    assert "1 slower than dense, net takes most with 1.250" in said
    assert latency.summary([{"model": "net", "0.5": {"error": "died"}}]) == ""


def test_a_row_has_every_variant_at_about_equal_flops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def build(_name: str) -> Any:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).eval(), (torch.randn(2, 16),), {}

    def peer(_name: str, share: float, round_to: int | None) -> Any:
        raise ValueError(f"{share:g} of the FLOPs, by {round_to}")

    def times(calls: list[tuple[OnnxModel, Any]], *, seconds: float) -> list[list[float]]:
        for model, feed in calls:
            model.run(feed)
        return [[float(number), 2.0 * number] for number in range(1, len(calls) + 1)]

    monkeypatch.setattr(latency_part, "build", build)
    monkeypatch.setattr(latency_part, "limited_torch_pruning", peer)
    monkeypatch.setattr(latency_part, "installed", lambda: True)
    monkeypatch.setattr(latency_part, "times_in_turns", times)
    monkeypatch.setattr(latency_part, "RUNTIMES", {"onnx": latency_part.RUNTIMES["onnx"]})
    record = Record(tmp_path / "found.json")
    latency_part.measure("net", 0.5, record)
    found = record.values["variants"]
    assert found["dense"]["onnx"] == {"1": 1.5, "8": 1.5} and found["default"]["onnx"] == {"1": 2.0, "8": 2.0}
    assert 0.4 < found["default"]["flops"] <= 0.5 and found["depth"]["onnx"] == {"1": 3.0, "8": 3.0}
    assert found["Torch-Pruning"] == {"error": "ValueError: 0.5 of the FLOPs, by None"}
    assert found["Torch-Pruning, rounded"]["error"].endswith(f"by {record.values['multiple']}")
