"""What `atograph inspect` says: totals, groups, one group, and why a parameter stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import networkx as nx
import pytest
import torch
from doc_blocks import blocks, commands
from networks import NETWORKS, build
from runs import command
from torch import Tensor, nn

import atograph
from atograph.inspection import Overview, overview
from atograph.inspection.chain import causes
from atograph.inspection.drawing import dot, graphml
from atograph.inspection.formats import plain
from atograph.inspection.model_explorer import graph_json, groups_json
from atograph.inspection.rows import rows
from atograph.inspection.text import causes_text, overview_table
from atograph.passes.errors import UserError
from atograph.passes.plan.names import fold

# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["a"], ["a"]),
        (["blocks.0.attn", "blocks.1.attn", "blocks.2.attn"], ["blocks.0–2.attn"]),
        (["blocks.0.attn", "blocks.2.attn", "blocks.1.mlp"], ["blocks.0,2.attn", "blocks.1.mlp"]),
        (["a.0.b.0", "a.0.b.1", "a.1.b.0", "a.1.b.1"], ["a.0–1.b.0–1"]),
        (["a.0.b.0", "a.0.b.1", "a.1.b.0"], ["a.0.b.0–1", "a.1.b.0"]),
        (["conv1", "conv2"], ["conv1", "conv2"]),
        (["layer1.0.conv1", "layer2.0.conv1"], ["layer1–2.0.conv1"]),
        (["#.0", "#.1", "é {}.3"], ["#.0–1", "é {}.3"]),
        ([], []),
    ],
)
def test_fold(names: list[str], folded: list[str]) -> None:
    assert fold(names) == folded


def test_fold_of_blocks_counts_the_last_number() -> None:
    assert fold(["dense.layer1", "dense.layer2", ""], blocks=True) == ["dense.layer1–2", ""]


# -- figures -----------------------------------------------------------------------------------------------------------


def shown(model: nn.Module, *inputs: Tensor) -> tuple[atograph.Graph, Overview]:
    graph = atograph.trace(model.eval(), inputs)
    return graph, overview(graph)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_hangs_on_a_group_is_gone_without_it(name: str) -> None:
    model, inputs = build(name)
    graph, found = shown(model, inputs)
    for group in found.prunable:
        gone = {group.name: 0}
        flops, params = graph.flops - graph.cost.flops(gone), graph.params - graph.cost.params(gone)
        if graph.groups.why_not_without([group.name]) is None:  # what only fed it, or read it, goes along
            assert group.flops <= flops
            assert group.params <= params
        else:
            assert (group.flops, group.params) == (flops, params)
    root = found.modules[0]
    assert (root.name, root.flops, root.params) == ("", graph.flops, graph.params)


def test_shares_of_frozen_groups_and_modules() -> None:
    _graph, found = shown(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4))
    given, hidden, result = (next(g for g in found.groups if g.units == units) for units in (4, 8, 2))
    assert (given.params, hidden.params, result.params) == (32, 40 + 16, 16 + 2)
    assert (given.flops, hidden.flops, result.flops) == (64, 96, 32)
    assert [(m.name, m.type, m.flops, m.params) for m in found.modules] == [
        ("", "Sequential", 96, 58), ("0", "Linear", 64, 40), ("1", "ReLU", 0, 0), ("2", "Linear", 32, 18),
    ]  # fmt: skip


def test_repeated_blocks_are_one_row() -> None:
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 8)) for _ in range(3)))
    _graph, found = shown(nn.Sequential(nn.Linear(4, 8), blocks, nn.Linear(8, 2)), torch.randn(2, 4))
    by_title = {row.title: row for row in rows(found.groups)}
    (folded,) = (row for row in by_title.values() if len(row.groups) == 3)
    assert folded.made_by == ["1.0–2.0"] and folded.read_by == ["1.0–2.2"] and folded.params == 3 * 85
    assert len(rows(found.groups, folded=False)) == len(found.groups)
    units = [row.groups[0].units for row in rows(found.groups, order="units")]
    assert units == sorted(units, reverse=True)


def test_a_plan_is_shown_and_another_models_refused() -> None:
    graph, _ = shown(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4))
    plan = graph.plan(kept={graph.prunable[0].name: range(3)})
    assert [group.kept for group in overview(graph, plan).groups if group.prunable] == [3]
    assert "kept" in plain(overview_table(overview(graph, plan)))
    other, _ = shown(nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)), torch.randn(2, 4))
    with pytest.raises(UserError, match="another model"):
        overview(other, plan)


# -- why ---------------------------------------------------------------------------------------------------------------


class Case(nn.Module):
    """Two layers of six units, with something planted between them."""

    def __init__(self, planted: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        for name, part in parts.items():
            setattr(self, name, part)
        self.planted = planted

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.planted(self, self.first(x)))


def _same(_module: nn.Module, x: Tensor) -> Tensor:
    return x


def _table(_module: nn.Module, x: Tensor) -> Tensor:
    return x[..., [0, 2, 4]].repeat(1, 2)


def _residual_into_softmax(module: nn.Module, x: Tensor) -> Tensor:
    mixed = torch.relu(module.get_submodule("middle")(x)) + x
    return mixed * torch.softmax(torch.tanh(mixed), -1)


class Tied(nn.Module):
    """One layer twice: what it makes is what it reads, and that is the model's input."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.twice(torch.relu(self.twice(x)))))


