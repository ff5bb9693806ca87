"""Models of transformers made slim: any counts under grouped-query attention, half precision, what is saved."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.values.difference import relative_difference, tolerance
from benchmarks.exact import perturb

IDS = torch.randint(1, 100, (2, 9), generator=torch.Generator().manual_seed(0))
DECODER = {
    "vocab_size": 100, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip


def decoder(transformers: ModuleType, family: str, **sizes: int) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**(DECODER | sizes))
    model: nn.Module = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    perturb(model)
    return model


@cache
def traced(transformers: ModuleType, family: str) -> tuple[nn.Module, atograph.Graph]:
    """A decoder and its graph, which no test changes."""
    model = decoder(transformers, family)
    return model, atograph.trace(model, (), inputs())


def inputs(**more: Any) -> dict[str, Any]:
    return {"input_ids": IDS, "use_cache": False, **more}


def logits(model: Callable[..., Any], **more: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs(**more)).logits
    return found


def kept(graph: atograph.Graph, counts: dict[str, int]) -> atograph.Plan:
    """Units of the groups that a module makes the units of: of ``q_proj`` those of size 2 are KV heads."""
    chosen = {}
    for group in graph.prunable:
        for key, count in counts.items():
            name, _, size = key.rpartition(":")
            if group.size == int(size) and any(f".{name}." in member for member, _dim in group.members):
                chosen[group.name] = range(count)
    assert chosen
    return graph.plan(kept=chosen)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Mistral"])
@pytest.mark.parametrize("counts", [(1, 3), (2, 1), (1, 1), (2, 2), (1, 2)], ids=str)
@pytest.mark.long
def test_a_module_under_grouped_queries_whatever_counts_come_out(
    transformers: ModuleType, family: str, counts: tuple[int, int]
) -> None:
    """Counts of KV heads and of queries for each; six queries are three for each of two."""
    model, graph = traced(transformers, family)
    plan = kept(graph, {"k_proj:2": counts[0], "q_proj:3": counts[1]})
    slim = atograph.slim(graph, plan)
    assert slim.module is not None, slim.why_no_module
    assert relative_difference(logits(atograph.mask(model, plan)), logits(slim.module)) < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("family", ["Llama", "Gemma"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(transformers: ModuleType, family: str, dtype: torch.dtype) -> None:
    model = decoder(transformers, family).to(dtype)
    graph = atograph.trace(model, (), inputs(attention_mask=torch.ones_like(IDS)))
    for plan in (graph.plan(random=0, keep=0.5), graph.plan(flops=0.5)):
        slim = atograph.slim(graph, plan)
        assert slim.module is not None, slim.why_no_module
        expected, found = logits(atograph.mask(model, plan)), logits(slim.module)
        assert found.dtype == dtype and relative_difference(expected, found) < tolerance([expected])


def test_slim_code_that_goes_another_way_than_dense_code(transformers: ModuleType) -> None:
    """Keys and values of unlike widths are not attended to in groups, but repeated."""
    sections = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    config = transformers.models.qwen2_vl.configuration_qwen2_vl.Qwen2VLTextConfig(**DECODER, rope_parameters=sections)
    torch.manual_seed(0)
    model = transformers.Qwen2VLTextModel(config).eval()
    perturb(model)
    graph = atograph.trace(model, (), inputs())
    plan = graph.plan(random=0, keep=0.5)
    slim = atograph.slim(graph, plan)
    assert slim.module is not None, slim.why_no_module
    with torch.no_grad():
        expected, found = (each(**inputs()).last_hidden_state for each in (atograph.mask(model, plan), slim.module))
    assert relative_difference(expected, found) < 1e-4


def copied(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module)


def pickled(module: nn.Module) -> nn.Module:
    loaded: nn.Module = pickle.loads(pickle.dumps(module))
    return loaded


def test_what_a_configuration_says_is_saved_and_loaded(transformers: ModuleType, tmp_path: Path) -> None:
    _model, graph = traced(transformers, "Mistral")
    slim = atograph.slim(graph, kept(graph, {"up_proj:64": 40, "q_proj:3": 2}))
    module: Any = slim.module
    assert module.config.num_attention_heads == 4 and module.config.intermediate_size == 40
    assert {part.num_key_value_groups for part in module.modules() if hasattr(part, "num_key_value_groups")} == {2}
    module.save_pretrained(tmp_path)
    again = transformers.MistralForCausalLM.from_pretrained(tmp_path).eval()
    assert relative_difference(logits(module), logits(again)) < 1e-6


PLANS = {
    "layers differ": ({"layers.0.mlp.up_proj:64": 40}, r"model.layers.0.mlp.gate_proj.weight is \[40, 48\] here"),
    "norms": ({"embed_tokens:48": 24}, "as the slim program does it, which no configuration can say"),
}


@pytest.mark.parametrize("name", PLANS)
def test_what_no_configuration_says_is_refused(transformers: ModuleType, name: str, tmp_path: Path) -> None:
    counts, why = PLANS[name]
    _model, graph = traced(transformers, "Llama")
    module: Any = atograph.slim(graph, kept(graph, counts)).module
    trainer = transformers.Trainer(
        pickled(module), transformers.TrainingArguments(tmp_path / "out", report_to=[], use_cpu=True)
    )
    for save in (
        module.save_pretrained,
        copied(module).save_pretrained,  # type: ignore[operator]
        pickled(module).save_pretrained,  # type: ignore[operator]
        module.model.save_pretrained,
        module.push_to_hub,
        trainer.save_model,
    ):
        with pytest.raises(atograph.UserError, match=why):
            save(str(tmp_path / "saved"))
    assert not list((tmp_path / "saved").glob("*.safetensors"))


def decoded(model: Any, **more: Any) -> Tensor:
    """Logits of the last token, with a cache of the others."""
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    with torch.no_grad():
        first = model(input_ids=IDS[:, :-1], attention_mask=mask[:, :-1], use_cache=True)
        last: Tensor = model(input_ids=IDS[:, -1:], attention_mask=mask, past_key_values=first.past_key_values).logits
    return last


def padded(model: Any) -> Tensor:
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    return logits(model, attention_mask=mask)[mask.bool()]


def eager(model: Any) -> Tensor:
    model.set_attn_implementation("eager")
    return padded(model)


def shorter(model: Any) -> Tensor:
    return logits(model, input_ids=IDS[:, :4])


@pytest.mark.long
@pytest.mark.parametrize("family", ["Llama", "Phi3", "Gemma2"])
def test_a_module_runs_on_every_path_of_its_code(transformers: ModuleType, family: str) -> None:
    model, graph = traced(transformers, family)
    plan = graph.plan(random=0, keep=0.5)
    module = atograph.slim(graph, plan).module
    assert module is not None
    for path in (logits, padded, decoded, shorter, eager, decoded):
        assert relative_difference(path(atograph.mask(model, plan)), path(copied(module))) < 1e-4


class Config:
    def __init__(self) -> None:
        self._attn_implementation_internal = "sdpa"


class Attention(nn.Module):
    """Reads widths on two paths, by code of its own for each."""

    def __init__(self, insists: bool) -> None:
        super().__init__()
        self.heads, self.per, self.insists = 4, 6, insists
        self.config = Config()
        self.words, self.out = nn.Embedding(20, 24), nn.Linear(24, 7)
        self.qkv, self.back = nn.Linear(24, 72), nn.Linear(24, 24)

    def set_attn_implementation(self, name: str) -> None:
        self.config._attn_implementation_internal = name

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        b, t, _ = x.shape
        if self.config._attn_implementation_internal == "sdpa":
            q, k, v = self.qkv(x).unflatten(-1, (3, 4, 6)).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            q, k, v = self.qkv(x).view(b, t, 3, self.heads, self.per).permute(2, 0, 3, 1, 4)
            assert not self.insists or x.shape[-1] == 24
            y = (q @ k.transpose(-2, -1) * 6**-0.5).softmax(-1) @ v
        return self.out(self.back(y.transpose(1, 2).flatten(2)))


def test_a_width_that_only_another_path_reads_is_set() -> None:
    torch.manual_seed(0)
    model = Attention(insists=False).eval()
    perturb(model)
    graph = atograph.trace(model, IDS % 20)
    plan = graph.plan(random=0, keep=0.5)
    slim = atograph.slim(graph, plan)
    module: Any = slim.module
    assert module is not None and "heads: 4 → 2" in slim.repairs and "per: 6 → 3" in slim.repairs
    masked = atograph.mask(model, plan)
    for name in ("sdpa", "eager", "sdpa"):
        module.set_attn_implementation(name)
        masked.set_attn_implementation(name)
        with torch.no_grad():
            assert relative_difference(masked(IDS % 20), module(IDS % 20)) < 1e-4


def test_a_path_that_cannot_be_repaired_is_told() -> None:
    torch.manual_seed(0)
    model = Attention(insists=True).eval()
    perturb(model)
    graph = atograph.trace(model, IDS % 20)
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    assert slim.module is None and slim.why_no_module.startswith("with eager attention, ")
