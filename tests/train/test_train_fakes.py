"""The hand-made graph of the training tests counts and chooses as the real one does."""

from __future__ import annotations

import torch
from fakes import TwoConvs, two_convs_graph


def test_the_fake_counts_what_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        TwoConvs()(torch.zeros(1, 1, 8, 8))
    assert counter.get_total_flops() == two_convs_graph().flops


def test_the_fake_plan_meets_the_budget() -> None:
    graph = two_convs_graph()
    plan = graph.plan_from_scores({"g0": torch.arange(8.0), "g1": torch.arange(16.0)}, flops=0.4)
    share = graph.cost.flops({name: len(kept) for name, kept in plan.kept.items()}) / graph.flops
    assert 0.3 < share <= 0.4
