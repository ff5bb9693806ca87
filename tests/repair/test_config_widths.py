"""What a configuration has numbers for: found by trying before anything is trained, and enough for the slim model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_repair_config
import torch
from packages import torchvision, transformers  # noqa: F401  # fixtures
from test_repair_config import Config, Model
from torch import Tensor, nn

import atograph
from atograph.passes.analysis.groups import Groups
from atograph.passes.errors import UserError
from atograph.repair.config import left_to_code
from atograph.repair.fewer_layers import fewer_of_each
from benchmarks.exact import perturb


def traced(model: nn.Module, *inputs: Tensor, **named: Any) -> atograph.Graph:
    torch.manual_seed(0)
    perturb(model.eval())
    return atograph.trace(model, inputs, named)


def kinds(groups: Groups) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The module that makes each first group of a kind → sizes of all of the kind."""
    return {
        tuple(sorted({name.rpartition(".")[0] for name, _dim in groups[kind.groups[0]].makers})): tuple(
            groups[name].size for name in kind.groups
        )
        for kind in groups.kinds
    }


def why(graph: atograph.Graph) -> set[str]:
    return {group.frozen.text for group in graph.groups if group.frozen is not None and group.frozen.wish}


class Blocks(nn.Module):
    """Two stacks whose inner widths are one number, norms that count a third one, and one that nothing says."""

    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.stem, self.head = nn.Linear(5, config.width), nn.Linear(config.width, 3)
        self.one = nn.ModuleList(self.block(config.inner) for _ in range(config.layers))
        self.two = nn.ModuleList(self.block(config.inner) for _ in range(config.layers))
        self.extra = self.block(2 * config.width - 2)
        self.norm = nn.LayerNorm(config.width)

    def block(self, inner: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(self.stem.out_features, inner), nn.ReLU(), nn.Linear(inner, self.stem.out_features)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in (*self.one, *self.two, self.extra):
            x = x + block(x)
        return self.head(self.norm(x))


def test_one_number_of_several_kinds_norms_and_what_nothing_says() -> None:
    graph = traced(Blocks(Config()), torch.randn(2, 5)).steered(uniform=True)
    assert kinds(graph.groups) == {("one.0.0",): (16,) * 4}
    texts = sorted(why(graph))
    assert len(texts) == 2
    assert texts[0] == "uniform widths: layer_norm in norm counts these, so a model made with fewer is another one"
    assert texts[1] == "uniform widths: no number of Config says how many these are"
    with pytest.raises(UserError, match=r"groups whole that could be pruned without uniform widths \(uniform") as error:
        graph.plan(0.01)
    assert error.value.hint is not None and "do without uniform widths" in error.value.hint
    assert "freeze less" not in error.value.hint
    slim = atograph.slim(graph, graph.plan(0.7))
    assert [repair.partition(" →")[0] for repair in slim.repairs] == ["config.inner: 16"]


def test_heads_and_not_their_width() -> None:
    """A configuration says half as many heads, and not heads half as wide: the scale would be another."""
    graph = traced(Model(Config()), torch.randn(2, 6, 5)).steered(uniform=True)
    sizes = sorted(each[0] for each in kinds(graph.groups).values())
    assert sizes == [4, 8, 16]  # heads, the width, which no norm counts here, and the inner width
    assert why(graph) == {"uniform widths: heads stay as wide as they are"}
    plan = graph.plan(0.4)
    slim = atograph.slim(graph, plan)
    assert slim.module is not None
    again = Model(slim.module.config)  # type: ignore[arg-type]
    again.load_state_dict(slim.module.state_dict())
    x = torch.randn(3, 6, 5)
    torch.testing.assert_close(again.eval()(x), slim(x))


def test_a_layer_that_stays_keeps_its_kind() -> None:
    graph = traced(Blocks(Config()), torch.randn(2, 5)).steered(uniform=True, freeze=["one.0.0:out"])
    assert kinds(graph.groups) == {}
    with pytest.raises(atograph.UserError, match="which is alike, stays whole"):
        graph.plan(0.9)


def test_numbers_that_are_left_to_the_code() -> None:
    class Lazy(Blocks):
        def __init__(self, config: Config) -> None:
            inner = config.inner
            config.inner = inner or 3 * config.width  # type: ignore[assignment]
            super().__init__(config)
            config.inner = inner

    config = Config()
    config.inner, config.other = None, None  # type: ignore[assignment, attr-defined]
    assert left_to_code(Lazy, config) == {"inner": 24}
    graph = traced(Lazy(config), torch.randn(2, 5)).steered(uniform=True)
    slim = atograph.slim(graph, graph.plan(0.7))
    assert [repair.partition(" →")[0] for repair in slim.repairs] == ["config.inner: None"]


def test_few_layers_show_what_a_layer_is() -> None:
    model = Blocks(Config(layers=7))
    short = fewer_of_each(model)
    assert (short.layers, model.config.layers) == (2, 7)
    assert test_repair_config.Config().layers == 2


TINY: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", ["llama", "phi"])
@pytest.mark.usefixtures("transformers")
def test_transformers_loads_it_and_generates_the_same_tokens(name: str, tmp_path: Path) -> None:
    import transformers as library

    config = library.AutoConfig.for_model(name, **TINY)
    model = library.AutoModelForCausalLM.from_config(config)
    ids = torch.randint(3, 64, (2, 6))
    graph = traced(model, input_ids=ids, use_cache=False)
    plan = graph.plan(0.5, uniform=True)
    module: Any = atograph.slim(graph, plan).module
    module.save_pretrained(tmp_path)
    again = library.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    masked: Any = atograph.mask(model, plan)
    how = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(again.generate(ids, use_cache=True, **how), masked.generate(ids, **how))
    assert again.config.intermediate_size < 96


@pytest.mark.usefixtures("transformers")
def test_heads_are_as_many_as_the_configuration_takes() -> None:
    """Llama's heads have to divide its width: of eight heads of keys with three queries each, not five."""
    import transformers as library

    config = library.LlamaConfig(**{**TINY, "hidden_size": 96, "num_attention_heads": 24, "num_key_value_heads": 8,
                                    "head_dim": 4})  # fmt: skip
    graph = traced(library.LlamaForCausalLM(config), input_ids=torch.ones(2, 4, dtype=torch.long), use_cache=False)
    counts = {graph.groups[kind.groups[0]].size: kind.counts for kind in graph.steered(uniform=True).groups.kinds}
    assert counts == {8: (1, 2, 4), 3: (), 96: ()}


@pytest.mark.long
@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize("uniform", [True, False])
def test_a_checkpoint_that_is_cut_loads_with_transformers(uniform: bool, tmp_path: Path) -> None:
    import transformers as library

    torch.manual_seed(0)
    model = library.LlamaForCausalLM(library.LlamaConfig(**TINY)).eval()
    perturb(model)
    model.float().save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "tokenizer.json").write_text("{}")
    with atograph.without_weights():
        empty = library.LlamaForCausalLM(library.LlamaConfig(**TINY)).eval()
    ids = torch.randint(3, 64, (2, 6))
    graph = atograph.trace(empty, (), {"input_ids": ids, "use_cache": False})
    steered = graph.steered(uniform=True) if uniform else graph
    plan = steered.plan(random=0, keep=0.5)
    applied = atograph.apply_plan(graph, plan, tmp_path / "dense", tmp_path / "slim")
    assert (tmp_path / "slim" / "config.json").exists() == uniform
    if not uniform:
        assert applied.why_no_config == "heads are less wide, and attention keeps its scale"
        return
    assert {"generation_config.json", "tokenizer.json"} <= {path.name for path in (tmp_path / "slim").iterdir()}
    again = library.LlamaForCausalLM.from_pretrained(tmp_path / "slim").eval()
    masked: Any = atograph.mask(model, plan)
    how = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(again.generate(ids, use_cache=True, **how), masked.generate(ids, **how))
