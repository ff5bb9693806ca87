"""Ways that a model's code cannot go, which say nothing of a slim module."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from atograph.repair.paths.paths import paths_of


class Attending(nn.Module):
    """As models of transformers do it, with those implementations of attention."""

    def __init__(self, *there: str) -> None:
        super().__init__()
        self.config, self.there, self.layer = (
            SimpleNamespace(_attn_implementation_internal="eager"),
            there,
            nn.Linear(4, 4),
        )

    def set_attn_implementation(self, name: str) -> None:
        """Choose one."""
        if not self.there:
            raise ValueError(f"Attending does not support {name}")
        if name in self.there:
            self.config._attn_implementation_internal = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.mark.parametrize(
    ("there", "names"),
    [((), []), (("flash",), []), (("sdpa", "eager"), ["with sdpa attention"])],
    ids=["none but its own", "another one", "sdpa"],
)
def test_only_implementations_that_are_there(there: tuple[str, ...], names: list[str]) -> None:
    model = Attending(*there).eval()
    assert [path.name for path in paths_of(model, ((torch.randn(2, 4),), {}))] == names
    assert model.config._attn_implementation_internal == "eager"
