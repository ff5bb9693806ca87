"""Layers that are to stay, groups that are to go together: the same in the API, the command and what is inspected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import command
from torch import Tensor, nn

import atograph
from atograph.capture.to_program import capture
from atograph.inspection import overview
from atograph.inspection.chain import causes
from atograph.inspection.formats import plain
from atograph.inspection.text import causes_text
from atograph.passes.analysis.couple_groups import read_pairs, write_pairs
from atograph.passes.errors import UserError
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.passes.plan.plan import Plan
from benchmarks.exact import perturb


class Net(nn.Module):
    """Two branches of equal width, and a narrow one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 12)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12)) for _ in range(2))
        self.head = nn.Sequential(nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


@pytest.fixture
def graph() -> atograph.Graph:
    torch.manual_seed(0)
    model = Net().double().eval()
    perturb(model)
    return atograph.trace(model, torch.randn(2, 6).double())


def free(graph: atograph.Graph) -> list[str]:
    """The layers that make the units which may go."""
    return sorted(parameter.removesuffix(".weight") for group in graph.prunable
                  for parameter, dim in group.members
                  if (parameter, dim) not in group.consumers and parameter.endswith("weight"))  # fmt: skip


ALL = ["blocks.0.0", "blocks.0.2", "blocks.1.0", "blocks.1.2", "head.0", "stem"]


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ({}, ALL),
        ({"freeze": ["stem"]}, ["blocks.0.0", "blocks.1.0", "head.0"]),
        ({"freeze": ["stem:in"]}, ALL),
        ({"freeze": ["blocks.0.0:out"]}, [name for name in ALL if name != "blocks.0.0"]),
        ({"freeze": ["blocks.0.2:in"]}, [name for name in ALL if name != "blocks.0.0"]),
        ({"freeze": ["blocks.*.0:out"]}, ["blocks.0.2", "blocks.1.2", "head.0", "stem"]),
        ({"freeze": ["blocks.0"]}, ["blocks.1.0", "head.0"]),
        ({"freeze": ["head.0.bias"]}, [name for name in ALL if name != "head.0"]),
        ({"freeze": ["g0"]}, ["blocks.0.0", "blocks.1.0", "head.0"]),
        ({"only": ["blocks"]}, ["blocks.0.0", "blocks.1.0"]),  # what the stem makes as well is not theirs alone
        ({"only": ["blocks", "stem"]}, [name for name in ALL if name != "head.0"]),
        ({"only": ["g0"]}, ["blocks.0.2", "blocks.1.2", "stem"]),
        ({"only": ["blocks"], "freeze": ["blocks.1"]}, ["blocks.0.0"]),
    ],
)  # fmt: skip
def test_what_stays(how: dict[str, list[str]], left: list[str], graph: atograph.Graph) -> None:
    steered = graph.steered(**how)  # type: ignore[arg-type]
    assert free(steered) == left and free(graph) == ALL
    for group in steered.groups:
        assert group.frozen is None or group.frozen.wish == group.free
    if left:
        plan = steered.plan(random=0)
        assert plan.fingerprint == graph.plan(random=0).fingerprint  # it fits the model without the wishes as well
        plan.check(graph.groups)


def test_reasons_are_told(graph: atograph.Graph) -> None:
    views = {
        group.name: group for group in overview(graph.steered(freeze=["head.0:out"], only=["blocks", "head"])).groups
    }
    texts = {name: view.why.text for name, view in views.items() if view.why is not None and view.why.wish}
    stem, head = graph.groups.named("stem").name, graph.groups.named("head.0").name
    assert texts == {
        stem: "only 'blocks', 'head' may be pruned, and stem.weight makes these units, too",
        head: "frozen by 'head.0:out'",
    }


def test_min_units(graph: atograph.Graph) -> None:
    steered = graph.steered(min_units=5)
    for plan in (steered.plan(flops=0.6), steered.plan(random=1, keep=0.1)):
        assert {name: min(5, size) for name, size in plan.sizes.items()} == {
            name: min(5, len(kept)) for name, kept in plan.kept.items()
        }
    assert min(graph.plan(flops=0.3).counts.values()) < 4
    assert {group.least for group in overview(steered).prunable} == {5}
    small = [group for group in graph.prunable if group.size <= 5]
    assert (
        [str(steered.groups[group.name].frozen) for group in small]
        == [f"at least 5 units are to stay, and it has {group.size}" for group in small]
        != []
    )
    assert {group.name for group in steered.prunable} == {group.name for group in graph.prunable if group.size > 5}
    with pytest.raises(
        UserError, match=r"with at least 5 units of each group kept.*keep fewer \(min_units\), or lower the floor"
    ):
        steered.plan(flops=0.2)
    with pytest.raises(UserError, match="one unit or more"):
        graph.steered(min_units=0)


