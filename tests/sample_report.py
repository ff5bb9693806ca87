"""One report for the tests of what is printed and written."""

from __future__ import annotations

from atograph.report.run import Report

REPORT = Report.model_validate(
    {
        "spec": "examples/digits.py",
        "name": "digits",
        "versions": {"atograph": "0.1.0"},
        "seed": 0,
        "device": "cpu",
        "budgets": [{"kind": "flops", "asked": 0.3, "reached": 0.2998, "smallest": 0.041}],
        "dense": {"flops": 3_296_512, "params": 174_970, "bytes": 712_000},
        "slim": {"flops": 988_000, "params": 51_234, "bytes": 215_000},
        "groups": 9,
        "metrics": {"name": "top-1", "dense": 0.987, "masked": 0.9815, "slim": 0.9815, "onnx": 0.9815},
        "latency_ms": [{"batch": 1, "threads": 1, "dense": 0.2137, "slim": 0.0914}],
        "certificate": [
            {"batch": 2, "masked_slim": 3.1e-7, "slim_onnx": 4.2e-7, "tolerance": 1e-4, "moved": 0.52},
            {"batch": 5, "masked_slim": 3.3e-4, "slim_onnx": 4.4e-7, "tolerance": 1e-4, "moved": 0.61},
        ],
        "float64": 4.1e-16,
        "module": "slim",
        "frozen": [
            {"group": "g1", "units": 10, "reason": "an output of the model", "where": "head.weight[0]"},
            {"group": "g2", "units": 1, "reason": "an input of the model", "where": "stem.0.weight[1]"},
            {"group": "g3", "units": 4, "reason": "no rule for aten.foo", "where": "a"},
            {"group": "g4", "units": 4, "reason": "no rule for aten.foo", "where": "b"},
            {"group": "g5", "units": 4, "reason": "no rule for aten.foo", "where": "c"},
        ],
        "widths": [
            {"layers": "stem.0, stem.1 → blocks.0.conv1", "groups": 1, "dense": 32, "least": 21, "most": 21},
            {
                "layers": "blocks.0–2.conv1, blocks.0–2.bn1, x → blocks.0–2.conv2",
                "groups": 3,
                "dense": 64,
                "least": 24,
                "most": 40,
            },
            {"layers": "head → out", "groups": 1, "dense": 8, "least": 8, "most": 8},
        ],
        "seconds": 61.2,
    }
)
