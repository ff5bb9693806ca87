"""Channel shuffles: one gather each, exact, and coupled to nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import atograph
from atograph.capture.to_program import capture
from atograph.graph.graph import Graph
from atograph.passes.analysis.slices import Slice
from atograph.passes.ir.exported.from_exported import from_exported
from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule
from atograph.passes.pipeline.pipeline import ANALYSE, Pipeline
from atograph.passes.rewrite.gather_shuffles import GatherShuffles
from atograph.passes.text.printer import format_program
from atograph.proof.flop_count import count_flops
from atograph.slimming.masking import zero_
from benchmarks.exact import compare, compare_plan


def shuffle(x: Tensor, groups: int) -> Tensor:
    """View, transpose, view: as ShuffleNet's authors write it."""
    b, c, *rest = x.shape
    return x.view(b, groups, c // groups, *rest).transpose(1, 2).contiguous().view(b, c, *rest)


class Halves(nn.Module):
    """ShuffleNet V2 in small: of each shuffle one half goes on as it is, the other through a branch."""

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        self.groups = groups
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU())
            for _ in range(2)
        )
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = shuffle(self.stem(x), self.groups)
        for branch in self.branches:
            kept, worked = x.chunk(2, 1)
            x = shuffle(torch.cat([kept, branch(worked)], 1), self.groups)
        return self.head(x)


class Around(nn.Module):
    """conv (3 → 12) → what is tested → conv or linear → 4 outputs."""

    def __init__(
        self, function: Callable[[Around, Tensor], Tensor], last: nn.Module | None = None, width: int = 12
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.function = function
        self.norm, self.layer_norm = nn.BatchNorm2d(12), nn.LayerNorm(12)
        self.depthwise, self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Conv2d(12, 12, 1, groups=2)
        self.second, self.scale = nn.Conv2d(12, 12, 1), nn.Parameter(torch.rand(12) + 0.5)
        self.order = torch.tensor([3, 1, 0, 2, 11, 10, 9, 8, 4, 5, 7, 6])
        self.last = last if last is not None else nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self, self.first(x)))


def tokens(y: Tensor) -> Tensor:
    return y.flatten(2).transpose(1, 2)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "halves": Halves,
    "thirds": lambda: Halves(3),
    "plain": lambda: Around(lambda net, y: shuffle(y, 3).relu()),
    "op": lambda: Around(lambda net, y: F.channel_shuffle(y, 4)),
    "batch norm": lambda: Around(lambda net, y: net.norm(shuffle(y, 4))),
    "depthwise": lambda: Around(lambda net, y: net.depthwise(shuffle(y, 2).relu())),
    "depthwise, grouped": lambda: Around(lambda net, y: net.grouped(net.depthwise(shuffle(y, 3)).relu())),
    "between grouped": lambda: Around(lambda net, y: net.grouped(shuffle(net.grouped(y), 2))),
    "halves, grouped": lambda: Around(lambda net, y: net.grouped(shuffle(shuffle(y, 2)[:, :6].repeat(1, 2, 1, 1), 2))),
    "residual": lambda: Around(lambda net, y: y + shuffle(y, 4), width=16),
    "residual, cut": lambda: Around(lambda net, y: (y + shuffle(y, 4))[:, 3:], nn.Conv2d(13, 4, 1), width=16),
    "twice": lambda: Around(lambda net, y: shuffle(shuffle(y, 2).relu(), 3)),
    "twice in a row": lambda: Around(lambda net, y: shuffle(shuffle(y, 2), 3)),
    "there and back": lambda: Around(lambda net, y: shuffle(shuffle(y, 2).sin(), 6)),
    "sum of branches": lambda: Around(lambda net, y: shuffle(net.second(y), 2) + shuffle(y, 3)),
    "cat of shuffles": lambda: Around(
        lambda net, y: net.norm(torch.cat([shuffle(y, 2)[:, :5], shuffle(y, 3)[:, 5:]], 1))
    ),
    "flatten": lambda: Around(lambda net, y: shuffle(y, 2).flatten(1), nn.Linear(12 * 36, 4)),
    "layer norm": lambda: Around(lambda net, y: net.layer_norm(tokens(shuffle(y, 4))), nn.Linear(12, 4)),
    "last dim": lambda: Around(
        lambda net, y: tokens(y).unflatten(2, (3, 4)).transpose(2, 3).flatten(2) * net.scale, nn.Linear(12, 4)
    ),
    "one unit": lambda: Around(lambda net, y: net.second(y) * shuffle(y, 2)[:, 4:5]),
    "weight": lambda: Around(
        lambda net, y: y * net.scale.view(2, 6).t().reshape(12)[:, None, None],
    ),
    "index_select": lambda: Around(lambda net, y: torch.index_select(y, 1, net.order).relu()),
    "index": lambda: Around(lambda net, y: y[:, [2, 0, 1, 5, 4, 3, 8, 7, 6, -3, -1, -2]].relu()),
    "index, cut": lambda: Around(lambda net, y: net.norm(y[:, net.order])[:, 3:], nn.Conv2d(9, 4, 1)),
}  # fmt: skip


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return NETWORKS[name]().double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("plan", [{"seed": 0}, {"seed": 1, "keep": 0.3}, {"seed": 2, "keep": 0.8}, {"flops": 0.5}])
@pytest.mark.parametrize("name", NETWORKS)
def test_slim_is_exact(name: str, plan: dict[str, float]) -> None:
    model, x = build(name)
    found = compare(model, (x,), **plan)  # type: ignore[arg-type]
    assert found.difference <= 1e-9
    assert found.moved > 1e-3 and found.alive > 1e-6
    assert found.slim.flops == count_flops(found.slim, x[:1]) < found.graph.flops


