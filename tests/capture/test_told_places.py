"""Where a refusal or a frozen group says that it comes from: a line that the user can look at, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError


class Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(6, 16), nn.Linear(16, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))  # type: ignore[no-any-return]


def generated(body: str) -> Any:
    scope: dict[str, Any] = {"torch": torch}
    exec(f"def between(h):\n    return {body}", scope)
    return scope["between"]


@pytest.mark.parametrize("between", [generated("h.cumsum(-1)"), generated("h[h.sum(-1) > 0].cumsum(-1)")])
def test_generated_code_is_no_place(between: Any) -> None:
    text = str(atograph.trace(Net(between).eval(), torch.randn(2, 6)))
    assert "cumsum over this axis (cumsum, test_told_places.py:" in text and "<string>" not in text


def test_a_distribution_that_checks_its_arguments() -> None:
    def drawn(h: Tensor, validate_args: bool = True) -> Tensor:  # torch's own default goes once it compiles something
        return torch.distributions.Normal(h, h.exp(), validate_args=validate_args).stddev  # type: ignore[no-untyped-call]

    def net(validate_args: bool) -> Net:
        return Net(lambda h: drawn(h, validate_args)).eval()

    with pytest.raises(UserError, match=r"test_told_places\.py.*validate_args=False"):
        atograph.trace(net(True).to("meta"), torch.randn(2, 6))  # there are no values to check
    assert atograph.trace(net(True), torch.randn(2, 6)).prunable
    assert atograph.trace(net(False).to("meta"), torch.randn(2, 6)).prunable


def test_sequences_that_are_packed() -> None:
    class Packing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6, batch_first=True)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]

    with pytest.raises(UserError, match=r"test_told_places\.py:\d+.*Give the recurrent layer the padded batch"):
        atograph.trace(Packing().eval(), (torch.randn(2, 3, 4), torch.tensor([2, 3])))
