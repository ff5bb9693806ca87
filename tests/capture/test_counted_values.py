"""Code that asserts of values what holds for the example's batch: as many marks in the text as there are patches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.slimming.slim import Slim

PATCHES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "all images at once": lambda patch, images: patch(images),
    "images one by one": lambda patch, images: torch.cat([patch(image) for image in images]),
}
MARK = 10


class Marked(nn.Module):
    """Patches of images in the place of marks, as in Llava."""

    def __init__(self, patches: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.patches = patches
        self.words, self.patch = nn.Embedding(11, 8), nn.Linear(6, 8)
        self.up, self.head = nn.Linear(8, 32), nn.Linear(32, 3)

    def forward(self, ids: Tensor, images: Tensor) -> Tensor:
        words, patches = self.words(ids), self.patches(self.patch, images)
        marked = (ids == MARK)[..., None].expand_as(words)
        torch._check_tensor_all(marked.sum() == patches.numel())
        hidden = self.up(words.masked_scatter(marked, patches))
        answer: Tensor = self.head(hidden.relu())
        return answer


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(batch)
    ids = torch.randint(MARK, (batch, 5), generator=source)
    ids[:, 1:3] = MARK
    return ids, torch.randn(batch, 2, 6, generator=source)


def slimmed(name: str) -> tuple[nn.Module, Slim]:
    torch.manual_seed(0)
    model = Marked(PATCHES[name]).eval()
    graph = atograph.trace(model, inputs(3))
    plan = graph.plan(flops=0.5)
    return atograph.mask(model, plan), atograph.slim(graph, plan)


@pytest.mark.parametrize("name", PATCHES)
def test_a_count_is_asserted_at_any_batch_or_the_batch_is_fixed(name: str) -> None:
    masked, slim = slimmed(name)
    for batch in (3, 4):
        with torch.no_grad():
            expected = masked(*inputs(batch))
        if batch == 3 or name == "all images at once":
            torch.testing.assert_close(slim(*inputs(batch)), expected)
        else:
            with pytest.raises(UserError, match=r"takes ids of the shape \[3, 5\]"):
                slim(*inputs(batch))
    fixed = slim.passes_program.interface.fixed
    assert fixed == ("" if name == "all images at once" else "it goes through its samples one by one")


def test_what_is_asserted_of_values_has_a_form_in_onnx(tmp_path: Path) -> None:
    _masked, slim = slimmed("images one by one")
    assert any("_is_all_true" in str(node.target) for node in slim.passes_program.graph.nodes)
    slim.to_onnx(tmp_path / "slim.onnx")  # run there on the example, too