@pytest.mark.parametrize("name", ["halves", "op", "flatten", "index"])
def test_the_slim_program_is_a_program_like_any_other(name: str, tmp_path: Path) -> None:
    """It can be saved and loaded, traced and slimmed again, and run with ONNX Runtime at any batch size."""
    model, x = build(name)
    graph = atograph.trace(model, x)
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.6))
    wider = torch.cat([x, -x, x.flip(0)])
    expected = slim(wider).detach()

    slim.save(tmp_path)
    loaded = torch.export.load(tmp_path / "slim.pt2").module(check_guards=False)
    torch.testing.assert_close(loaded(wider), expected, rtol=1e-12, atol=1e-12)
    double = slim.double()
    torch.testing.assert_close(double(wider), expected, rtol=1e-12, atol=1e-12)

    again = Graph(Pipeline.parse(ANALYSE).run(from_exported(slim.program)))
    assert len(again.prunable) == len(graph.prunable) and again.flops == slim.flops
    plan = again.plan(random=1, keep=0.5)
    dense = slim.program.module(check_guards=False)
    zero_(dense, plan)
    torch.testing.assert_close(atograph.slim(again, plan)(wider), dense(wider), rtol=1e-10, atol=1e-10)

    single = atograph.trace(model.float(), x.float())
    narrow = atograph.slim(single, single.plan(random=0, keep=0.6))
    session = onnxruntime.InferenceSession(narrow.to_onnx(tmp_path / "slim.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: wider.float().numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected.float(), rtol=1e-4, atol=1e-5)


class Random(nn.Module):
    """Shuffles, orders, cuts, sums and convolutions of all kinds, as a seed says."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        rng = self.rng = random.Random(seed)
        self.width = width = rng.choice([8, 12, 16])
        self.stem, self.steps = nn.Conv2d(3, width, 3, padding=1), rng.choices(list(self.STEPS), k=rng.randint(2, 7))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in self.steps)
        self.halves = nn.ModuleList(nn.Conv2d(width // 2, width // 2, 1) for _ in self.steps)
        self.depthwise = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in self.steps)
        self.grouped = nn.ModuleList(nn.Conv2d(width, width, 1, groups=rng.choice([2, 4])) for _ in self.steps)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in self.steps)
        self.orders = [torch.randperm(width) for _ in self.steps]
        self.factors = [rng.choice([d for d in range(2, width) if width % d == 0]) for _ in self.steps]
        self.flat = rng.random() < 0.3
        self.head = nn.Linear(width * 16, 4) if self.flat else nn.Conv2d(width, 4, 1)

    def half(self, i: int, x: Tensor) -> Tensor:
        kept, worked = x.chunk(2, 1)
        return torch.cat([kept, self.halves[i](worked)], 1)

    def uneven(self, i: int, x: Tensor) -> Tensor:
        return torch.cat([x[:, self.factors[i] + 1 :], x[:, : self.factors[i] + 1].relu()], 1)

    STEPS: ClassVar[dict[str, Callable[[Random, int, Tensor], Tensor]]] = {
        "shuffle": lambda net, i, x: shuffle(x, net.factors[i]),
        "shuffle again": lambda net, i, x: shuffle(x, net.factors[i]).sin(),
        "order": lambda net, i, x: x[:, net.orders[i]],
        "conv": lambda net, i, x: net.convs[i](x).relu(),
        "residual": lambda net, i, x: x + net.convs[i](x).relu(),
        "shuffled residual": lambda net, i, x: x + shuffle(net.convs[i](x), net.factors[i]),
        "own residual": lambda net, i, x: x + shuffle(x, net.factors[i]),
        "half": half,
        "uneven": uneven,
        "depthwise": lambda net, i, x: net.depthwise[i](x),
        "grouped": lambda net, i, x: net.grouped[i](x),
        "norm": lambda net, i, x: net.norms[i](x).relu(),
        "gate": lambda net, i, x: x * torch.sigmoid(net.convs[i](x.mean((2, 3), keepdim=True))),
    }

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i, step in enumerate(self.steps):
            x = self.STEPS[step](self, i, x)
        return self.head(x.flatten(1) if self.flat else x)


@pytest.mark.parametrize("seed", range(24))
def test_random_networks_are_exact(seed: int) -> None:
    model, x = Random(seed).eval(), torch.randn(2, 3, 4, 4)
    found = compare(model, (x,), seed=seed, keep=0.6)
    assert found.difference <= 1e-9
    assert found.slim.flops == count_flops(found.slim, x[:1].double())


# -- the pass ----------------------------------------------------------------------------------------------------------


class Moves(nn.Module):
    """Data movement alone, on a tensor of 12 channels and 4 × 4 pixels."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * 2)


def captured(function: Callable[[Tensor], Tensor]) -> tuple[Program, Tensor]:
    x = torch.randn(3, 12, 4, 4)
    return capture(Moves(function), (x,)), x


def rewritten(program: Program) -> Program:
    made = GatherShuffles()(program).graph_module
    assert isinstance(made, Program)
    return made


def targets_of(program: Program) -> list[str]:
    names = [str(node.target).split(".")[1] for node in program.graph.nodes if "aten." in str(node.target)]
    return [name for name in names if name != "sym_size"]


def windows(x: Tensor) -> Tensor:
    """Swin's window partition and its reverse, with something between them."""
    b, c, h, w = x.shape
    y = x.view(b, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c).cos()
    return y.view(b, 2, 2, h // 2, w // 2, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)


def heads(x: Tensor) -> Tensor:
    """Four heads over four positions: the sizes come back, the indices do not."""
    y = x.flatten(2).transpose(1, 2)[:, :4]
    split = y.reshape(y.shape[0], 4, 4, 3).transpose(1, 2)
    return split.reshape(y.shape[0], 4, 12)


SHUFFLES: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "as written": (lambda x: shuffle(x, 3), ["mul", "index_select"]),
    "by the op": (lambda x: F.channel_shuffle(x, 3), ["mul", "index_select"]),
    "unflatten, movedim, flatten": (
        lambda x: x.unflatten(1, (2, 3, 2)).movedim(3, 1).flatten(1, 3), ["mul", "index_select"]
    ),
    "through other shapes": (
        lambda x: x.permute(0, 2, 3, 1).reshape(-1, 4, 3).mT.reshape(-1, 16, 12).unsqueeze(1).squeeze(1)
        .transpose(1, 2).reshape(-1, 12, 4, 4), ["mul", "index_select"]
    ),
    "two in a row": (lambda x: shuffle(shuffle(x, 3), 2), ["mul", "index_select"]),
    "two dims at once": (
        lambda x: x.view(-1, 3, 4, 4, 2, 2).transpose(1, 2).transpose(4, 5).reshape(-1, 12, 4, 4),
        ["mul", "index_select", "index_select"],
    ),
    "read on the way": (
        lambda x: (y := x.view(-1, 3, 4, 4, 4)).transpose(1, 2).reshape(-1, 12, 4, 4) + y.sum((1, 2)).unsqueeze(1),
        ["mul", "view", "index_select", "sum", "unsqueeze", "add"],
    ),
    "and back": (lambda x: shuffle(shuffle(x, 3), 4), ["mul", "index_select", "index_select"]),
}  # fmt: skip

OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "windows": windows,
    "heads": heads,
    "nothing moves": lambda x: x.view(-1, 3, 4, 4, 4).flatten(1, 2),
    "dims of equal size": lambda x: x.transpose(2, 3).contiguous(),
    "into another dim": lambda x: x.view(-1, 3, 4, 4, 4).transpose(2, 3).reshape(-1, 12, 4, 4),
    "another size": lambda x: x.view(-1, 3, 4, 16).transpose(1, 2).reshape(-1, 6, 2, 16),
    "depth to space": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2),
    "groups of one": lambda x: F.channel_shuffle(x, 12),
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_a_shuffle_becomes_a_gather(name: str) -> None:
    function, wanted = SHUFFLES[name]
    program, x = captured(function)
    before = format_program(program)
    made = rewritten(program)
    assert targets_of(made) == wanted
    assert format_program(program) == before and rewritten(made) is made
    for inputs in (x, torch.randn(5, 12, 4, 4)):
        torch.testing.assert_close(ProgramModule(made)(inputs), Moves(function)(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_shuffle_stays(name: str) -> None:
    program, _x = captured(OTHERS[name])
    assert rewritten(program) is program


def test_an_empty_dim_is_no_shuffle() -> None:
    program, _x = captured(lambda x: shuffle(x[:, :0], 2))
    assert "index_select" not in targets_of(rewritten(program))


def test_a_shuffle_that_is_left_with_no_order_goes() -> None:
    model, x = build("plain")
    graph = atograph.trace(model, x)
    slim = atograph.slim(graph, graph.plan(kept={"g0": [0, 1, 8]}))  # 0 4 8 1 5 9 ...: first 0, then 8, then 1
    assert "index_select" in targets_of(slim.passes_program)
    slim = atograph.slim(graph, graph.plan(kept={"g0": [0, 4, 8]}))
    assert "index_select" not in targets_of(slim.passes_program)
    assert not slim.passes_program.constants()


def test_the_op_that_shuffles_is_exact_without_the_pass() -> None:
    model, x = build("op")
    whole = Pipeline.parse("infer-axes,find-groups,estimate-cost").run(capture(model, (x,)))
    graph = Graph(whole, model)
    assert "channel_shuffle" in targets_of(whole)
    found = compare_plan(graph, graph.plan(random=0), ((x,), {}))
    assert found.difference <= 1e-9 < found.moved and "index_select" in targets_of(found.slim.passes_program)


def test_an_index_that_is_no_constant_freezes() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
            self.register_buffer("order", torch.randperm(8))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).index_select(1, self.order))

    graph = atograph.trace(Table().eval(), torch.randn(2, 3, 4, 4))
    assert not graph.prunable and "chosen by index" in str(graph)


def test_an_index_that_is_no_permutation_freezes() -> None:
    model = Around(lambda net, y: y.index_select(1, torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10])))
    graph = atograph.trace(model.eval(), torch.randn(2, 3, 6, 6))
    assert not graph.prunable and "chosen by index" in str(graph)