def test_coupled_groups_keep_the_same_units(graph: atograph.Graph) -> None:
    steered = graph.steered(couple=[("blocks.0.0", "blocks.1.0")])
    assert len(steered.prunable) == len(graph.prunable) - 1
    (both,) = [group for group in steered.prunable if group.size == 8]
    assert {name for name, _dim in both.members} >= {"blocks.0.0.weight", "blocks.1.0.weight"}
    view = next(view for view in overview(steered).groups if view.name == both.name)
    assert view.wished == (graph.groups.named("blocks.1.0").name,)
    told = plain(causes_text(overview(steered), causes(steered, "blocks.0.0.bias")))
    assert f"tied together by your coupling with {view.wished[0]}" in told
    plan = steered.plan(flops=0.5)
    slim = atograph.slim(steered, plan)
    assert slim.module is not None
    for block in (0, 1):
        assert slim.module.get_parameter(f"blocks.{block}.0.weight").shape[0] == len(plan.kept[both.name])
    x = torch.randn(5, 6).double()
    masked = atograph.mask(graph.model, plan)  # type: ignore[arg-type]
    torch.testing.assert_close(slim(x), masked(x), rtol=1e-12, atol=1e-12)
    assert slim.flops == steered.cost.flops(plan.counts) and steered.flops == graph.flops


def test_a_plan_of_coupled_groups_says_so(graph: atograph.Graph) -> None:
    steered = graph.steered(couple=[("blocks.0.0", "blocks.1.0")])
    plan = Plan.from_json(steered.plan(random=0).to_json())
    assert plan.coupled == ((graph.groups.named("blocks.0.0").name, graph.groups.named("blocks.1.0").name),)
    with pytest.raises(UserError, match=r"for groups that are coupled .*graph.for_plan\(plan\)"):
        plan.check(graph.groups)
    plan.check(graph.coupled(plan.coupled).groups)
    with pytest.raises(UserError, match="not coupled"):
        graph.plan(random=0).check(steered.groups)


def test_names_stay_when_groups_are_coupled(graph: atograph.Graph) -> None:
    first, second = (graph.groups.named(f"blocks.{block}.0").name for block in (0, 1))
    steered = graph.steered(couple=[f"{first} = {second}"])
    assert {group.name for group in graph.groups} - {group.name for group in steered.groups} == {second}
    assert steered.groups.named(second) is steered.groups.named(first) is steered.groups.named("blocks.1.0")
    for name in (group.name for group in graph.prunable):
        (frozen,) = [group for group in graph.steered(couple=[(first, second)], freeze=[name]).groups
                     if group.frozen is not None and group.frozen.wish]  # fmt: skip
        assert set(graph.groups[name].members) <= set(frozen.members)
    assert steered.steered(couple=[(second, first)]).groups is not None  # they are one already


def test_a_tied_weight_makes_and_reads() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.up, self.down = nn.Embedding(11, 8), nn.Linear(8, 12), nn.Linear(12, 8)
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            y = self.words(x)
            y = (y + self.down(torch.relu(self.up(y)))) * self.scale
            return y @ self.words.weight.t()

    tied = atograph.trace(Tied().eval(), torch.randint(11, (2, 3)))
    stream = tied.groups.named("down")
    assert {name for name, _dim in stream.makers} == {"words.weight", "down.weight", "down.bias", "scale"}
    assert {name for name, _dim in stream.readers} == {"words.weight", "up.weight"}
    assert free(tied.steered(freeze=["words:out"])) == ["up"] and free(tied.steered(only=["down", "up"])) == ["up"]
    assert "words.weight" in tied.to_networkx().predecessors(stream.name)
    with pytest.raises(UserError, match="freezes nothing: 'scale' reads no units"):
        tied.steered(freeze=["scale:in"])


def test_names_of_modules_with_several_groups(graph: atograph.Graph) -> None:
    with pytest.raises(UserError, match="'blocks' makes the units of several groups: g0, "):
        graph.groups.named("blocks")
    with pytest.raises(UserError, match=r"couple is two groups, or A=B"):
        graph.steered(couple=["stem"])
    assert free(graph.steered(freeze="stem")) == ["blocks.0.0", "blocks.1.0", "head.0"]


class Odd(nn.Module):
    """Layers whose names mean something in a pattern."""

    def __init__(self) -> None:
        super().__init__()
        for name, layer in {"a:in": nn.Linear(4, 8), "b[0]": nn.Linear(8, 6), "c*": nn.Linear(6, 2)}.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.children()
        return last(torch.relu(second(torch.relu(first(x)))))


def test_odd_names() -> None:
    odd = atograph.trace(Odd().eval(), torch.randn(2, 4))
    assert [group.size for group in odd.prunable] == [8, 6]
    for pattern, left in {"a:in": [6], "a:in:out": [6], "b[0]:out": [8], "c*": [8], "b*": []}.items():
        assert [group.size for group in odd.steered(freeze=[pattern]).prunable] == left


