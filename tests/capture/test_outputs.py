"""Outputs that the deployment does not read: they freeze nothing, are dead code, and stand in no file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import onnx
import pytest
import torch
from packages import torchvision, transformers  # noqa: F401
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.passes.ir.outputs import outputs_of
from atograph.proof.certificate import exactness
from atograph.spec.example_inputs import Inputs
from atograph.values.difference import relative_difference
from atograph.values.structures import tensors_of
from benchmarks.exact import perturb


@dataclass
class Data:
    """What a model returns."""

    logits: Tensor
    feats: Tensor | None = None
    aux: Tensor | None = None


class Named(NamedTuple):
    """The same as a named tuple."""

    logits: Tensor
    feats: Tensor
    aux: Tensor


class Net(nn.Module):
    """A head, features, an auxiliary head, in any structure."""

    def __init__(self, form: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.form = form
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 24)
        self.head, self.aux = nn.Linear(24, 3), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Any:
        feats = self.a(x).relu()
        return self.form(self.head(self.b(feats).relu()), feats, self.aux(feats))


class Case(NamedTuple):
    """``names``: of all outputs; ``read``: what is chosen; ``kept``: what is in the file then."""

    form: Callable[[Tensor, Tensor, Tensor], Any]
    names: Sequence[str]
    read: Sequence[str | int] | str | int
    kept: Sequence[str]
    left: Callable[[Any], Any]
    """What of the result is None."""


CASES: dict[str, Case] = {
    "a tuple": Case(
        lambda y, f, a: (y, f, a), ["output_0", "output_1", "output_2"], ["0"], ["output_0"], lambda o: [*o[1:]]
    ),
    "the middle of a tuple": Case(
        lambda y, f, a: (f, y, a), ["output_0", "output_1", "output_2"], 1, ["output_1"],
        lambda o: [o[0], o[2]],
    ),
    "a dict in a tuple": Case(
        lambda y, f, a: (y, {"feats": f, "aux": a}),
        ["output_0", "output_1_feats", "output_1_aux"],
        ["output_0"],
        ["output_0"],
        lambda o: [o[1]],
    ),
    "a dict": Case(
        lambda y, f, a: {"logits": y, "feats": f, "aux": a},
        ["logits", "feats", "aux"],
        ["logits"],
        ["logits"],
        lambda o: [o["feats"], o["aux"]],
    ),
    "some of a list": Case(
        lambda y, f, a: {"maps": [f, y], "aux": a},
        ["maps_0", "maps_1", "aux"],
        ["maps.1"],
        ["maps_1"],
        lambda o: [o["maps"][0], o["aux"]],
    ),
    "all that a container holds": Case(
        lambda y, f, a: {"main": {"y": y, "sum": y.sum(1)}, "rest": [f, [a]]},
        ["main_y", "main_sum", "rest_0", "rest_1_0"],
        ["main"],
        ["main_y", "main_sum"],
        lambda o: [o["rest"]],
    ),
    "a glob": Case(
        lambda y, f, a: {"logits_a": y, "logits_b": 2 * y, "feats": f, "aux": a},
        ["logits_a", "logits_b", "feats", "aux"],
        ["logits_?"],
        ["logits_a", "logits_b"],
        lambda o: [o["feats"], o["aux"]],
    ),
    "a dataclass": Case(
        Data, ["logits", "feats", "aux"], ["logits"], ["logits"], lambda o: [o.feats, o.aux]
    ),
    "a named tuple": Case(
        Named, ["logits", "feats", "aux"], ["log*"], ["logits"], lambda o: [o.feats, o.aux]
    ),
    "beside what is no tensor": Case(
        lambda y, f, a: (y, 3, None, f, "a", a),
        ["output_0", "output_3", "output_5"],
        ["0"],
        ["output_0"],
        lambda o: [*o[3:4], o[5]],
    ),
    "a name that an input has": Case(
        lambda y, f, a: {"x": y, "feats": f, "aux": a}, ["x_out", "feats", "aux"], ["x"], ["x_out"],
        lambda o: [o["feats"], o["aux"]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_read_freezes_nothing_and_is_in_no_file(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    model, x = Net(case.form).eval(), torch.randn(3, 6)
    perturb(model)
    whole = atograph.trace(model, x)
    assert [each.name for each in outputs_of(whole.program)] == [*case.names]
    graph = atograph.trace(model, x, outputs=case.read)
    assert {group.size for group in graph.prunable} == {16, 24} and {group.size for group in whole.prunable} == {24}
    assert not any(parameter.startswith("aux") for parameter in graph.program.state)
    assert "Left out of what it returns" in str(graph) and "Left out" not in str(whole)
    slim = atograph.slim(graph, graph.plan(random=0))
    result, full = slim(x), model(x)
    assert type(result) is type(full) and all(each is None for each in case.left(result))
    assert len(tensors_of(result)) == len(case.kept)
    found = exactness(atograph.mask(model, slim.plan), slim, Inputs((x,), {}))
    assert found is not None and found < 1e-9
    module = slim.module
    assert module is not None, slim.why_no_module
    assert module.aux.weight.shape == (2, 8)  # type: ignore[union-attr]
    assert len(tensors_of(module(x))) == len(case.names) and "not compared" in " ".join(slim.repairs)
    file = onnx.load(slim.to_onnx(tmp_path / "slim.onnx", check=False))
    assert [each.name for each in file.graph.output] == [*case.kept]
    assert slim.plan.outputs == tuple(case.kept)


WRONG: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Any], Sequence[str], str]] = {
    "no such name": (lambda y, f, a: {"logits": y, "feats": f}, ["logit"], "no output 'logit'.*returns logits, feats"),
    "one of two": (lambda y, f, a: (y, f), ["0", "2"], "no output '2'.*returns output_0, output_1"),
    "a glob for nothing": (lambda y, f, a: {"logits": y}, ["aux*"], "no output 'aux\\*'"),
    "what is no tensor": (lambda y, f, a: (y, 3), ["1"], "no output '1'"),
    "a lone output": (lambda y, f, a: y, ["0"], "no output '0'.*returns output"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_name_for_nothing_is_told_with_those_that_there_are(name: str) -> None:
    form, read, text = WRONG[name]
    with pytest.raises(UserError, match=text):
        atograph.trace(Net(form), torch.randn(3, 6), outputs=read)


@pytest.mark.parametrize("read", [None, (), "output", ["*"]])
def test_all_of_them_are_no_choice(read: Any) -> None:
    graph = atograph.trace(Net(lambda y, f, a: y), torch.randn(3, 6), outputs=read)
    assert graph.groups.outputs == () == graph.plan(random=0).outputs and not graph.notes


class Looking(Net):
    """Code that only torch.export follows: it decides by the batch, so that the batch is fixed."""

    def forward(self, x: Tensor) -> Any:
        x = torch.cat([x[:1], x[1:]]) if x.shape[0] % 2 else x
        return super().forward(x)


class Two(nn.Module):
    """An input that only an output reads that is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o, self.other = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(6, 16)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.a(x).relu()
        return self.o(h), h + self.other(y)


