"""What a run comes to, in one line."""

from __future__ import annotations

from typing import Any

import pytest
from sample_report import REPORT

from atograph.report.summary import summary

FASTER = {"batch": 1, "threads": 1, "dense": 3.0, "slim": 2.0}
SLOWER = {"batch": 1, "threads": 1, "dense": 2.0, "slim": 3.0}
LARGE = {"batch": 64, "threads": 1, "dense": 9.0, "slim": 1.0}
ALIKE = {"batch": 1, "threads": 1, "dense": 1.01, "slim": 1.0}
EXPERTS = {
    "kind": "experts", "what": "4 of 8 experts in each of 2 mixtures", "field": "num_local_experts",
    "size": 8, "count": 4, "difference": 0.0, "tolerance": 1e-4, "params": (100, 52), "samples": 2,
}  # fmt: skip
RUNS: dict[str, tuple[dict[str, Any], str]] = {
    "faster": ({"latency_ms": [LARGE, FASTER]}, "1.50 × faster at batch 1 in ONNX Runtime"),
    "slower": ({"latency_ms": [SLOWER]}, "1.50 × slower at batch 1 in ONNX Runtime"),
    "alike": ({"latency_ms": [ALIKE]}, "as fast as the dense network at batch 1 in ONNX Runtime"),
    "not timed": ({"latency_ms": []}, "3.34 × fewer FLOPs, top-1 0.9870 → 0.9815"),
    "no metric": ({"metrics": {}}, "3.34 × fewer FLOPs, 2.34 × faster at batch 1 in ONNX Runtime"),
    "no dense metric": ({"metrics": {"name": "mIoU", "onnx": 0.5}}, "ONNX Runtime, mIoU 0.5000"),
    "parameters only": ({"slim": {"flops": 3_296_512, "params": 87_485, "bytes": 1}}, "2.00 × fewer parameters"),
    "experts alone": (
        {"slim": REPORT.dense.model_dump(), "latency_ms": [], "declared": [EXPERTS]},
        "4 of 8 experts in each of 2 mixtures (52% of the parameters), top-1 0.9870 → 0.9815",
    ),
    "as it was": ({"slim": REPORT.dense.model_dump()}, "as many FLOPs and parameters as the dense network"),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_in_one_line(run: str) -> None:
    changed, told = RUNS[run]
    assert told in summary(type(REPORT).model_validate(REPORT.model_dump() | changed))
