"""Parts of a model that are called like words of Python, or like what torch's own module has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.ir.exported.called import module_of, unwritable


class Named(nn.Module):
    """Parts of some names, and a buffer that is written."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names, self.stem = names, nn.Conv2d(3, 8, 1)
        for name in names:
            self.add_module(name, nn.Conv2d(8, 8, 1))
        self.inner = nn.ModuleDict({"in": nn.Conv2d(8, 8, 1)})
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for name in self.names:
            x = self._modules[name](x).relu()  # type: ignore[misc]
        return self.head(self.inner["in"](x).relu())  # type: ignore[no-any-return]


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("names", [(), ("code", "code_"), ("graph", "class", "recompile", "meta"), ("None", "lambda")])
def test_a_run_is_loaded_and_proved_again(names: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Named(*names).eval()
    made = atograph.compress(model, example_inputs=X, flops=0.6, method="magnitude", epochs=0, out=tmp_path / "run")
    loaded = atograph.load(tmp_path / "run")
    with torch.no_grad():
        torch.testing.assert_close(loaded(X), made.model(X), rtol=1e-4, atol=1e-5)
    assert loaded.state_dict().keys() == made.model.state_dict().keys() >= {"inner.in.weight"}
    loaded.load_state_dict({name: torch.zeros_like(value) for name, value in loaded.state_dict().items()})
    assert not loaded(X).any()
    assert atograph.trace(tmp_path / "run").prunable


def test_only_what_torch_cannot_write_has_another_name() -> None:
    model = Named("code", "code_").eval()
    exported = atograph.slim(graph := atograph.trace(model, X), graph.plan(random=0)).program
    assert unwritable(exported) == {
        "code.weight": "code__.weight",
        "code.bias": "code__.bias",
        "inner.in.weight": "inner.in__.weight",
        "inner.in.bias": "inner.in__.bias",
    }
    assert module_of(exported)(X).shape == (2, 4, 4, 4)


def test_torch_alone_is_told_of_at_once(tmp_path: Path) -> None:
    with pytest.raises(
        atograph.UserError, match=r"torch alone makes no module of this program: inner\.in\.\w+ has a pa"
    ):
        atograph.compress(
            Named(), example_inputs=X, flops=0.6, method="magnitude", epochs=0, out=tmp_path / "run", targets=["pt2"]
        )
