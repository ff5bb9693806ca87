"""Models of transformers made slim: any counts under grouped-query attention, half precision, what is saved."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atograph
from atograph.comparing import relative_difference, tolerance
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
def test_a_module_under_grouped_queries_whatever_counts_come_out(
    transformers: ModuleType, family: str, counts: tuple[int, int]
) -> None:
    """Counts of KV heads and of queries for each; six queries are three for each of two."""
    model = decoder(transformers, family)
    graph = atograph.trace(model, (), inputs())
    plan = kept(graph, {"k_proj:2": counts[0], "q_proj:3": counts[1]})
    slim = atograph.slim(graph, plan)
    assert slim.module is not None, slim.why_no_module
    assert relative_difference(logits(atograph.mask(model, plan)), logits(slim.module)) < 1e-4


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


def copied(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module)


def pickled(module: nn.Module) -> nn.Module:
    loaded: nn.Module = pickle.loads(pickle.dumps(module))
    return loaded


def test_what_a_configuration_says_is_saved_and_loaded(transformers: ModuleType, tmp_path: Path) -> None:
    model = decoder(transformers, "Mistral")
    graph = atograph.trace(model, (), inputs())
    slim = atograph.slim(graph, kept(graph, {"up_proj:64": 40, "q_proj:3": 2}))
    module: Any = slim.module
    assert module.config.num_attention_heads == 4 and module.config.intermediate_size == 40
    assert {part.num_key_value_groups for part in module.modules() if hasattr(part, "num_key_value_groups")} == {2}
    module.save_pretrained(tmp_path)
    again = transformers.MistralForCausalLM.from_pretrained(tmp_path).eval()
    assert relative_difference(logits(module), logits(again)) < 1e-6


PLANS = {
    "layers differ": ({"layers.0.mlp.up_proj:64": 40}, r"model.layers.0.mlp.gate_proj.weight is \[40, 48\] here"),
    "norms": ({"embed_tokens:48": 24}, "as the slim program does it, which none says"),
}


@pytest.mark.parametrize("name", PLANS)
def test_what_no_configuration_says_is_refused(transformers: ModuleType, name: str, tmp_path: Path) -> None:
    counts, why = PLANS[name]
    graph = atograph.trace(decoder(transformers, "Llama"), (), inputs())
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
