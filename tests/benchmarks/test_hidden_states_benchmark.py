"""The benchmark of hidden states, on a network that was trained for a moment."""

from __future__ import annotations

import pytest
import torch

from benchmarks import hidden_states
from examples import digits


@pytest.mark.long
@pytest.mark.parametrize(
    "method", ["dense", "progressive", hidden_states.AGAINST, "one-shot Taylor, hidden states by 1"]
)
def test_each_method_goes_on_from_the_same_network(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn, whose digits these are, is not installed")

    def trained(seed: int) -> tuple[torch.nn.Module, float]:
        torch.manual_seed(seed)
        return digits.model(), 0.5

    monkeypatch.setattr(hidden_states, "trained", trained)
    monkeypatch.setattr(digits, "train_data", lambda data=digits.val_data: [next(iter(data()))] * 2)
    run = hidden_states.measure(("digits", 0.5, method, 0))
    assert (run.metric, run.flops) == (50, 1) if method == "dense" else 0.3 < run.flops <= 0.5