PLANTED: dict[str, tuple[Callable[[], nn.Module], str, str, list[str]]] = {
    # what is planted → model; the parameter asked for; the cause; ops on the way, in order
    "output": (lambda: Case(_same), "last.weight[0]", "model output", ["linear"]),
    "input": (lambda: Case(_same), "first.weight[1]", "model input", ["x"]),
    "softmax": (
        lambda: Case(lambda _m, x: x.softmax(-1)), "first.bias", "softmax over this axis", ["linear", "softmax"],
    ),
    "behind a residual": (
        lambda: Case(_residual_into_softmax, middle=nn.Linear(6, 6)), "middle.weight[0]", "softmax over this axis",
        ["linear", "relu", "add", "tanh", "softmax"],
    ),
    "order": (
        lambda: Case(lambda _m, x: x.sort(-1).values), "first.weight[0]", "sort over this axis", ["linear", "sort"],
    ),
    "unsupported form of a norm": (
        lambda: Case(lambda _m, x: x - x.median(-1, keepdim=True).values), "first.weight[0]", "median over this axis",
        ["linear", "median"],
    ),
    "index": (lambda: Case(_table), "first.weight[0]", "chosen by index", ["linear", "index"]),
    "no rule": (
        lambda: Case(lambda _m, x: torch.linalg.qr(x[:, None] * x[..., None]).Q.sum(-1)), "first.weight[0]",
        "no rule for the op aten.linalg_qr.default", ["linear", "unsqueeze", "mul", "linalg_qr"],
    ),
    "tied weights": (Tied, "twice.weight[0]", "model input", ["linear", "relu", "twice.weight", "x"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_why(name: str) -> None:
    make, asked, cause, ops = PLANTED[name]
    graph, found = shown(make(), torch.randn(2, 4))
    (first, *_rest) = causes(graph, asked)
    assert first.group is not None and first.reason is not None and cause in first.reason.text
    assert [link.what for link in first.links][1:] == ops
    text = plain(causes_text(found, causes(graph, asked)))
    assert all(f" {op}" in text for op in ops) and cause in text


def test_why_of_a_wish_of_the_user() -> None:
    graph, _ = shown(Case(lambda _m, x: torch.relu(x)), torch.randn(2, 4))
    steered = graph.steered(freeze=["fir*:out"])
    text = plain(causes_text(overview(steered), causes(steered, "first.weight[0]")))
    assert "because of: frozen by 'fir*:out'" in text and "that keeps whole first, last" in text


def test_why_of_kernel_sizes_modules_and_groups() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    graph, found = shown(net, torch.randn(2, 3, 9, 9))
    text = plain(causes_text(found, causes(graph, "0")))
    assert "0.weight[2], 0.weight[3]: no width, but kernel size" in text and "0.weight[0], 0.bias[0]: can be" in text
    assert "1()[1]: can be pruned, with g0 of 8 units." in plain(causes_text(found, causes(graph, "1")))
    assert [cause.group for cause in causes(graph, "g0")] == [graph.groups["g0"]]


class Several(nn.Module):
    """Ops with several results, along the way and at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.rolled, self.wide, self.last = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.wide(self.rolled(x)[0]).chunk(2, -1)
        return self.last(first * torch.sigmoid(second).sort(-1).values)


def test_ops_with_several_results() -> None:
    graph, found = shown(Several(), torch.randn(2, 5, 4))
    (cause,) = causes(graph, "wide.bias")[:1]
    assert [link.what for link in cause.links][-2:] == ["sigmoid", "sort"] or "sort" in str(cause.links)
    for name in ("rolled", "wide", "last"):
        assert plain(causes_text(found, causes(graph, name)))
    assert json.loads(graph_json(graph, found))["graphs"] and json.loads(groups_json(graph, found))


def test_two_axes_of_one_layer_are_two_rows() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.mixed, self.head = (
                nn.Linear(4, 16),
                nn.MultiheadAttention(16, 4, batch_first=True),
                nn.Linear(16, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(x)
            return self.head(x + self.mixed(x, x, x, need_weights=False)[0])

    _graph, found = shown(Heads(), torch.randn(2, 5, 4))
    assert all(row.params <= found.params for row in rows(found.groups))
    assert sum(row.made_by[:1] == ["mixed.in_proj_weight"] for row in rows(found.groups)) == 2


def test_names_that_stand_for_nothing() -> None:
    graph, _ = shown(Case(lambda _m, x: x), torch.randn(2, 4))
    for asked in ("frist", "first.weight[2]", ""):
        with pytest.raises(UserError, match=r"Perhaps first|there is no first.weight\[2\]|lists them"):
            causes(graph, asked)


# -- forms -------------------------------------------------------------------------------------------------------------

HOSTILE = '<b>"quoted"</b> \\n & [bold] ☃'


def hostile() -> nn.Module:
    inner = nn.Module()
    inner.add_module(HOSTILE, nn.Linear(4, 6))
    inner.forward = lambda x: inner.get_submodule(HOSTILE)(x)  # type: ignore[method-assign]
    return nn.Sequential(inner, nn.ReLU(), nn.Linear(6, 2))


def test_hostile_names_stay_text() -> None:
    _graph, found = shown(hostile(), torch.randn(2, 4))
    assert f"0.{HOSTILE}" in plain(overview_table(found)).replace("\n", "")
    source = dot(found).source
    assert '\\"quoted\\"' in source and "\\\\n" in source
    nodes = nx.parse_graphml(graphml(found)).nodes
    assert f"0.{HOSTILE}.weight" in nodes
    assert Overview.model_validate_json(found.model_dump_json()) == found


def test_networkx() -> None:
    graph, found = shown(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 4))
    made = graph.to_networkx()
    assert made.nodes["g0"] == {
        "kind": "group", "size": 8, "prunable": True, "reason": "", "params": 56, "flops": 96
    }  # fmt: skip
    assert list(made.successors("g0")) == ["2.weight"] and list(made.predecessors("g0")) == ["0.weight", "0.bias"]
    assert made.nodes["0.weight"] == {"kind": "parameter", "shape": "8×4", "module": "0"}
    again = nx.parse_graphml(graphml(found), force_multigraph=True)
    assert dict(again.nodes) == dict(made.nodes) and len(again.edges) == len(made.edges) == 6


def test_model_explorer() -> None:
    graph, found = shown(hostile(), torch.randn(2, 4))
    written = json.loads(graph_json(graph, found))
    (program,) = written["graphs"]
    assert written["label"] == program["id"] == found.name == "Sequential"
    nodes = {node["id"]: node for node in program["nodes"]}
    assert len(nodes) == len(program["nodes"]) == len(graph.program.graph.nodes)
    assert all(edge["sourceNodeId"] in nodes for node in nodes.values() for edge in node["incomingEdges"])
    weight = next(node for node in nodes.values() if node["label"] == "weight" and node["namespace"] == "2")
    assert weight["attrs"][1] == {"key": "dim 1", "value": "g0, 6 units"}
    assert weight["outputsMetadata"][0]["attrs"] == [{"key": "shape", "value": "2×6"}]
    (data,) = json.loads(groups_json(graph, found)).values()
    assert data["results"].keys() <= nodes.keys() and data["results"][weight["id"]]["value"] == 0


def test_notebooks_show_graphs_plans_and_results() -> None:
    graph, _ = shown(hostile(), torch.randn(2, 4))
    for each in (graph, graph.plan(random=0)):
        page = each._repr_html_()
        assert "&lt;b&gt;" in page and "<b>" not in page and page.count("<tr>") > 1
        assert ElementTree.fromstring(f"<div>{page.replace('<br>', '<br/>')}</div>") is not None
    plain_net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    how = {"method": "magnitude", "epochs": 0, "flops": 0.6}
    page = atograph.compress(plain_net, example_inputs=torch.randn(2, 4), **how)._repr_html_()
    assert "masked = slim = ONNX" in page and "FLOPs" in page


NET = """
from torch import nn, randn


def model():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def example_inputs():
    return randn(2, 4)
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


def test_command(spec: Path) -> None:
    code, output = command("inspect", spec)
    assert code == 0 and "net: 58 parameters, 96 FLOPs; 1 of 3 groups can be pruned, with 8 units" in output
    assert "at least 5.0 %" in output
    code, output = command("inspect", spec, "--group", "0")
    assert code == 0 and "g0: 8 units; 96.6 % of the parameters and 100.0 % of the FLOPs hang on it" in output
    code, output = command("inspect", spec, "--why", "2.weight[0]")
    assert code == 0 and "→ linear in 2" in output
    code, output = command("inspect", spec, "--format", "json")
    assert code == 0 and json.loads(output)["groups"][0]["units"] == 8
    out = spec.parent / "made" / "net.dot"
    code, output = command("inspect", spec, "--format", "dot", "--out", out)
    assert code == 0 and out.read_text().startswith("digraph net {") and f"written to {out}" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "xml"], "--format xml: there is no such choice. There are: text, json, dot,"),
        (["--sort", "size"], "--sort size: there is no such choice. There are: model, units, params, flops."),
        (["--group", "1"], "no parameter, module or group is called '1'."),
        (["--why", "headd"], "no parameter, module or group is called 'headd'."),
        (["--why", "0", "--group", "0"], "choose one of --group and --why."),
        (["--why", "0", "--format", "json"], "--group and --why are printed as text"),
        (["--freeze", "conv*"], "no parameter, module or group is called 'conv*'."),
        (["--couple", "0"], "training setting couple: '0' is not of the form A=B."),
        (["--min-units", "0"], "training setting min_units: "),
        (["--plan", "no.json"], "no.json: cannot read the plan: No such file or directory."),
        (["--out", "net.py/x.txt"], "net.py/x.txt: cannot write there: "),
    ],
)
def test_command_refuses(arguments: list[str], message: str, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(spec.parent)
    code, output = command("inspect", "net.py", *arguments)
    assert code == 2 and message in output, output


def test_models_of_other_packages(torchvision: None, tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    pytest.importorskip("timm", reason="timm is not installed")
    code, output = command("inspect", "torchvision:resnet18")
    assert code == 0 and "resnet18: 11.7 M parameters, 3.63 G FLOPs; 12 of 14 groups can be pruned" in output
    code, output = command("inspect", "timm:resnet10t", "--sort", "params")
    assert code == 0 and output.startswith("resnet10t: 5.44 M parameters")
    code, output = command("inspect", "timm:reznet18")
    assert code == 2 and "timm:reznet18: there is no such model. Perhaps resnet18" in output
    (tmp_path / "net.py").write_text(NET)
    code, output = command("inspect", "nopackage:resnet18")
    assert code == 2


@pytest.mark.long
def test_the_walk_through_shows_what_is_printed(
    torchvision: None, transformers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("torchvision", "timm"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    llama = transformers.LlamaConfig(architectures=["LlamaForCausalLM"], num_key_value_heads=8, num_hidden_layers=8)
    llama.save_pretrained("llama")
    found = blocks((Path(__file__).parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8"))
    pairs = [(one, two) for one, two in pairwise(found) if one.language == "sh" and two.follows]
    assert len(pairs) == 8
    for typed, printed in pairs:
        ((arguments, _output),) = commands(typed)
        code, output = command(*arguments)
        assert code == 0 and " ".join(printed.text.split()) in output, typed.text  # behind it, what takes seconds


@pytest.mark.long
def test_a_configuration_of_transformers(transformers: ModuleType, tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(tmp_path / "tiny")
    code, output = command("inspect", f"transformers:{tmp_path / 'tiny'}")
    assert code == 0 and output.startswith("tiny: ") and "model.layers.0–2.mlp.gate_proj" in output
    code, output = command("inspect", f"transformers:{tmp_path / 'nowhere'}")
    assert code == 2 and "there is no such folder or file." in output
    (tmp_path / "empty").mkdir()
    code, output = command("inspect", f"transformers:{tmp_path / 'empty'}")
    assert code == 2 and "transformers cannot read a configuration there: " in output
