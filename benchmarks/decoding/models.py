"""Tiny language models of transformers, each with its cache as state, and their decoding: by torch, and by files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import transformers as hf
from torch import Tensor, nn

import atograph
import benchmarks.models.torchvision_models  # noqa: F401  # first: it makes transformers importable
from atograph.integrations.caching import CachedEncoderDecoder, CachedModel
from atograph.values.eval_mode import eval_mode

VOCABULARY, FRAMES = 96, 24
PROMPTS = (2, 5, 9)
"""Tokens of the three prompts, which go together, padded on the left."""

_TINY: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": VOCABULARY,
}  # fmt: skip
_BOTH_SIDES: dict[str, Any] = {
    "d_model": 32, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


Build = Callable[[int], nn.Module]


def _decoder(kind: str, **more: Any) -> Build:
    def build(layers: int) -> nn.Module:
        config = hf.AutoConfig.for_model(kind, **_TINY, num_hidden_layers=layers, **more)
        model: nn.Module = hf.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        return model

    return build


def _both_sides(kind: Any, config: Any, **more: Any) -> Build:
    return lambda layers: kind(config(**_BOTH_SIDES, encoder_layers=layers, decoder_layers=layers, **more))


def _t5(layers: int) -> nn.Module:
    return hf.T5ForConditionalGeneration(
        hf.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=layers, num_heads=4, vocab_size=VOCABULARY)
    )


MODELS: Mapping[str, Build] = {
    "Llama": _decoder("llama"),
    "Qwen3": _decoder("qwen3"),
    "Gemma": _decoder("gemma"),
    "Gemma 3": _decoder("gemma3_text", sliding_window=6),
    "Mixtral": _decoder("mixtral", num_local_experts=4, num_experts_per_tok=2),
    "GPT-2": _decoder("gpt2", bos_token_id=1, eos_token_id=2),
    "Whisper": _both_sides(
        hf.WhisperForConditionalGeneration, hf.WhisperConfig, num_mel_bins=8, max_source_positions=FRAMES // 2,
        max_target_positions=64,
    ),
    "T5": _t5,
    "BART": _both_sides(hf.BartForConditionalGeneration, hf.BartConfig, max_position_embeddings=64),
}  # fmt: skip
"""Name → what gives the model with random weights, of some number of layers."""

Decoded = tuple[Tensor, Tensor]
"""Tokens [batch, steps], and the logits that each was taken from."""


@dataclass(frozen=True)
class Prompt:
    """What is decoded from.

    Attributes:
        ids: of the decoder, [batch, tokens], padded on the left.
        mask: 0 where there is padding.
        encoder: what an encoder takes; empty where there is none.
    """

    ids: Tensor
    mask: Tensor
    encoder: Mapping[str, Tensor]


def build(name: str, layers: int = 2) -> CachedModel | CachedEncoderDecoder:
    """A model with weights that are no initial ones."""
    torch.manual_seed(0)
    model = MODELS[name](layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    config: Any = model.config
    return (CachedEncoderDecoder if config.is_encoder_decoder else CachedModel)(model).eval()


def prompt_of(model: nn.Module, lengths: tuple[int, ...] = PROMPTS) -> Prompt:
    """Random prompts, padded on the left to the longest; what the encoder takes is padded on the right."""
    batch, longest = len(lengths), max(lengths)
    mask = torch.stack([torch.arange(longest) >= longest - length for length in lengths]).long()
    ids = torch.randint(3, VOCABULARY, (batch, longest)) * mask
    return Prompt(ids, mask, _encoder_inputs(model, [length + 3 for length in lengths]))


def _encoder_inputs(model: nn.Module, lengths: list[int]) -> dict[str, Tensor]:
    inner: Any = model.model
    if not inner.config.is_encoder_decoder:
        return {}
    if inner.main_input_name == "input_features":
        return {"input_features": torch.randn(len(lengths), inner.config.num_mel_bins, FRAMES)}
    mask = torch.stack([torch.arange(max(lengths)) < length for length in lengths]).long()
    return {"input_ids": torch.randint(3, VOCABULARY, mask.shape) * mask, "attention_mask": mask}


def traced(model: CachedModel | CachedEncoderDecoder) -> tuple[atograph.Graph, dict[str, Any]]:
    """The graph with the cache as state and all lengths dynamic, and the inputs that it was traced with."""
    ids, mask = torch.randint(3, VOCABULARY, (2, 3)), torch.ones(2, 8, dtype=torch.long)
    if isinstance(model, CachedModel):
        dynamic: dict[str, Any] = {"input_ids": {1: "sequence"}}
        inputs = {"input_ids": ids, "attention_mask": mask, "past_key_values": model.cache(2, 5)}
    else:
        encoder = _encoder_inputs(model, [7, 7])
        fixed = "input_features" in encoder
        length = FRAMES // 2 if fixed else 7
        past = model.cache(2, 5, length)
        dynamic = {"decoder_input_ids": {1: "decoder_sequence"}}
        if not fixed:
            size = {1: "encoder_sequence"}
            parts = {"encoder": {name: {2: "encoder_sequence"} for name in ("key", "value")}}
            dynamic |= {"input_ids": size, "attention_mask": size, "past_key_values": [parts for _layer in past]}
        inputs = {"decoder_input_ids": ids, "decoder_attention_mask": mask, "past_key_values": past, **encoder}
    return atograph.trace(model, (), inputs, state={"present": "past_key_values"}, dynamic=dynamic), inputs


def by_torch(model: nn.Module, prompt: Prompt, steps: int) -> Decoded:
    """Greedy decoding by a model of transformers, with a cache of its own."""
    inner: Any = model
    prefix = "decoder_" if prompt.encoder else ""
    ids_name, mask_name, positions = (f"{prefix}{name}" for name in ("input_ids", "attention_mask", "position_ids"))
    counted = positions in inspect.signature(model.forward).parameters
    ids, mask, cache = prompt.ids, prompt.mask, None
    tokens, logits = list[Tensor](), list[Tensor]()
    with eval_mode(model), torch.no_grad():
        for _step in range(steps):
            named = {ids_name: ids, mask_name: mask}
            if counted:
                named[positions] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            result = inner(**prompt.encoder, **named, past_key_values=cache, use_cache=True)
            cache, logits = result.past_key_values, [*logits, result.logits[:, -1]]
            ids, mask = logits[-1].argmax(-1, keepdim=True), torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            tokens.append(ids)
    return torch.cat(tokens, 1), torch.stack(logits, 1)


class Files:
    """The files of a slim model: one that reads the prompt and goes on, or one of the encoder and one of the decoder.

    Args:
        slim: of `traced`.
        folder: where they are written.
    """

    def __init__(self, slim: atograph.Slim, folder: Path, encoder: bool) -> None:
        only = {"encoder": ["present.*.encoder.*"], "decoder": ["logits", "present.*.decoder.*"]}
        parts = only if encoder else {"decoder": []}
        self._slim = slim
        self.paths = [slim.to_onnx(folder / f"{part}.onnx", outputs=names) for part, names in parts.items()]
        self._sessions = [onnxruntime.InferenceSession(str(path)) for path in self.paths]

    def decoded(self, empty: Any, prompt: Prompt, steps: int) -> Decoded:
        """Greedy decoding in ONNX Runtime, from an empty cache of the dense model."""
        prefix = "decoder_" if prompt.encoder else ""
        ids, mask = prompt.ids, prompt.mask
        tokens, logits = list[Tensor](), list[Tensor]()
        ids_name, mask_name = f"{prefix}input_ids", f"{prefix}attention_mask"
        inputs = {ids_name: ids, mask_name: mask, "past_key_values": empty, **prompt.encoder}
        state = _named("past_key_values", self._slim.cut_state(**inputs)[1]["past_key_values"])
        encoder = {name: value.numpy() for name, value in prompt.encoder.items()}
        for session in self._sessions[:-1]:
            state |= _past(_run(session, encoder))
        for _step in range(steps):
            named = {**encoder, ids_name: ids.numpy(), mask_name: mask.numpy(), **state}
            results = _run(self._sessions[-1], named)
            logits.append(torch.from_numpy(results.pop("logits"))[:, -1])
            state |= _past(results)
            ids, mask = logits[-1].argmax(-1, keepdim=True), torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            tokens.append(ids)
        return torch.cat(tokens, 1), torch.stack(logits, 1)


def _run(session: Any, named: Mapping[str, Any]) -> dict[str, Any]:
    taken = {each.name: named[each.name] for each in session.get_inputs()}
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, taken), strict=True))


def _past(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("present", "past_key_values", 1): value for name, value in results.items()}


def _named(name: str, value: Any) -> dict[str, Any]:
    """Arrays by the names that files have for what stands in containers."""
    if isinstance(value, Tensor):
        return {name: value.numpy()}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: array for part, each in items for key, array in _named(f"{name}.{part}", each).items()}
