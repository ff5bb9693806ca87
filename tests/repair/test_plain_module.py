"""Slim modules that others load and run by their own code: no corrected calls, and other forms of ``forward`` fit."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

import atograph


class Split(nn.Module):
    """A detector's block: half of the channels goes on; ``forward_split`` is what is taken for export."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 8
        self.enter, self.inner, self.leave = nn.Conv2d(4, 16, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(24, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        pieces = list(self.enter(x).chunk(2, 1))
        pieces.append(self.inner(pieces[-1]).relu())
        return self.leave(torch.cat(pieces, 1))

    def forward_split(self, x: Tensor) -> Tensor:
        pieces = list(self.enter(x).split((self.width, self.width), 1))
        pieces.append(self.inner(pieces[-1]).relu())
        return self.leave(torch.cat(pieces, 1))

    def forward_features(self, x: Tensor) -> Tensor:
        """Something else than ``forward``, with the same arguments."""
        return self.enter(x).reshape(len(x), 2, self.width, -1)


class Fused(nn.Module):
    """A layer that is folded into the one before it later on, and keeps its width for that."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 16
        self.conv, self.norm, self.out = nn.Conv2d(4, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.conv(x)).relu())

    def forward_fuse(self, x: Tensor) -> Tensor:
        scale = (self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()).view(self.channels, 1, 1, 1)
        shift = self.norm.bias - self.norm.running_mean * scale.flatten()
        y = torch.conv2d(x, self.conv.weight * scale, self.conv.bias * scale.flatten() + shift, padding=1)
        return self.out(y.relu())


class Net(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 4, 3), block, nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).relu())


def even(graph: atograph.Graph) -> atograph.Plan:
    """A plan that keeps five of eight units, and ten of sixteen, of the block's widths."""
    chosen = [group for group in graph.prunable if any("block" in name for name, _dim in group.members)]
    return graph.plan(kept={group.name: range(group.size * 5 // 8) for group in chosen if group.size in (8, 16)})


@pytest.mark.parametrize(
    ("block", "form", "attribute"), [(Split, "forward_split", "width"), (Fused, "forward_fuse", "channels")]
)
def test_other_forms_of_forward_fit_the_slim_widths(block: type[nn.Module], form: str, attribute: str) -> None:
    torch.manual_seed(0)
    model, x = Net(block()).eval(), torch.randn(2, 3, 8, 8)
    graph = atograph.trace(model, x)
    slim = atograph.slim(graph, even(graph))
    assert slim.module is not None, slim.why_no_module
    part, h = slim.module.block, slim.module.stem(x)
    assert getattr(part, attribute) < getattr(model.block, attribute)
    assert torch.allclose(getattr(part, form)(h), part(h), atol=1e-6)
    assert any(f"(for {form})" in line for line in slim.repairs)


def test_a_form_that_cannot_fit_is_named() -> None:
    torch.manual_seed(0)
    model, x = Net(Split()).eval(), torch.randn(2, 3, 8, 8)
    graph = atograph.trace(model, x)
    widths = iter((3, 5, 7, 6))  # halves of other sizes: the split cannot be written with one width
    plan = graph.plan(kept={group.name: range(next(widths)) for group in graph.prunable if group.size == 8})
    slim = atograph.slim(graph, plan)
    assert slim.module is not None, slim.why_no_module
    assert "block.forward_split does not fit the slim widths; forward does" in slim.repairs
    assert slim.module.block.width == 8


class Uneven(Net):
    """Beside the split a layer norm, which counts channels that are gone."""

    def __init__(self) -> None:
        super().__init__(Split())
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block(self.stem(x))
        return self.head(self.norm(h.mT.transpose(1, -1)).transpose(1, -1).mT.relu())


@pytest.mark.parametrize("net", [lambda: Net(Split()), Uneven])
def test_a_plain_module_needs_no_atograph_to_be_loaded(net: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = net().eval(), torch.randn(2, 3, 8, 8)
    graph = atograph.keep_module(atograph.trace(model, x), plain=True)
    assert graph.prunable
    for seed in range(2):
        slim = atograph.slim(graph, graph.plan(random=seed, keep=0.6))
        assert slim.module is not None and not slim.corrected_calls
        assert torch.allclose(slim.module(x), slim(x), atol=1e-5)
        pickled = io.BytesIO()
        torch.save(slim.module, pickled)
        data = pickled.getvalue()
        assert b"atograph" not in data
    assert atograph.keep_module(graph, plain=True) is graph


class ByInput(nn.Module):
    """Attention that takes the width of its heads together from what enters it, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Conv2d(4, 12, 1), nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).view(b, 2, 6, h * w).split([2, 2, 2], 2)
        return self.proj((v @ (q.mT @ k).softmax(-1)).view(b, c, h, w))


def test_what_enters_a_module_stays_whole_where_its_code_counts_it() -> None:
    torch.manual_seed(0)
    model, x = Net(ByInput()).eval(), torch.randn(2, 3, 8, 8)
    graph = atograph.keep_module(atograph.trace(model, x), plain=True)
    assert [group.members[0] for group in graph.prunable] == [("block.proj.weight", 0)]  # what leaves it may go
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    assert slim.module is not None and not slim.corrected_calls
    assert torch.allclose(slim.module(x), slim(x), atol=1e-6)


class Detector(nn.Module):
    """Boxes, and beside them what the loss reads; training returns that alone, in another structure."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self.stem, self.head, self.off = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1), off

    def forward(self, x: Tensor) -> object:
        feats = self.stem(x).relu()
        raw = {"scores": self.head(feats), "feats": [feats]}
        if self.training:
            return raw | {"scores": raw["scores"] + self.off * feats.shape[1]}
        return raw["scores"].sigmoid(), raw


@pytest.mark.parametrize("off", [0.0, 1.0])
def test_what_is_left_out_may_stand_elsewhere_in_training(off: float) -> None:
    torch.manual_seed(0)
    model, x = Detector(off).eval(), torch.randn(2, 3, 8, 8)
    graph = atograph.trace(model, x, outputs=["output_0"])
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    if off:  # what training computes of all others still counts
        assert slim.module is None and "training" in slim.why_no_module
        return
    assert slim.module is not None, slim.why_no_module
    assert slim.module.train()(x)["feats"][0].shape[1] == 8


def test_slim_weights_in_the_dense_model() -> None:
    torch.manual_seed(0)
    model, x = Net(Fused()).eval(), torch.randn(2, 3, 8, 8)
    graph = atograph.trace(model, x)
    plan = graph.plan(random=0, keep=0.5)
    module = atograph.slim(graph, plan).module
    assert module is not None
    for value in module.parameters():  # trained by others
        nn.init.uniform_(value.requires_grad_(False), -1, 1)
    dense = Net(Fused()).eval()
    dense.load_state_dict(atograph.masked_state(graph, plan, module.state_dict()))
    torch.testing.assert_close(dense(x), module(x))
    with pytest.raises(atograph.UserError, match="the slim module's is another one"):
        atograph.masked_state(graph, plan, {"head.weight": torch.zeros(2, 5, 1, 1)})
