"""The user's own module made slim: attributes found and set, calls corrected, and what cannot be repaired."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from kept_widths import (
    Attention,
    Careful,
    Computed,
    Config,
    Configured,
    Grouped,
    Literal,
    Looping,
    Merged,
    Net,
    Recurrent,
    RootMeanSquare,
    SelfAttention,
    Shuffled,
    Split,
    Strict,
    TwoWidths,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import atograph
from atograph.passes.plan.at_random import random_plan
from atograph.values.difference import relative_difference
from benchmarks.exact import perturb


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 4, 32, batch_first=True), 2)


MIDDLES = {
    "attributes": (Attention, ["middle.n: 4 → 2", "middle.per: 6 → 3"], ["scaled_dot_product_attention"]),
    "literals": (Literal, [], ["view", "reshape"]),
    "batch": (Merged, ["middle.n: 4 → 2", "middle.per: 6 → 3"], []),
    "computed": (Computed, ["middle.inner: 24 → 6", "middle.per: 6 → 3"], []),
    "tuple and dict": (Split, ["middle.sizes[0]: 12 → 6", "middle.more['first']: 12 → 6"], []),
    "configuration": (lambda: Configured(SimpleNamespace(heads=4, per=6)), ["middle.SimpleNamespace.heads: 4 → 2"], []),
    "frozen": (lambda: Configured(Config(4, 6)), ["middle.Config.heads: 4 → 2", "middle.Config.per: 6 → 3"], []),
    "layer norm": (lambda: nn.LayerNorm(24), [], ["layer_norm"]),
    "rms norm": (lambda: nn.RMSNorm(24), [], ["rms_norm"]),
    "own norm": (RootMeanSquare, [], ["mean"]),
    "comparisons": (Careful, ["middle.dim: 24 → 12", "middle.pair[0]: 12 → 6"], []),
    "plain integers only": (Strict, [], ["view", "reshape"]),
    "loop": (Looping, [], ["view"]),
    "shuffle": (Shuffled, [], ["view", "transpose"]),
    "recurrent": (Recurrent, [], []),
    "attention of torch": (SelfAttention, ["middle.inner.num_heads: 4 → 2"], ["multi_head_attention_forward"]),
    "attention with weights": (lambda: SelfAttention(weights=True), [], ["multi_head_attention_forward"]),
    "attention without bias": (lambda: SelfAttention(bias=False), [], ["multi_head_attention_forward"]),
    "encoder of torch": (encoder, ["middle.layers.1.self_attn.num_heads: 4 → 2"], ["layer_norm"]),
    "groups": (Grouped, ["middle.conv.groups: 24 → 12"], []),
    "stack": (lambda: nn.Sequential(nn.LayerNorm(24), Literal(), RootMeanSquare(), Attention()), [], ["view", "mean"]),
}  # fmt: skip


def slimmed(model: nn.Module, x: Tensor, seed: int = 0) -> atograph.Slim:
    perturb(model)
    graph = atograph.trace(model.double().eval(), x.double())
    return atograph.slim(graph, random_plan(graph.groups, seed, 0.5))


def same(slim: atograph.Slim, module: nn.Module, x: Tensor) -> bool:
    with torch.no_grad():
        return relative_difference(slim(x.double()), module(x.double())) < 1e-12


@pytest.mark.parametrize("name", MIDDLES)
def test_a_module_comes_back(name: str) -> None:
    make, attributes, calls = MIDDLES[name]
    torch.manual_seed(0)
    model = Net(make())
    before = {part: dict(vars(module)) for part, module in model.named_modules()}
    slim = slimmed(model, torch.randn(2, 5, 8))
    assert slim.why_no_module == ""
    module = slim.module
    assert module is not None and same(slim, module, torch.randn(3, 5, 8)) and same(slim, module, torch.randn(1, 5, 8))
    assert [type(part) for part in module.modules()] == [type(part) for part in model.modules()]
    assert list(module.state_dict()) == list(model.state_dict())
    for repair in attributes:
        assert repair in slim.repairs
    for called in calls:
        assert any(f": {called} (" in repair for repair in slim.repairs), slim.repairs
    for part, dense in model.named_modules():  # it is as it was
        assert {k: v for k, v in vars(dense).items() if type(v) is int} == {
            k: v for k, v in before[part].items() if type(v) is int
        }


class Folded(nn.Module):
    """A width times the length of the sequence, written down."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(24, 20), nn.Linear(20, 24)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.up(x)).reshape(len(x), x.shape[1] * 20)
        return self.down(y.view(len(x), x.shape[1], 20))


