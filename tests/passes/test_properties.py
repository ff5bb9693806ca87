"""What groups say of themselves: slices of members, roles, and properties that hold wherever they are claimed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from growing import EXAMPLES, MANY, SEED, Composed, Grown, compositions, networks
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import atograph
from atograph.passes.errors import UserError
from atograph.passes.ir.run import ProgramModule
from benchmarks.exact import as_double, difference, perturb

EXACT = 1e-9


@pytest.fixture(scope="module")
def claimed() -> Iterator[Counter[str]]:
    """How often what was claimed and tried; it is not nothing."""
    found: Counter[str] = Counter()
    yield found
    assert found.keys() >= {"permutable", "homogeneous", "additive", "scaling"}, found


@pytest.mark.long
@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 6, 10))
@given(networks() | compositions(), st.integers(0, 2**16))
def test_what_is_claimed_holds(
    claimed: Counter[str], example: tuple[Grown | Composed, tuple[Tensor, ...]], number: int
) -> None:
    model, inputs = example
    perturb(model)
    model.double().eval()
    (wide, _), chance = as_double((inputs, {})), random.Random(number)
    graph = atograph.trace(model, wide)
    assert all(bool(group.zero_provable) == (group.frozen is None) for group in graph.groups)
    for group in chance.sample(graph.groups.listed, min(len(graph.groups), 5)):
        check_claims(graph, group, wide, chance, claimed)


def check_claims(
    graph: atograph.Graph, group: atograph.Group, inputs: tuple[Any, ...], chance: random.Random, claimed: Counter[str]
) -> None:
    """Each claim of a group, on numbers."""
    state, before = graph.program.state, run(graph, {}, inputs)

    def same(changed: dict[str, Tensor], what: str) -> None:
        claimed[what] += 1
        assert difference(before, run(graph, changed, inputs)) <= EXACT, (what, group, graph.model)

    if group.permutable:
        order = torch.tensor(chance.sample(range(group.size), group.size))
        same(atograph.reordered(group, state, order), "permutable")
    factors = torch.tensor([chance.uniform(0.5, 2) for _ in range(group.size)], dtype=torch.float64)
    whole = [name for name, _dim in group.members if not state[name].is_floating_point()]
    if group.homogeneous and not whole:
        same(atograph.scaled(group, state, factors), "homogeneous")
    member = chance.choice(group.members)
    try:
        group.scaling(member)
    except UserError:
        pass
    else:
        if not whole:
            same(atograph.scaled(group, state, factors, member), "scaling")
    if group.additive and group.zero_provable and group.size > 2:
        claimed["additive"] += 1
        units = range(group.size)
        one, other, both = (masked(graph, group, kept, inputs) for kept in (units[:-1], units[1:], units[1:-1]))
        total = [a + b - c for a, b, c in zip(one, other, both, strict=True)]
        assert difference(before, total) <= EXACT, (group, graph.model)


def run(graph: atograph.Graph, changed: dict[str, Tensor], inputs: tuple[Any, ...]) -> list[Tensor]:
    """The program's outputs with other tensors."""
    program = graph.program.rewritten(graph.program.graph, {**graph.program.state, **changed})
    torch.manual_seed(0)
    with torch.no_grad():
        return listed(ProgramModule(program)(*inputs))


def masked(graph: atograph.Graph, group: atograph.Group, kept: range, inputs: tuple[Any, ...]) -> list[Tensor]:
    assert graph.model is not None
    torch.manual_seed(0)
    with torch.no_grad():
        return listed(atograph.mask(graph.model, graph.plan(kept={group.name: kept}))(*inputs))


def listed(found: Any) -> list[Tensor]:
    return list(found) if isinstance(found, (tuple, list)) else [found]


