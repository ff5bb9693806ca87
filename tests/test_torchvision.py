"""Every convolutional model of torchvision: a random half of every group goes, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.exact import compare
from benchmarks.torchvision_models import CONVOLUTIONAL, build, example


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_slim_equals_masked_and_costs_what_was_predicted(name: str) -> None:
    inputs = example(name, small=True)
    found = compare(build(name), (inputs,), seed=0, keep=0.5)
    assert found.difference <= 1e-9
    assert found.moved > 1e-2, "the plan must move the output, or the comparison shows nothing"
    assert found.alive > 1e-6, "the slim output must still depend on the input"
    assert len(found.graph.prunable) > 5

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        found.slim(inputs.double())
    assert found.slim.flops == counter.get_total_flops() // len(inputs) < found.graph.flops
    assert found.slim.params < found.graph.params