def test_corrected_sizes_follow_the_length_of_a_sequence() -> None:
    torch.manual_seed(0)
    slim = slimmed(Net(Folded()), torch.randn(2, 5, 8))
    module = slim.module
    assert module is not None and any("argument 2: 100 → 50" in repair for repair in slim.repairs)
    longer, first = torch.randn(3, 7, 8).double(), slice(None, 5)
    with torch.no_grad():
        torch.testing.assert_close(module(longer)[:, first], slim(longer[:, first]), rtol=1e-12, atol=1e-12)


def test_the_repairs_are_told_with_their_lines() -> None:
    slim = slimmed(Net(nn.Sequential(nn.LayerNorm(24), Attention())), torch.randn(2, 5, 8))
    assert slim.repairs[:2] == ("middle.1.n: 4 → 2", "middle.1.per: 6 → 3")
    norm, attention = slim.repairs[2:]
    assert norm.startswith("middle.0: layer_norm (kept_widths.py:") and norm.endswith("as the slim program does it")
    assert attention.startswith("middle.1: scaled_dot_product_attention (kept_widths.py:")
    assert attention.endswith("scale=0.408248")


def test_an_attribute_with_two_widths_gets_one_and_the_other_call_is_corrected() -> None:
    torch.manual_seed(0)
    model = Net(TwoWidths()).double().eval()
    perturb(model)
    x = torch.randn(2, 5, 8).double()
    graph = atograph.trace(model, x)
    inner = [group.name for group in graph.prunable if group.size == 16]
    keep = {name: range(4 + 2 * index) for index, name in enumerate(inner)}
    slim = atograph.slim(graph, graph.plan(kept=keep))
    assert slim.module is not None and same(slim, slim.module, x)
    assert sum("middle.inner: 16 → " in repair for repair in slim.repairs) == 1
    assert sum("middle: view (" in repair for repair in slim.repairs) == 1


def test_a_slim_module_is_copied_pickled_traced_exported_and_compiled() -> None:
    torch.manual_seed(0)
    slim = slimmed(Net(nn.Sequential(nn.LayerNorm(24), Literal(), SelfAttention(), Shuffled())), torch.randn(2, 5, 8))
    module, x = slim.module, torch.randn(2, 5, 8).double()
    assert module is not None and any("layer_norm" in repair for repair in slim.repairs)
    assert same(slim, copy.deepcopy(module), x)
    assert same(slim, pickle.loads(pickle.dumps(module)), x)
    again = atograph.trace(module, x)
    assert again.flops == slim.flops
    assert same(slim, torch.export.export(module, (x,), strict=False).module(), x)
    assert same(slim, torch.compile(module, backend="eager"), x)


def test_a_slim_module_trains_with_its_dropout() -> None:
    torch.manual_seed(0)
    slim = slimmed(Net(nn.Sequential(Attention(), SelfAttention())), torch.randn(2, 5, 8))
    module, x = slim.module, torch.randn(2, 5, 8).double()
    assert module is not None
    module.train()
    first, second = module(x), module(x)
    assert not torch.equal(first, second)
    first.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())


class Fold(nn.Module):
    """Halves, of a width that is written down."""

    def forward(self, x: Tensor, width: int) -> Tensor:
        return x.view(-1, 5, 2, width)