def test_the_softmax_over_a_shuffle_freezes_what_was_shuffled() -> None:
    graph = atograph.trace(Around(lambda net, y: shuffle(y, 2).softmax(1)).eval(), torch.randn(2, 3, 6, 6))
    assert not graph.prunable and str(graph.groups["g0"].frozen).startswith("softmax")


def test_a_users_module_shuffles_what_is_left() -> None:
    """Its own views would shuffle the channels that are left in another way."""
    model, x = build("halves")
    found = compare(model, (x,), keep=0.5)
    assert found.slim.module is not None and any("view" in repair for repair in found.slim.repairs)


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_plan_file_carries_scattered_units() -> None:
    model, x = build("halves")
    graph = atograph.trace(model, x)
    plan = graph.plan(random=0)
    scattered = [part for parts in plan.zeroing.values() for part in parts if part.positions is not None]
    assert scattered and {"positions"} <= json.loads(plan.to_json())["zeroing"]["g1"][0].keys()
    again = atograph.Plan.from_json(plan.to_json())
    assert again == plan
    again.check(graph.groups)
    for name, parts in plan.zeroing.items():  # every unit's own slice: what stands at it, at every index
        for part in parts:
            units = part.units.tolist()
            assert {u for u in units if u >= 0} == set(range(graph.groups[name].size))


