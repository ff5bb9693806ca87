"""Random networks and random plans: what has to hold for every one of them.

``make fuzz N=10000`` tries more than the tests do, with other seeds each time: SEED=... repeats one of these runs.
"""

from __future__ import annotations

import os
import random

import torch
from atograph.passes.plan import Plan
from growing import Grown, networks
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

import atograph
from atograph.capture import with_batch
from atograph.flop_count import count_flops
from atograph.inspection import overview
from atograph.inspection.chain import causes
from benchmarks.exact import as_double, compare

EXAMPLES = int(os.environ.get("FUZZ_N", "150"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
MANY = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))

Example = tuple[Grown, tuple[Tensor, ...]]


@seed(SEED)
@MANY
@given(networks(), st.integers(0, 2**16), st.sampled_from([0.2, 0.5, 0.8]))
def test_masked_is_slim(example: Example, number: int, keep: float) -> None:
    """Exact in float64, the FLOPs are those that were predicted, and the plan survives its file."""
    model, inputs = example
    found = compare(model, inputs, seed=number, keep=keep)
    assert found.difference <= 1e-9, (found.difference, model)
    assert Plan.from_json(found.plan.to_json()) == found.plan
    assert found.slim.flops == found.graph.cost.flops(found.plan.counts)
    args, _ = with_batch(as_double((inputs, {})), 1)
    assert count_flops(found.slim.as_module(), *args) == found.slim.flops


@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 5, 10))
@given(networks(), st.integers(0, 2**16))
def test_what_is_shown_is_so(example: Example, number: int) -> None:
    """What hangs on a group is gone without it, each group has its causes, and coupled groups are exact, too."""
    model, inputs = example
    graph = atograph.trace(model, inputs)
    shown = overview(graph)
    for group in shown.groups:
        (member, *_) = group.members
        assert any(
            cause.group is not None and cause.group.name == group.name for cause in causes(graph, member.parameter)
        )
        if group.prunable:
            assert group.flops == graph.flops - graph.cost.flops({group.name: 0})
    pairs = [(a.name, b.name) for a in graph.prunable for b in graph.prunable if a is not b and a.size == b.size]
    if pairs:
        pair = random.Random(number).choice(pairs)
        try:
            graph.coupled([pair])
        except atograph.UserError as error:  # both along one dimension, which would multiply itself
            assert "cannot be coupled" in str(error)
            return
        model.double()
        inputs = tuple(x.double() for x in inputs)
        coupled = atograph.trace(model, inputs).coupled([pair])
        plan = coupled.plan(random=number)
        masked, slim = atograph.mask(model, plan), atograph.slim(coupled, plan)
        with torch.no_grad():
            for a, b in zip(_listed(masked(*inputs)), _listed(slim(*inputs)), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def _listed(found: object) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)  # type: ignore[return-value]
