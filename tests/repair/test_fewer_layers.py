"""Whole layers of transformers models go: what is saved has fewer layers, and plain transformers loads it."""

from __future__ import annotations

import copy
import pickle
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import atograph
from atograph.passes.errors import UserError
from benchmarks.exact import perturb

IDS = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0))
SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


def traced(model: nn.Module, **inputs: Any) -> atograph.Graph:
    perturb(model)
    return atograph.trace(model.eval(), (), {"use_cache": False, **inputs})


@cache
def decoder(transformers: ModuleType, family: str) -> atograph.Graph:
    """A decoder's graph, which no test changes. Of Gemma 2 every other layer attends to a window only."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES, sliding_window=4)
    return traced(getattr(transformers, f"{family}ForCausalLM")(config), input_ids=IDS)


@cache
def without_the_second(transformers: ModuleType, family: str) -> atograph.Slim:
    return without(decoder(transformers, family), "model.layers.1")


def without(graph: atograph.Graph, *layers: str, flops: float | None = None, **wishes: Any) -> atograph.Slim:
    """The model without some layers; with ``flops`` what is left is cut as well."""
    steered = graph.steered(drop=list(layers), **wishes)
    slim = atograph.slim(steered, steered.plan(flops) if flops else steered.plan(kept={}))
    assert slim.module is not None, slim.why_no_module
    return slim


@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
@pytest.mark.long
def test_a_decoder_without_a_layer(transformers: ModuleType, tmp_path: Path, family: str) -> None:
    slim = without_the_second(transformers, family)
    module = pickle.loads(pickle.dumps(copy.deepcopy(slim.module)))
    module.save_pretrained(tmp_path)
    loaded = type(module).from_pretrained(tmp_path).eval()
    assert loaded.config.num_hidden_layers == len(loaded.model.layers) == 2
    assert module.config.num_hidden_layers == 3, "its own code counts its layers by it"
    types = getattr(module.config, "layer_types", None)
    assert types is None or loaded.config.layer_types == [types[0], types[2]]
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, slim(input_ids=IDS, use_cache=False).logits)
    tokens = module.generate(IDS, max_new_tokens=3, do_sample=False)
    assert torch.equal(loaded.generate(IDS, max_new_tokens=3, do_sample=False), tokens)


def test_what_is_saved_are_the_weights_of_now_or_those_that_are_given(transformers: ModuleType, tmp_path: Path) -> None:
    module = copy.deepcopy(without_the_second(transformers, "Llama").module)
    assert module is not None
    given = {name: torch.full_like(value, 2.0) for name, value in module.state_dict().items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(3.0)
    for state, value in ((None, 3.0), (given, 2.0)):
        module.save_pretrained(tmp_path, state_dict=state)
        loaded = type(module).from_pretrained(tmp_path)
        assert all((parameter == value).all() for parameter in loaded.parameters())


def test_saving_is_as_of_now_and_draws_nothing(transformers: ModuleType, tmp_path: Path) -> None:
    """The configuration that the module has by now, each weight in its own type, and no random number less."""
    module = copy.deepcopy(without_the_second(transformers, "Llama").module)
    assert module is not None
    module.bfloat16()
    module.model.norm.float()
    module.config.pad_token_id = 7
    module.resize_token_embeddings(50)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    module.save_pretrained(tmp_path, True, {name: value.clone() for name, value in module.state_dict().items()})
    assert torch.equal(torch.rand(3), expected)
    loaded = type(module).from_pretrained(tmp_path, dtype="auto")
    assert (loaded.config.pad_token_id, loaded.config.vocab_size, len(loaded.model.layers)) == (7, 50, 2)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved["model.norm.weight"].dtype == torch.float32
    assert saved["model.layers.1.mlp.up_proj.weight"].dtype == torch.bfloat16
    module.model.extra = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"its weights are not those of a model of its configuration: model\.extra"):
        module.save_pretrained(tmp_path)


def test_tied_weights_are_saved_once(transformers: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=True)
    slim = without(traced(transformers.LlamaForCausalLM(config), input_ids=IDS), "model.layers.1")
    module = slim.module
    assert module is not None
    state = {name: value for name, value in module.state_dict().items() if name != "lm_head.weight"}
    module.save_pretrained(tmp_path, state_dict=state)
    loaded = type(module).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, slim(input_ids=IDS, use_cache=False).logits)


def test_widths_are_cut_along(transformers: ModuleType, tmp_path: Path) -> None:
    couple = ["model.layers.0.mlp.gate_proj=model.layers.2.mlp.gate_proj"]
    freeze = ["model.layers.0.self_attn.*", "model.layers.2.self_attn.*", "model.embed_tokens:out"]
    slim = without(decoder(transformers, "Llama"), "model.layers.1", flops=0.6, couple=couple, freeze=freeze)
    assert slim.module is not None
    slim.module.save_pretrained(tmp_path)
    loaded = type(slim.module).from_pretrained(tmp_path).eval()
    assert loaded.config.num_hidden_layers == 2
    assert loaded.config.intermediate_size < 32
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, slim(input_ids=IDS, use_cache=False).logits)


def test_an_encoder_and_a_decoder_each_without_a_layer(transformers: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=60, d_model=32, d_kv=8, d_ff=32, num_layers=3, num_decoder_layers=2, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :3]}
    slim = without(
        traced(transformers.T5ForConditionalGeneration(config), **inputs), "encoder.block.2", "decoder.block.1"
    )
    assert slim.module is not None
    slim.module.save_pretrained(tmp_path)
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert (loaded.config.num_layers, loaded.config.num_decoder_layers) == (2, 1)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, slim(**inputs, use_cache=False).logits)


def test_a_layer_that_computes_something_stays(transformers: ModuleType, tmp_path: Path) -> None:
    slim = without(decoder(transformers, "Llama"), "model.layers.1.mlp")
    assert slim.module is not None
    with pytest.raises(UserError, match="branches are gone with all units of"):
        slim.module.save_pretrained(tmp_path)