def test_plans_without_scattered_units_are_as_they_were() -> None:
    part = Slice(parameter="a", dim=0, length=4, size=4, stride=4)
    assert part.model_dump() == {
        "parameter": "a", "dim": 0, "length": 4, "size": 4, "offset": 0, "outer": 1, "stride": 4, "inner": 1,
    }  # fmt: skip
    assert repr(part) == "Slice(parameter='a', dim=0, length=4, size=4, offset=0, outer=1, stride=4, inner=1)"


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ((0, 2), "one position for each unit"),
        ((0, 2, 2), "units overlap"),
        ((0, 2, 4), "outside of the dimension"),
        ((0, 2, -1), "greater than or equal to 0"),
        ((0, 2, 1.0), "valid integer"),
    ],
)
def test_positions_that_are_refused(positions: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Slice(parameter="a", dim=0, length=8, size=3, stride=8, inner=2, positions=positions)


def test_positions_along_a_product() -> None:
    part = Slice(parameter="a", dim=0, length=13, size=2, offset=1, outer=2, stride=6, inner=2, positions=(2, 0))
    assert part.units.tolist() == [-1, 1, 1, -1, -1, 0, 0, 1, 1, -1, -1, 0, 0]
    assert part.mask(torch.tensor([0.0, 1.0])).tolist() == [1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0]


def test_apply_slims_a_checkpoint_of_a_shuffling_model(tmp_path: Path) -> None:
    model, x = build("halves")
    save_file(model.state_dict(), tmp_path / "dense.safetensors")
    graph = atograph.trace(model, x)
    plan = graph.plan(flops=0.5)
    expected = atograph.slim(graph, plan)
    applied = atograph.apply_plan(graph, plan, tmp_path / "dense.safetensors", tmp_path / "slim")
    weights = load_file(tmp_path / "slim" / "model.safetensors")
    assert applied.report.program == "slim.pt2"
    loaded = torch.export.load(tmp_path / "slim" / "slim.pt2")
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected.program.state_dict[name].detach()) if tensor.dim() else True
    assert [n.target for n in loaded.graph.nodes] == [n.target for n in expected.program.graph.nodes]


