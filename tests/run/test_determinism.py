"""The same seed gives the same result: in another process, too, and however Python hashes strings there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = """
import hashlib, json, sys
import torch
import atograph
from atograph.inspection import overview
from atograph.passes.text.printer import format_program
from networks import NETWORKS, build
from test_compress import data

def digest(text):
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()[:16]

def weights(model):
    return b"".join(value.detach().contiguous().numpy().tobytes() for value in model.state_dict().values())

found = {}
for name in NETWORKS:
    model, inputs = build(name)
    graph = atograph.trace(model, inputs)
    plan = graph.plan(random=3)
    slim = atograph.slim(graph, plan)
    found[name] = {
        "program": digest(format_program(graph.program)),
        "groups": digest(str(graph.groups)),
        "fingerprint": plan.digest,
        "random plan": digest(plan.to_json()),
        "plan by magnitude": digest(graph.plan(flops=0.5).to_json()),
        "slim program": digest(format_program(slim.passes_program)),
        "what is shown": digest(repr(overview(graph))),
    }
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 12, 3, padding=1), torch.nn.BatchNorm2d(12), torch.nn.ReLU(), torch.nn.Dropout(0.1),
    torch.nn.Conv2d(12, 16, 3, stride=2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16 * 9, 4),
)
result = atograph.compress(model, data(0, 12), flops=0.4, epochs=4, seed=7)
found["training"] = {
    "plan": digest(result.plan.to_json()),
    "weights": digest(weights(result.model)),
    "losses": [row.loss for row in result.history],
    "slim file": digest(weights(result.slim.module)),
}
found = json.loads(json.dumps(found))
"""


def in_another_process(hash_seed: str) -> dict[str, object]:
    folders = Path(__file__).parents[:3]
    variables = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN + "print(json.dumps(found))"]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.long
def test_another_process_finds_the_same() -> None:
    """Groups, plans of every kind, the slim program, and a training to its last bit (on one CPU thread)."""
    here: dict[str, Any] = {}
    exec(RUN, here)
    other = "0" if os.environ.get("PYTHONHASHSEED") != "0" else "4242"
    assert in_another_process(other) == here["found"]
