"""Language models of transformers with their cache as state: one program for a prompt and for all tokens after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import benchmarks.models.torchvision_models  # noqa: F401  # transformers imports torchvision, which needs it

# isort: split
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import atograph
from atograph.integrations.caching import Cache, CachedModel
from atograph.ort.model import OnnxModel
from atograph.proof.certificate import certify
from atograph.spec.example_inputs import as_inputs
from atograph.values.eval_mode import eval_mode
from benchmarks.decoding.models import Prompt, build, by_torch, prompt_of

TINY = {
    "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 60,
}  # fmt: skip


def decoder(kind: str, **more: Any) -> CachedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TINY, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return CachedModel(model).eval()


def decoded(form: Any, ids: Tensor, mask: Tensor, cache: Cache, count: int = 8) -> Tensor:
    """The most likely tokens, one after the other."""
    tokens = []
    for _ in range(count):
        result = form(input_ids=ids, attention_mask=mask, past_key_values=cache)
        cache, ids = result["present"], result["logits"][:, -1:].argmax(-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        tokens.append(ids)
    return torch.cat(tokens, 1)


@pytest.mark.parametrize(("kind", "whole"), [("llama", True), ("qwen3", False)])
@pytest.mark.long
def test_prompt_and_tokens_are_those_of_the_masked_model_in_one_program(kind: str, whole: bool, tmp_path: Path) -> None:
    """In ONNX Runtime, too, and with the module, where ``whole``."""
    model = decoder(kind)
    inputs = {
        "input_ids": torch.randint(0, 60, (2, 3)), "attention_mask": torch.ones(2, 8, dtype=torch.long),
        "past_key_values": model.cache(2, 5),
    }  # fmt: skip
    graph = atograph.trace(
        model, (), inputs, state={"present": "past_key_values"}, dynamic={"input_ids": {1: "sequence"}}
    )
    slim = atograph.slim(graph, graph.plan(random=0))
    masked, forms = atograph.mask(model, slim.plan), list[Any]([slim])
    if whole:
        forms.append(OnnxModel(slim.to_onnx(tmp_path / "slim.onnx"), slim.program))
        assert slim.module is not None, slim.why_no_module
        forms.append(atograph.load(slim.save(tmp_path / "saved")))
        assert {each.shape[0] for each in forms[1].inputs} == {"batch"}
        assert [each.name for each in forms[1].inputs[2:]] == ["past_key_values.0.key", "past_key_values.0.value"]
    assert [list(each["key"].shape[1::2]) for each in slim.cut_state(**inputs)[1]["past_key_values"]] == [[1, 4]]
    for length in (4, 7):
        ids, mask = torch.randint(0, 60, (2, length)), torch.ones(2, length, dtype=torch.long)
        mask[0, :2] = 0  # the first prompt is shorter
        prompt = {"input_ids": ids, "attention_mask": mask, "past_key_values": model.cache(2)}
        own = slim.cut_state(**prompt)[1]["past_key_values"]
        with eval_mode(masked), torch.no_grad():
            expected = decoded(masked, ids, mask, model.cache(2))
            assert all(torch.equal(expected, decoded(form, ids, mask, own)) for form in forms)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_without_a_past_it_is_trained_like_the_model_that_it_holds(kind: str) -> None:
    """Without a mask, too; `CachedModel.prompt` gives the same with all inputs of the program."""
    model = decoder(kind)
    ids = torch.randint(1, 60, (2, 6))
    expected, found = model.model(input_ids=ids, labels=ids), model(input_ids=ids, labels=ids)
    torch.testing.assert_close(found["loss"], expected.loss)
    torch.testing.assert_close(found["logits"], expected.logits)
    with torch.no_grad():
        torch.testing.assert_close(model(**model.prompt(ids))["logits"], expected.logits)
        following = model(input_ids=ids[:, :1], past_key_values=found["present"])["logits"]
        torch.testing.assert_close(following, model.model(torch.cat([ids, ids[:, :1]], 1)).logits[:, -1:])
    assert "loss" not in model(**model.prompt(ids))


def test_inputs_with_an_empty_cache_prove_a_program_that_was_traced_with_a_full_one() -> None:
    model = decoder("llama")
    graph = atograph.trace(
        model, (), model.example(), state={"present": "past_key_values"}, dynamic={"input_ids": {1: "sequence"}}
    )
    slim = atograph.slim(graph, graph.plan(random=0))
    inputs = as_inputs(model.prompt(torch.randint(1, 60, (2, 6))), where="")
    entries = certify(atograph.mask(model, slim.plan), slim, [], inputs)
    assert len(entries) > 3 and all(each.holds for each in entries)
    with pytest.raises(atograph.UserError, match=r"traced with 4 arguments \(input_ids, attention_mask, past_key_"):
        slim.cut_state(input_ids=torch.ones(2, 6))


@pytest.mark.parametrize("kind", ["gemma3_text", "mistral", "gpt2"])
def test_a_window_and_padding_change_nothing(kind: str) -> None:
    """Greedy tokens after a padded prompt are those of the model with its own cache, whose window goes along."""
    model = decoder(kind, **({} if kind == "gpt2" else {"sliding_window": 4}))
    ids, mask = torch.randint(1, 60, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    with torch.no_grad():
        expected = by_torch(model.model, Prompt(ids, mask, {}), 5)[0]
        alone = by_torch(model.model, Prompt(ids[:1, 3:], mask[:1, 3:], {}), 5)[0]
        tokens = decoded(model, ids, mask, model.cache(2), 5)
    assert torch.equal(tokens, expected) and torch.equal(tokens[:1], alone)


def test_a_layer_that_keeps_something_else_is_refused() -> None:
    config = AutoConfig.for_model("lfm2", **TINY, layer_types=["conv"])
    model = CachedModel(AutoModelForCausalLM.from_config(config))
    with pytest.raises(atograph.UserError, match=r"layer 0 of this Lfm2ForCausalLM keeps more .* LinearAttentionLayer"):
        model.cache(2)


@pytest.mark.parametrize("name", ["T5", "Whisper", "BART"])
def test_an_encoder_decoder_is_the_whole_model_at_first_and_goes_on_alone(name: str) -> None:
    model: Any = build(name)
    prompt = prompt_of(model, (2, 4))
    ids, mask, cache, encoder, tokens = prompt.ids, prompt.mask, model.cache(2), dict(prompt.encoder), []
    with torch.no_grad():
        expected = by_torch(model.model, prompt, 4)[0]
        for _step in range(4):
            result = model(ids, mask, cache, **encoder)
            cache, ids = result["present"], result["logits"][:, -1:].argmax(-1)
            mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
            encoder.pop("input_ids", None), encoder.pop("input_features", None)
            tokens.append(ids)
    assert torch.equal(torch.cat(tokens, 1), expected)