def test_the_same_groups_without_weights() -> None:
    with torch.device("meta"):
        empty = Halves().eval()
    graph = atograph.trace(empty, torch.randn(2, 3, 6, 6))
    torch.manual_seed(0)
    assert str(graph) == str(atograph.trace(Halves().eval(), torch.randn(2, 3, 6, 6)))
    assert atograph.slim(graph, graph.plan(random=0)).flops < graph.flops


class Worded(nn.Module):
    """A shuffle in some words, between two convolutions."""

    def __init__(self, swap: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.swap = swap
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        b, c, *rest = y.shape
        return self.last(self.swap(y.view(b, 2, 4, *rest)).reshape(b, c, *rest).relu())


@pytest.mark.parametrize(
    "swap",
    [
        lambda y: y.transpose(1, 2), lambda y: y.swapaxes(2, 1), lambda y: y.swapdims(1, -3),
        lambda y: y.movedim(1, 2), lambda y: y.moveaxis(2, 1), lambda y: y.movedim((1, 2), (2, 1)),
        lambda y: torch.moveaxis(y, (2, 1), (1, 2)), lambda y: y.permute(0, 2, 1, 3, 4),
    ],
    ids=["transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "movedims", "moveaxes", "permute"],
)  # fmt: skip
def test_a_shuffle_in_any_words_couples_nothing(swap: Callable[[Tensor], Tensor]) -> None:
    model, x = Worded(swap).double().eval(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert [group.size for group in atograph.trace(model, x).prunable] == [8]
    outcome = compare(model, (x,), seed=0, keep=0.5)
    assert outcome.difference <= 1e-12 and outcome.moved > 1e-3