def test_a_coupled_plan_of_another_model() -> None:
    one, other = (
        atograph.trace(
            nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, n), nn.ReLU(), nn.Linear(n, 2)), torch.randn(2, 4)
        )
        for n in (6, 7)
    )
    names = [group.name for group in one.prunable]
    plan = one.coupled([(names[0], names[1])]).plan(random=0)
    with pytest.raises(UserError, match="the plan is for another model, for it couples groups, and here"):
        other.for_plan(plan)


def test_couples_of_couples(graph: atograph.Graph) -> None:
    model = nn.Sequential(*(nn.Linear(5, 5) if i % 2 == 0 else nn.ReLU() for i in range(9)))
    chain = atograph.trace(model, torch.randn(2, 5))
    names = [chain.groups.named(str(layer)).name for layer in (0, 2, 4, 6)]
    steered = chain.coupled([(names[0], names[1]), (names[1], names[2]), (names[3], names[0])])
    assert len(steered.prunable) == 1 and len(steered.prunable[0].members) == 4 * 2 + 4


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("stem", "blocks.0.0"), "have 12 and 8 units"),
        (("head.2", "head.0"), "because it stays whole: model output"),
        (("stam", "head.0"), "no parameter, module or group is called 'stam'. Perhaps stem"),
        (("blocks", "head.0"), "'blocks' makes the units of several groups"),
    ],
)
def test_what_cannot_be_coupled(pair: tuple[str, str], message: str, graph: atograph.Graph) -> None:
    with pytest.raises(UserError, match=message):
        graph.steered(couple=[pair])


def test_couples_come_first(graph: atograph.Graph) -> None:
    pair = [(graph.groups.named("blocks.0.0").name, graph.groups.named("blocks.1.0").name)]
    for wished in (graph.steered(freeze=["stem"]), graph.steered(min_units=2), graph.coupled(pair)):
        with pytest.raises(UserError, match=r"coupled first|coupled already .*, and others"):
            wished.coupled([("g0", "g1")])
    assert graph.coupled([]) is graph and graph.coupled(pair).coupled(pair).groups.coupled == tuple(pair)


def test_a_couple_that_multiplies_itself_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(4, 9, 1), nn.ReLU(), nn.Conv2d(9, 18, 3, groups=3), nn.ReLU(), nn.Conv2d(18, 2, 1))
    graph = atograph.trace(model, torch.randn(2, 4, 5, 5))
    groups, inner = (group.name for group in graph.prunable if group.size == 3)  # of one width, 3 × 3
    with pytest.raises(
        UserError, match=r"groups g[0-9] and g[0-9] cannot be coupled: it multiplies itself in one dimension"
    ):
        graph.coupled([(groups, inner)])


def test_the_pass_has_a_text() -> None:
    assert write_pairs(read_pairs("g0+g4;g1+g5")) == "g0+g4;g1+g5"
    text = "infer-axes,find-groups,couple-groups{pairs=g0+g2}"
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    pipeline = Pipeline.parse(text)
    assert str(pipeline) == text
    program = pipeline.run(capture(model, (torch.randn(2, 4),), {}))
    assert [len(group.members) for group in atograph.Graph(Pipeline.parse("estimate-cost").run(program)).prunable] == [
        6
    ]
    with pytest.raises(UserError, match="names no pairs"):
        Pipeline.parse("infer-axes,find-groups,couple-groups{pairs=g0}").run(program)


SPEC = """
from torch import nn, randn


def model():
    hidden = (nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), *hidden, nn.Linear(16, 2))


def example_inputs():
    return randn(2, 4)
"""


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(SPEC)
    pruning = ["--flops", "0.5", "--method", "magnitude", "--epochs", "0", "-q", "--out", "run"]
    code, output = command("compress", "net.py", *pruning, "--couple", "0=4", "--freeze", "2:out", "--min-units", "3")
    assert code == 0, output
    plan = Plan.from_json((tmp_path / "run" / "plan.json").read_text())
    assert len(plan.kept) == 1 and len(plan.coupled) == 1 and 3 <= len(next(iter(plan.kept.values()))) < 16
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert {entry["reason"] for entry in report["frozen"]} == {"model input", "model output", "frozen by '2:out'"}
    for again in (
        ["verify", "run", "--trust-spec"],
        ["export", "run", "--out", "again.onnx"],
        ["inspect", "net.py", "--plan", "run/plan.json"],
    ):
        code, output = command(*again)
        assert code == 0, output
    from safetensors.torch import save_file

    from atograph.spec.spec import load_spec

    save_file(load_spec("net.py").model().state_dict(), "dense.safetensors")
    code, output = command("apply", "run/plan.json", "net.py", "--weights", "dense.safetensors", "--out", "applied")
    assert code == 0, output