class Repeating(Looping):
    """One line, in each run of its module with another width."""

    def __init__(self) -> None:
        super().__init__()
        self.fold = Fold()

    def forward(self, x: Tensor) -> Tensor:
        for up, down, width in zip(self.ups, self.downs, (9, 20), strict=True):
            x = x + down(self.fold(torch.relu(up(x)), width).flatten(2))
        return x


def test_a_line_that_needs_other_sizes_in_each_run_of_its_module_is_named() -> None:
    slim = slimmed(Net(Repeating()), torch.randn(2, 5, 8))
    assert slim.module is None
    assert "test_repair.py:" in slim.why_no_module
    assert "(middle.fold): view needs other sizes in each run of the module" in slim.why_no_module


def test_what_stands_in_the_way_is_kept_whole() -> None:
    torch.manual_seed(0)
    model = Net(nn.Sequential(Repeating(), Attention())).double().eval()
    perturb(model)
    x = torch.randn(2, 5, 8).double()
    graph = atograph.trace(model, x)
    kept = atograph.keep_module(graph)
    frozen = [group for group in kept.groups if group.frozen is not None and group.frozen.wish]
    members = {name for group in frozen for name, _dim in group.members}
    assert {"middle.0.ups.0.weight", "middle.0.ups.1.weight"} <= members and "middle.1.out.weight" not in members
    assert "so that the module comes back: test_repair.py:" in str(frozen[0])
    plan = kept.plan(random=5, keep=0.5)
    slim = atograph.slim(kept, plan)
    assert slim.module is not None and same(slim, slim.module, x) and slim.params < kept.params
    replayed = atograph.slim(graph, atograph.Plan.from_json(plan.to_json()))  # it fits without the wish
    assert same(replayed, slim.module, x)
    with pytest.raises(atograph.UserError, match="frozen here: so that the module comes back"):
        graph.plan(random=5, keep=0.5).check(kept.groups)


def test_a_module_that_insists_on_its_width_is_kept_as_far_as_needed() -> None:
    torch.manual_seed(0)
    graph = atograph.trace(Net(nn.Sequential(Asserting(), Attention())), torch.randn(2, 5, 8))
    kept = atograph.keep_module(graph)
    assert 0 < len(kept.prunable) < len(graph.prunable)
    assert atograph.slim(kept, kept.plan(random=1, keep=0.5)).module is not None
    assert atograph.keep_module(kept) is kept


class OtherInTraining(Attention):
    """Does the same in training, by other lines."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.n, self.per).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
        return self.out(y.transpose(1, 2).reshape(b, t, self.n * self.per))


def test_a_way_that_is_only_taken_in_training_is_not_forgotten() -> None:
    slim = slimmed(Net(OtherInTraining()), torch.randn(2, 5, 8))
    assert slim.module is None and "in training mode its code goes another way" in slim.why_no_module


class LengthScaled(Attention):
    """A scale that follows the length of the sequence, and the width."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.n, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-2, -1) * (math.log(t + 1) / q.shape[-1])).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


def test_a_corrected_factor_follows_the_length_of_a_sequence() -> None:
    torch.manual_seed(0)
    model = Net(LengthScaled())
    slim = slimmed(model, torch.randn(2, 5, 8))
    module, longer = slim.module, torch.randn(2, 9, 8).double()
    assert module is not None
    with torch.no_grad():
        masked = atograph.mask(model, slim.plan)
        torch.testing.assert_close(module(longer), masked(longer), rtol=1e-12, atol=1e-12)


class Checkpointed(Attention):
    def attend(self, x: Tensor) -> Tensor:
        return super().forward(x)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.attend, x, use_reentrant=False) if self.training else self.attend(x)


