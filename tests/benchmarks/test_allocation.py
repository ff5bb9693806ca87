"""The comparison of plans by curves and by one threshold, on two batches."""

from __future__ import annotations

import pytest

from benchmarks import allocation


@pytest.mark.long
def test_both_plans_of_one_dense_network_are_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    data = list(allocation.digits.train_data())[:2]
    monkeypatch.setattr(allocation.digits, "train_data", lambda: data)
    found = allocation.of_seed(0, [0.3], dense=1, tuned=1)
    assert found.keys() == {(1.0, "dense"), *((0.3, name) for name in allocation.PLANS)}
    assert all(0 < error < 100 for error in found.values())


def test_the_table_has_paired_differences() -> None:
    greedy, scores, curves = ((0.1, name) for name in allocation.PLANS)
    found = [{greedy: 2.0 + seed, scores: 3.0 + seed, curves: 1.0 + 2 * seed} for seed in range(3)]
    row = "| 0.1 | 3.00 | 4.00 (+1.00 ± 0.00) | 3.00 (+0.00 ± 0.58) |"
    assert allocation.table(found, [0.1]).splitlines()[2] == row