# -- known networks ----------------------------------------------------------------------------------------------------


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn, self.mid = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)
        self.deep, self.head = nn.Conv2d(4, 4, 1, groups=4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.mid(torch.relu(self.bn(self.stem(x)))))
        return self.head(self.deep(x).mean((2, 3)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.gate, self.down = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.o(x))
        q, k, v = (f(y).view(*x.shape[:2], 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.down(functional.gelu(self.gate(y)) * self.up(y))


def test_roles_and_slices_of_members_and_buffers() -> None:
    graph = atograph.trace(Convolutional().eval(), torch.randn(2, 3, 8, 8))
    group = graph.groups.named("stem")
    assert group.buffers == (("bn.running_mean", 0), ("bn.running_var", 0))
    assert {member: sorted(group.roles(member)) for member in (*group.members, *group.buffers)} == {
        ("stem.weight", 0): ["makes"], ("stem.bias", 0): ["shifts"], ("bn.weight", 0): ["scales"],
        ("bn.bias", 0): ["shifts"], ("mid.weight", 1): ["reads"], ("bn.running_mean", 0): ["shifts"],
        ("bn.running_var", 0): ["unknown"],
    }  # fmt: skip
    for name, dim in (*group.members, *group.buffers):
        (part,) = group.slices((name, dim))
        assert (part.parameter, part.dim, part.length) == (name, dim, 6)
        assert part.indices.tolist() == [[unit] for unit in range(6)]
    assert graph.groups.named("mid").roles(("deep.weight", 0)) == {"scales"}
    with pytest.raises(UserError, match=r"no dimension that holds the units of group g0.*stem\.weight\[0\]"):
        group.slices(("mid.weight", 0))


def test_heads_lie_in_blocks() -> None:
    graph = atograph.trace(Block().eval(), torch.randn(2, 3, 8))
    heads = next(group for group in graph.groups if group.size == 2)
    (part,) = heads.slices(("v.weight", 0))
    assert part.indices.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    widths = next(group for group in graph.groups if ("v.weight", 0) in group.members and group.size == 4)
    (part,) = widths.slices(("o.weight", 1)) if ("o.weight", 1) in widths.members else widths.slices(("up.weight", 1))
    assert part.indices.tolist() == [[unit, unit + 4] for unit in range(4)]


def test_an_op_without_terms_makes_the_role_unknown() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.scale, self.down = nn.Linear(3, 4), nn.Parameter(torch.ones(4)), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.atan2(self.up(x), self.scale.exp()))

    group = atograph.trace(Net().eval(), torch.randn(2, 3)).groups.named("up")
    assert group.roles(("scale", 0)) == {"unknown"}
    assert "aten.atan2.default is not known to scale" in str(group.homogeneous.reason)


@pytest.mark.parametrize(("model", "shape"), [(Convolutional, (2, 3, 8, 8)), (Block, (2, 3, 8))])
def test_properties_hold_on_known_networks(model: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = model().double().eval()
    perturb(net)
    inputs = (torch.randn(shape, dtype=torch.float64),)
    graph, claimed = atograph.trace(net, inputs), Counter[str]()
    for group in graph.groups:
        check_claims(graph, group, inputs, random.Random(0), claimed)
    assert claimed["permutable"] >= 2 and claimed["homogeneous"] >= 2 and claimed["additive"] >= 1


def test_each_property_has_its_own_reason() -> None:
    groups = atograph.trace(Convolutional().eval(), torch.randn(2, 3, 8, 8)).groups
    stem, mid, head = (groups.named(name) for name in ("stem", "mid", "head"))
    assert stem.permutable and stem.homogeneous and "relu.default is not linear" in str(stem.additive.reason)
    assert mid.permutable and mid.homogeneous and mid.additive
    assert {str(each.reason).partition(" (")[0] for each in (head.permutable, head.additive, head.homogeneous)} == {
        "model output"
    }
    block = atograph.trace(Block().eval(), torch.randn(2, 3, 8)).groups
    gated = block.named("gate")
    assert gated.permutable and gated.additive
    assert not gated.homogeneous or gated.scaling()[("up.weight", 0)] == 1
    assert block.named("norm").scaling(("q.weight", 1)) == {
        ("norm.weight", 0): -1, ("norm.bias", 0): -1, ("q.weight", 1): 1, ("k.weight", 1): 1, ("v.weight", 1): 1,
    }  # fmt: skip


def test_what_is_not_so_is_refused() -> None:
    graph = atograph.trace(Convolutional().eval(), torch.randn(2, 3, 8, 8))
    head, stem = graph.groups.named("head"), graph.groups.named("stem")
    with pytest.raises(UserError, match="cannot be reordered: model output"):
        atograph.reordered(head, graph.program.state, torch.arange(2))
    with pytest.raises(UserError, match="cannot be scaled: model output"):
        atograph.scaled(head, graph.program.state, torch.ones(2))
    with pytest.raises(UserError, match="holds each of the units 0 to 5 once"):
        atograph.reordered(stem, graph.program.state, torch.zeros(6, dtype=torch.int64))
    with pytest.raises(UserError, match="6 positive finite numbers"):
        atograph.scaled(stem, graph.program.state, -torch.ones(6))


def test_each_tensor_that_changes_has_to() -> None:
    """Without any one of them the outputs are others: what is claimed to hold is seen by the tests above."""
    torch.manual_seed(0)
    net = Convolutional().double().eval()
    perturb(net)
    inputs = (torch.randn(2, 3, 8, 8, dtype=torch.float64),)
    graph = atograph.trace(net, inputs)
    group, state = graph.groups.named("stem"), graph.program.state
    before, factors = run(graph, {}, inputs), torch.linspace(0.5, 2, 6, dtype=torch.float64)
    order = torch.tensor([1, 2, 3, 4, 5, 0])
    for changed in (atograph.reordered(group, state, order), atograph.scaled(group, state, factors)):
        assert len(changed) >= 3 and difference(before, run(graph, changed, inputs)) <= EXACT
        for name in changed:
            rest = {each: value for each, value in changed.items() if each != name}
            assert difference(before, run(graph, rest, inputs)) > 1e-6, name


@pytest.mark.parametrize("part", [slice(None), slice(0, 5)])
def test_units_that_multiply_each_other_in_one_dimension_are_not_scaled(part: slice) -> None:
    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(len(range(36)[part]), 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            u = self.a(x)
            return self.b((u.t() @ u).flatten()[part])

    graph = atograph.trace(Gram().double(), torch.randn(3, 4, dtype=torch.float64))
    made = [group for group in graph.groups if ("a.weight", 0) in group.makers]
    assert made and not any(group.homogeneous for group in made)