def test_a_checkpoint_within_a_corrected_forward_is_refused() -> None:
    """It would run again without the corrections, and the gradients would be wrong."""
    slim = slimmed(Net(Checkpointed()), torch.randn(2, 5, 8))
    module = slim.module
    assert module is not None
    with pytest.raises(RuntimeError, match="Checkpoint whole modules"):
        module.train()(torch.randn(2, 5, 8).double())
    whole = slimmed(Net(Attention()), torch.randn(2, 5, 8)).module
    assert whole is not None
    x = torch.randn(2, 5, 8).double()
    hidden = torch.relu(whole.stem(x))  # type: ignore[operator]
    checkpoint(whole.middle, hidden, use_reentrant=False).sum().backward()  # type: ignore[union-attr]


class OtherUse(Attention):
    """Reads an attribute for something else in training."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * (self.n / 4) if self.training else y


def test_an_attribute_that_means_something_else_in_training_is_noticed() -> None:
    slim = slimmed(Net(OtherUse()), torch.randn(2, 5, 8))
    assert slim.module is None and "in training mode" in slim.why_no_module


class Dropping(Looping):
    """Leaves a layer out now and then."""

    skipped = -1

    def forward(self, x: Tensor) -> Tensor:
        for number, (up, down, width) in enumerate(zip(self.ups, self.downs, (9, 20), strict=True)):
            if number != self.skipped:
                x = x + down(torch.relu(up(x)).view(-1, 5, 2, width).flatten(2))
        return x


def test_a_loop_that_leaves_out_a_turn_is_refused() -> None:
    slim = slimmed(Net(Dropping()), torch.randn(2, 5, 8))
    module = slim.module
    assert module is not None
    module.middle.skipped = 1  # type: ignore[union-attr,assignment]
    with pytest.raises(RuntimeError, match="runs in another way"):
        module(torch.randn(2, 5, 8).double())


def test_corrected_norms_hold_in_half_precision() -> None:
    torch.manual_seed(0)
    model = Net(nn.LayerNorm(24)).eval()
    graph = atograph.trace(model, torch.randn(2, 5, 8))
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    module, x = slim.module, torch.randn(2, 5, 8) * 500
    assert module is not None
    with torch.no_grad():
        assert relative_difference(slim(x), copy.deepcopy(module).half()(x.half())) < 5e-3


def test_a_root_with_corrected_calls_is_exported() -> None:
    torch.manual_seed(0)
    graph = atograph.trace(Literal().double().eval(), torch.randn(2, 5, 24).double())
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    module, x = slim.module, torch.randn(2, 5, 24).double()
    assert module is not None and "forward" in vars(module)
    assert same(slim, torch.export.export(module, (x,), strict=False).module(), x)
    assert list(inspect.signature(module.forward).parameters) == ["x"]


def test_a_forward_of_the_instance_stays() -> None:
    model = Net(nn.Identity())
    model.middle.forward = MethodType(lambda self, x: F.layer_norm(x, (x.shape[-1],)), model.middle)  # type: ignore[method-assign]
    slim = slimmed(model, torch.randn(2, 5, 8))
    assert slim.module is not None and same(slim, slim.module, torch.randn(3, 5, 8))


class Asserting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 24, "the width is 24"
        return self.layer(x)


def test_code_that_insists_on_a_width_is_told() -> None:
    slim = slimmed(Net(Asserting()), torch.randn(2, 5, 8))
    assert slim.module is None and "AssertionError: the width is 24" in slim.why_no_module


def test_corrections_that_no_longer_fit_the_code_are_refused() -> None:
    slim = slimmed(Net(nn.LayerNorm(24)), torch.randn(2, 5, 8))
    module = slim.module
    assert module is not None
    corrected: Any = module.middle.forward  # type: ignore[union-attr]
    corrected.calls = {(file, line, at + 2, name): c for (file, line, at, name), c in corrected.calls.items()}
    with pytest.raises(RuntimeError, match=r"LayerNorm.*made slim with other code"):
        module(torch.randn(2, 5, 8).double())
