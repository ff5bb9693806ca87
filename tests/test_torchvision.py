"""Models of torchvision: a random half of every group goes, and nothing else changes."""

from __future__ import annotations

import pytest

from atograph.proof.flop_count import count_flops
from benchmarks.exact import compare
from benchmarks.models.torchvision_models import CONVOLUTIONAL, build, example

# of those with attention, the ones that are quick at a small size; `python -m benchmarks.zoo` has them all
QUICK_WITH_ATTENTION = ("swin_t", "swin_v2_t", "swin3d_t")


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, *QUICK_WITH_ATTENTION])
@pytest.mark.long
def test_slim_equals_masked_and_costs_what_was_predicted(name: str) -> None:
    inputs = example(name, small=True)
    found = compare(build(name, small=True), (inputs,), seed=0, keep=0.5)
    assert found.difference <= 1e-9
    assert found.moved > 1e-2, "the plan must move the output, or the comparison shows nothing"
    assert found.alive > 1e-6, "the slim output must still depend on the input"
    assert len(found.graph.prunable) > 5

    assert found.slim.flops == count_flops(found.slim, inputs[:1].double()) < found.graph.flops
    assert found.slim.params < found.graph.params
