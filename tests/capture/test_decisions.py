"""Decisions by values: the example's, listed, checked when the program runs; what only raises is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.proof.certificate import certify
from atograph.run.measure import check_cost
from atograph.spec.example_inputs import Inputs


class Net(nn.Module):
    """Two layers, and in between them code that looks at values."""

    def __init__(self, between: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.between = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.norm(self.a(x)).relu(), x))


def scaled_like_bytes(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    if x.max() > 1:
        h = h / 255
    return h


def on_an_activation(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    return h * 2 if (h * x.sum()).max() > 0.1 else h


def on_a_table_with_an_input_in_it(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    table = torch.zeros(2, dtype=h.dtype)
    view = table[:1]
    table[0] = x.max()
    return h * 2 if view.sum() > 1 else h


def on_a_weight(net: Net, h: Tensor, x: Tensor) -> Tensor:
    return h * 2 if net.a.weight[0, 0] > -9 else h + x.sum()


def on_a_statistic(net: Net, h: Tensor, x: Tensor) -> Tensor:
    return h * 2 if net.norm.running_var.sum() > 1 else h + x.sum()


def a_length_of_a_mask(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    length = int((x > 0).sum(1).max())
    return h * x[:, :length].mean(1, keepdim=True)


def a_number_cut_off(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    return h * x[:, : int(x.max())].mean(1, keepdim=True)


def equal_tensors(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    return h if torch.equal(x, x * 0) else h * 3


def close_tensors(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    return h if torch.allclose(x, x * 0, atol=0.1) else h * 3


def caught(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    try:
        assert x.max() < 1
    except AssertionError:
        return h * 3
    return h


def kept_by_a_name(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    if (most := int(x.max())) < 1:
        raise ValueError
    return h * x[:, :most].mean(1, keepdim=True)


def compared_as_a_number(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    most = x.max().item()
    return h * 2 if isinstance(most, float) and 1 < most <= 1e3 else h + x.sum()


def computed_with_and_compared(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    most = x.max().round().item()
    return h * most if most > 1 else h + x.sum()


def counted_with(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    count = (x[0] > 0).sum().item()
    return sum((h * x[:, index : index + 1] for index in range(count)), h)


DECIDED: dict[Callable[[Net, Tensor, Tensor], Tensor], str] = {
    scaled_like_bytes: "x.max() > 1 is True",
    on_an_activation: "(h * x.sum()).max() > 0.1 is True",
    on_a_table_with_an_input_in_it: "view.sum() > 1 is True",
    on_a_weight: "net.a.weight[0, 0] > -9 is True",
    a_length_of_a_mask: "int((x > 0).sum(1).max()) is 6",
    a_number_cut_off: "int(x.max()) is 3",
    compared_as_a_number: "1 < most <= 1e3 is True",
    computed_with_and_compared: "most > 1 is True",
    counted_with: "range(count) is 6",
    equal_tensors: "torch.equal(x, x * 0) is False",
    close_tensors: "torch.allclose(x, x * 0, atol=0.1) is False",
    caught: "x.max() < 1 is False",
    kept_by_a_name: "int(x.max()) is 3",
}


def example() -> Tensor:
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)).double() + 0.5
    x[0, 0] = 3.5
    return x


def perturbed(between: Callable[[Net, Tensor, Tensor], Tensor]) -> Net:
    torch.manual_seed(0)
    model = Net(between).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
    return model


@pytest.mark.parametrize("between", DECIDED)
def test_the_example_decides_and_another_input_is_refused(between: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
    model, x = perturbed(between), example()
    graph = atograph.trace(model, x)
    plan = graph.plan(random=0, keep=0.5)
    masked, slim = atograph.mask(model, plan), atograph.slim(graph, plan)
    assert f": {DECIDED[between]} (test_decisions.py:" in str(graph)
    assert plan.kept and slim.module is not None
    for other in (x, x[:1], x.roll(1, 0)[:3]):
        assert torch.allclose(masked(other), slim(other), rtol=1e-9, atol=1e-12)
        assert not torch.allclose(model(other), slim(other))
    if between is not on_a_weight:
        with pytest.raises(UserError, match=rf"where .* is \S+ \(test_decisions.py:\d+ in {between.__name__}\), and"):
            slim(x * 0)
    else:
        assert "Decided by the example and the weights" in str(graph)


def asserted(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    assert (x >= 0).all(), "no negative numbers"
    return h


def raised(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    if x.min().item() < 0 or not bool(x.isfinite().all()):
        message = "no negative numbers"
        raise ValueError(message)
    return h


def asserted_by_torch(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    torch._assert((x >= 0).all(), "no negative numbers")
    torch._check(bool((x >= 0).all()))
    return h


def validated(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    return torch.distributions.Normal(h, x.exp().sum(1, keepdim=True)).mean


@pytest.mark.parametrize("between", [asserted, raised, asserted_by_torch, validated])
def test_what_only_raises_is_no_decision(between: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
    model, x = perturbed(between), example()
    graph = atograph.trace(model, x)
    assert not graph.program.interface.decided
    plan = graph.plan(random=0, keep=0.5)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    assert torch.allclose(masked(x), slim(x), rtol=1e-9, atol=1e-12)
    slim(x - 10)  # no check is left of it


def test_what_a_decision_sums_over_stays() -> None:
    graph = atograph.trace(perturbed(on_a_statistic), example())
    assert not graph.prunable  # without its units, the sum of the statistics would be another one
    assert "Decided by the example and the weights: net.norm.running_var.sum() > 1 is True" in str(graph)


def test_a_loop_over_samples_that_looks_at_each_fixes_the_batch() -> None:
    def of_each(_net: Net, h: Tensor, x: Tensor) -> Tensor:
        return torch.stack([row * 2 if sample.max() > 1 else row for row, sample in zip(h, x, strict=True)])

    x = example()
    x[1] = 0.5
    graph = atograph.trace(perturbed(of_each), x)
    assert "The batch is fixed to the example's size" in str(graph)
    assert len(graph.program.interface.decided) == 2  # one line, both answers


def as_often_as_a_value_says(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    parts = [h * x[:, i : i + 1] for i in torch.repeat_interleave(x[0, :2].long()).tolist()]
    return sum(parts, h) if len(parts) > 2 else h


def places_by_a_mask(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    places = (x[0] > 1).nonzero()[:, 0] if x.max() > 0.1 else None
    return h * x[:, places].sum(1, keepdim=True)


def rows_by_a_mask(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    chosen = x.T[x[0] > 1]
    return h if chosen.shape[0] == 0 else h * chosen.T.amax(1, keepdim=True)


@pytest.mark.parametrize("between", [as_often_as_a_value_says, places_by_a_mask, rows_by_a_mask])
def test_sizes_by_values_where_code_looks_at_them(between: Callable[[Net, Tensor, Tensor], Tensor]) -> None:
    model, x = perturbed(between), example()
    graph = atograph.trace(model, x)
    plan = graph.plan(random=0, keep=0.5)
    masked, slim = atograph.mask(model, plan), atograph.slim(graph, plan)
    other = x.clone()
    other[1:] = x[1:].flip(1)
    for each in (x, other):
        assert torch.allclose(masked(each), slim(each), rtol=1e-9, atol=1e-12)
    with pytest.raises(UserError, match=r"where the size of .* is \d \(test_decisions.py"):
        slim(torch.full_like(x, 0.7))


def test_files_keep_the_check_where_they_can(tmp_path: Path) -> None:
    model, x = perturbed(scaled_like_bytes), example()
    graph = atograph.trace(model, x)
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    slim.save(tmp_path)
    slim.to_onnx(tmp_path / "slim.onnx")  # ONNX has no op that raises
    loaded = torch.export.load(tmp_path / "slim.pt2").module()
    assert torch.allclose(loaded(x), slim(x))
    with pytest.raises(RuntimeError, match=r"x.max\(\) > 1 is True"):
        loaded(x * 0)


def batches(largest: float) -> list[tuple[Tensor, Tensor]]:
    return [(torch.rand(4, 6) * largest, torch.randint(0, 3, (4,))) for _ in range(2)]


@pytest.mark.parametrize(
    ("train", "val", "where"),
    [(batches(255) + batches(1), None, "batch 2 of train_data"), (batches(255), batches(1), "batch 0 of val_data")],
)
def test_batches_that_disagree_are_refused_before_the_training(train: object, val: object, where: str) -> None:
    text = rf"{where} decides otherwise: .* x.max\(\) > 1 is True \(test_decisions.py:\d+ in scaled_like_bytes\)"
    with pytest.raises(UserError, match=text):
        atograph.compress(Net(scaled_like_bytes), train, val_data=val, flops=0.5, epochs=1)  # type: ignore[arg-type]


def test_checks_can_be_dropped() -> None:
    model, x = perturbed(scaled_like_bytes), example()
    graph = atograph.trace(model, x, checks="drop")
    assert "Decided by the example: x.max() > 1 is True" in str(graph)
    plan = graph.plan(random=0, keep=0.5)
    assert plan.fingerprint == atograph.trace(model, x).plan(random=0, keep=0.5).fingerprint
    slim = atograph.slim(graph, plan)
    slim(x / 10)  # for which the model would not scale
    assert not any("assert" in str(node.target) for node in slim.program.graph.nodes)


def by_a_number(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    return h * x.max().item()


def test_a_number_that_is_only_computed_with_decides_nothing() -> None:
    model, x = perturbed(by_a_number), example()
    graph = atograph.trace(model, x)
    assert not graph.program.interface.decided
    plan = graph.plan(random=0, keep=0.5)
    masked, slim = atograph.mask(model, plan), atograph.slim(graph, plan)
    for other in (x, x[:1] * 3):
        assert torch.allclose(masked(other), slim(other), rtol=1e-9, atol=1e-12)


COMPUTED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda h, x: h * x.abs().mean().item(),
    "number first": lambda h, x: x.max().item() - h,
    "quotient": lambda h, x: h / (x.std().item() + 1e-6),
    "number over tensor": lambda h, x: x.max().item() / (h + 1),
    "inverse": lambda h, x: h * (1.0 / x.max().item()),
    "two numbers": lambda h, x: (h - x.min().item()) / (x.max().item() - x.min().item()),
    "whole number": lambda h, x: h * x.argmax().item(),
    "number without dims": lambda h, x: h * (x.mean() * x.max().item()),
    "function": lambda h, x: torch.add(h, x.mean().item()),
    "in place": lambda h, x: h.mul_(x.max().item()),
}


@pytest.mark.parametrize("computed", COMPUTED)
def test_a_number_that_is_computed_with_stays_open_beside_a_decision(computed: str) -> None:
    model = perturbed(lambda _net, h, x: COMPUTED[computed](h / 2 if x.max() > 1 else h, x))
    x = example()
    graph = atograph.trace(model, x)
    assert [each.looked_at for each in graph.program.interface.decided] == ["x.max() > 1"]
    plan = graph.plan(random=0, keep=0.5)
    masked, slim = atograph.mask(model, plan), atograph.slim(graph, plan)
    assert slim.module is not None, slim.why_no_module
    for other in (x, x * 3 - 0.5, x[:2]):
        torch.testing.assert_close(slim(other), masked(other), rtol=1e-9, atol=1e-12)


def by_means(_net: Net, h: Tensor, x: Tensor) -> Tensor:
    """What the whole batch decides may be otherwise for a part of it."""
    return torch.add(h, x.mean().item(), alpha=2) if x.mean() > 0.5 else h - x.sum()


def test_a_batch_of_another_size_that_decides_otherwise_proves_nothing_against_it() -> None:
    x = example()
    x[0] /= 10  # the first sample alone decides otherwise
    model, inputs = perturbed(by_means), Inputs((x,), {})
    for checks in ("keep", "drop"):
        graph = atograph.trace(model, x, checks=checks)
        slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
        assert slim.module is not None, slim.why_no_module
        check_cost(graph, inputs)
        entries = certify(atograph.mask(model, slim.plan), slim, [], inputs)
        assert [entry.batch for entry in entries] == [4]