MODELS: dict[str, tuple[Callable[[], nn.Module], int, Sequence[str]]] = {
    "captured by torch.export": (lambda: Looking(lambda y, f, a: (y, f, a)), 1, ["x"]),
    "an input that nobody reads": (Two, 2, ["x", "y"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_however_it_is_captured(name: str, tmp_path: Path) -> None:
    make, count, inputs = MODELS[name]
    torch.manual_seed(0)
    model, args = make().double().eval(), tuple(torch.randn(3, 6).double() for _ in range(count))
    perturb(model)
    graph = atograph.trace(model, args, outputs=["0"])
    plan = graph.plan(random=0)
    slim = atograph.slim(graph, plan)
    with torch.no_grad():
        expected = atograph.mask(model, plan)(*args)[0]
        assert relative_difference(expected, slim(*args)[0]) < 1e-12
        assert slim.module is not None, slim.why_no_module
        assert relative_difference(expected, slim.module(*args)[0]) < 1e-12
    graph = atograph.trace(model.float(), tuple(each.float() for each in args), outputs=["0"])
    file = onnx.load(atograph.slim(graph, graph.plan(random=0)).to_onnx(tmp_path / "slim.onnx"))
    assert [each.name for each in file.graph.input] == [*inputs]


def test_without_weights_the_groups_are_the_same() -> None:
    with torch.device("meta"):
        model = Net(lambda y, f, a: (y, f, a))
    graph = atograph.trace(model, torch.randn(2, 6), outputs=["0"])
    other = atograph.trace(Net(lambda y, f, a: (y, f, a)), torch.randn(2, 6), outputs=["0"])
    assert str(graph) == str(other)


def test_a_plan_brings_its_outputs() -> None:
    model, x = Net(lambda y, f, a: (y, f, a)).eval(), torch.randn(2, 6)
    graph = atograph.trace(model, x, outputs=["0"])
    plan = atograph.Plan.from_json(graph.plan(random=0).to_json())
    whole = atograph.trace(model, x)
    with pytest.raises(UserError, match="of whose outputs output_0 are read, and here all are"):
        atograph.slim(whole, plan)
    assert str(whole.for_plan(plan)) == str(graph)
    assert atograph.slim(whole.for_plan(plan), plan).flops == atograph.slim(graph, plan).flops
    back = graph.for_plan(whole.plan(random=0))
    assert str(back) == str(whole)
    same = plan.model_copy(update={"outputs": ()})
    assert same.digest != plan.digest


def test_an_attribute_that_changes_is_captured_with_the_same_outputs() -> None:
    class Warm(Net):
        temperature = 1.0

        def forward(self, x: Tensor) -> Any:
            return super().forward(x * self.temperature)

    model, x = Warm(lambda y, f, a: (y, f, a)).eval(), torch.randn(2, 6)
    model.temperature = 1.0
    graph = atograph.trace(model, x, outputs=["0"])
    plan = graph.plan(random=0)
    model.temperature = 2.0
    slim = atograph.slim(graph, plan)
    with torch.no_grad():
        torch.testing.assert_close(slim(x)[0], atograph.mask(model, plan)(x)[0])
    assert slim(x)[1] is None


CONFIGS: dict[str, tuple[Mapping[str, Any], Sequence[str], int, int]] = {
    "one": ({"output_hidden_states": True}, ["logits"], 4, 1),
    "one of many": ({"output_hidden_states": True}, ["logits", "hidden_states_1"], 4, 2),
    "of several kinds": (
        {"output_hidden_states": True, "output_attentions": True, "attn_implementation": "eager"},
        ["logits", "attentions"],
        6,
        3,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_of_transformers(transformers: ModuleType, name: str) -> None:  # noqa: F811
    options, read, every, kept = CONFIGS[name]
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, **options
    )
    model, ids = transformers.BertForSequenceClassification(config).eval(), torch.randint(0, 40, (2, 6))
    perturb(model)
    model, whole = model.double(), copy.deepcopy(model).double()(ids)
    graph = atograph.trace(model, (), {"input_ids": ids}, outputs=read)
    plan = graph.plan(random=0)
    slim = atograph.slim(graph, plan)
    result = slim(input_ids=ids)
    assert type(result) is type(whole) and len(tensors_of(result)) == kept
    assert len(tensors_of(whole)) == every
    assert (result.hidden_states is None) == ("hidden_states_1" not in read)
    with torch.no_grad():
        masked = atograph.mask(model, plan)(input_ids=ids)
        assert relative_difference(masked.logits, result.logits) < 1e-9
        assert slim.module is not None, slim.why_no_module
        assert relative_difference(masked.logits, slim.module(input_ids=ids).logits) < 1e-9


def test_a_cache_that_nobody_reads(transformers: ModuleType) -> None:  # noqa: F811
    """It starts with tensors that hold nothing, and what goes into it is cut in the module as well."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, output_hidden_states=True,
    )  # fmt: skip
    model, ids = transformers.LlamaForCausalLM(config).eval(), torch.randint(0, 40, (2, 6))
    perturb(model)
    whole = atograph.trace(model, (), {"input_ids": ids})
    graph = atograph.trace(model, (), {"input_ids": ids}, outputs=["logits"])
    assert "Left out of what it returns: past_key_values, hidden_states." in str(graph)
    assert sum(group.size for group in graph.prunable) > sum(group.size for group in whole.prunable)
    slim = atograph.slim(graph, graph.plan(random=0))
    assert slim.module is not None, slim.why_no_module
    with torch.no_grad():
        torch.testing.assert_close(slim.module(ids).logits, slim(input_ids=ids).logits)


class Counting(nn.Module):
    """State that a call changes, and that some outputs read."""

    def __init__(self, form: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.form, self.a, self.o = form, nn.Linear(6, 16), nn.Linear(16, 3)
        self.register_buffer("seen", torch.zeros(16))
        self.register_buffer("most", torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        feats = self.a(x).relu()
        self.seen.mul_(0.9).add_(feats.mean(0))
        self.most.copy_(torch.maximum(self.most, self.seen.max()))
        return self.form(self.o(feats), self.seen, self.most)


STATE: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Any], int]] = {
    "nobody reads it": (lambda y, s, m: (y, s * y.sum(), m.clone()), 0),
    "another output reads it": (lambda y, s, m: (y + s.sum(), s * 2.0, m.clone()), 1),
    "by way of other state": (lambda y, s, m: (y + m, s * 2.0, m.clone()), 2),
    "the outputs that are left out do not": (lambda y, s, m: (y, 2 * y, 3 * y), 2),
}


@pytest.mark.parametrize("name", STATE)
def test_state_that_only_others_read_goes_with_them(name: str) -> None:
    form, writes = STATE[name]
    graph = atograph.trace(Counting(form).eval(), torch.randn(2, 6), outputs=[0])
    assert len(graph.program.interface.writes) == writes
    assert bool(graph.prunable) == (writes == 0)
    if graph.prunable:
        slim = atograph.slim(graph, graph.plan(random=0))
        assert slim.module is not None, slim.why_no_module
