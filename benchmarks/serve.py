"""From a model of transformers to a folder that it loads again: ``python -m benchmarks.serve [--only GLOB] [--onnx]``.

Tiny models of ten families and more with random weights are pruned with uniform widths to half of their FLOPs, without
training; mixtures lose half of their experts first, and go to 0.7. Each slim module is saved, and loaded by
transformers alone; its logits and its greedy decoding with a cache are held against those of the masked dense model.
With ``--onnx``, the loaded model is written to ONNX with its cache as state, and decodes in ONNX Runtime.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import atograph
from benchmarks.common.by_name import ByName
from benchmarks.models import transformers_models  # noqa: F401  # first: it makes transformers importable

STEPS, LENGTH, VOCABULARY = 16, 8, 96
SHARE, OF_MIXTURES = 0.5, 0.7

_TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_BOTH_SIDES: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 192, "decoder_ffn_dim": 192, "vocab_size": VOCABULARY,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
_MIXTURE: dict[str, Any] = {**_TINY, "intermediate_size": 48, "num_experts_per_tok": 2}
_FRAMES = 24


def _of(kind: str, name: str = "AutoModelForCausalLM", **sizes: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        model: nn.Module = getattr(transformers, name).from_config(transformers.AutoConfig.for_model(kind, **sizes))
        return model

    return build


FAMILIES: Mapping[str, Callable[[], nn.Module]] = {
    "Llama": _of("llama", **_TINY),
    "Mistral": _of("mistral", **_TINY),
    "Qwen2": _of("qwen2", **_TINY),
    "Qwen3": _of("qwen3", **_TINY, head_dim=8),
    "Gemma": _of("gemma", **_TINY, head_dim=8),
    "Gemma 3": _of("gemma3_text", **_TINY, head_dim=8, sliding_window=6),
    "Phi-1.5": _of("phi", **_TINY),
    "Phi-3": _of("phi3", **_TINY),
    "OLMo 2": _of("olmo2", **_TINY),
    "GPT-2": _of("gpt2", vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2),
    "GPT-NeoX": _of("gpt_neox", **_TINY),
    "OPT": _of("opt", **_TINY, ffn_dim=128, word_embed_proj_dim=32),
    "BERT": _of("bert", "AutoModelForMaskedLM", **_TINY),
    "T5": _of("t5", "AutoModelForSeq2SeqLM", d_model=32, d_kv=8, d_ff=128, num_layers=2, num_heads=4,
              vocab_size=VOCABULARY, decoder_start_token_id=0),
    "BART": _of("bart", "AutoModelForSeq2SeqLM", **_BOTH_SIDES, max_position_embeddings=64),
    "Whisper": _of("whisper", "AutoModelForSpeechSeq2Seq", **_BOTH_SIDES, num_mel_bins=8,
                   max_source_positions=_FRAMES // 2, max_target_positions=64),
}  # fmt: skip
"""Name → what gives the model with random weights."""

MIXTURES: Mapping[str, Callable[[], nn.Module]] = {
    "Mixtral": _of("mixtral", **_MIXTURE, num_local_experts=6),
    "Qwen3-MoE": _of("qwen3_moe", **_MIXTURE, num_experts=6, moe_intermediate_size=48, head_dim=8),
    "OLMoE": _of("olmoe", **_MIXTURE, num_experts=6),
    "Llama 4": _of("llama4_text", **_MIXTURE, num_local_experts=6, intermediate_size_mlp=48, head_dim=8,
                   interleave_moe_layer_step=1, attention_chunk_size=32),
    "Jamba": _of("jamba", **_MIXTURE, num_experts=6, expert_layer_period=2, expert_layer_offset=1,
                 attn_layer_period=2, attn_layer_offset=1, mamba_d_state=4, mamba_dt_rank=4,
                 use_mamba_kernels=False),
}  # fmt: skip
"""The same of mixtures of experts."""


@dataclass(frozen=True)
class Row:
    """What was found for a model.

    Attributes:
        model: its name.
        flops: the share of the FLOPs that is left.
        numbers: what the configuration says now.
        seconds: for the wish and the plan, capture aside.
        difference: the largest of the logits of the loaded model, relative to the largest logit.
        equal: tokens that are the masked model's; None where the model generates none.
        tokens: all.
        onnx: tokens in ONNX Runtime that are those of the loaded model; None where that was not asked for.
    """

    model: str
    flops: float
    numbers: str
    seconds: float
    difference: float
    equal: int | None
    tokens: int
    onnx: str

    @property
    def good(self) -> bool:
        """Whether all tokens are equal, and the logits."""
        return self.equal in (None, self.tokens) and self.difference < 1e-4


def measure(name: str, *, onnx: bool = False) -> Row:
    """Prune a model, save it, load it with transformers alone, and compare."""
    torch.manual_seed(0)
    model: Any = {**FAMILIES, **MIXTURES}[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = _inputs(model)
    example = {**inputs, **({"use_cache": False} if model.can_generate() else {})}
    if model.config.is_encoder_decoder:
        example["decoder_input_ids"] = torch.randint(3, VOCABULARY, (2, 4))
    if name in MIXTURES:
        model = atograph.keep_experts(model, 0.5, [example]).module
    graph = atograph.trace(model, (), example)
    started = time.perf_counter()
    plan = graph.plan(OF_MIXTURES if name in MIXTURES else SHARE, uniform=True)
    seconds = time.perf_counter() - started
    slim = atograph.slim(graph, plan)
    module: Any = slim.module
    masked: Any = atograph.mask(model, plan)
    with TemporaryDirectory() as folder, torch.no_grad():
        module.save_pretrained(folder)
        again = type(model).from_pretrained(folder).eval()
        expected, found = masked(**example).logits, again(**example).logits
        equal, tokens = None, 0
        if model.can_generate():
            how: dict[str, Any] = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
            ours, theirs = again.generate(**inputs, **how, use_cache=True), masked.generate(**inputs, **how)
            equal, tokens = int((ours == theirs).sum()), theirs.numel()
        return Row(
            model=name, flops=slim.flops / graph.flops, numbers=_numbers(slim.repairs), seconds=seconds,
            difference=float((expected - found).abs().max() / expected.abs().max()), equal=equal, tokens=tokens,
            onnx=_in_onnx(again, Path(folder)) if onnx and model.can_generate() else "",
        )  # fmt: skip


def _inputs(model: Any) -> dict[str, Tensor]:
    if model.main_input_name == "input_features":
        return {"input_features": torch.randn(2, model.config.num_mel_bins, _FRAMES)}
    ids = torch.randint(3, VOCABULARY, (2, LENGTH))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _numbers(repairs: Sequence[str]) -> str:
    return ", ".join(each.removeprefix("config.") for each in repairs if each.startswith("config."))


def _in_onnx(model: Any, folder: Path) -> str:
    """How many tokens of greedy decoding in ONNX Runtime are those of torch, from the prompt on, with a cache."""
    from atograph.integrations.caching import CachedEncoderDecoder, CachedModel
    from benchmarks.decoding.models import Files, by_torch, prompt_of, traced

    try:
        cached = (CachedEncoderDecoder if model.config.is_encoder_decoder else CachedModel)(model).eval()
        graph, _inputs = traced(cached)
        prompt = prompt_of(cached)
        files = Files(atograph.slim(graph, graph.plan(kept={})), folder, bool(prompt.encoder))
    except atograph.UserError as error:
        print(f"{type(model).__name__}: {error}", file=sys.stderr)
        return "refused"
    tokens, _logits = by_torch(model, prompt, STEPS)
    found, _logits = files.decoded(cached.cache(len(prompt.ids)), prompt, STEPS)
    return f"{int((tokens == found).sum())} of {tokens.numel()}"


def _cells(row: Row) -> list[str]:
    equal = "no decoder" if row.equal is None else f"{row.equal} of {row.tokens}"
    return [
        row.model, f"{row.flops:.3f}", row.numbers, f"{row.seconds:.1f} s", f"{row.difference:.0e}", equal, row.onnx,
    ]  # fmt: skip


COMMAND = ByName[Row](
    "serve", __doc__, "<!-- table: python -m benchmarks.serve -->",
    ["model", "FLOPs kept", "the configuration says", "planned in", "logits differ by", "tokens equal", "in ONNX"],
    _cells, lambda row: row.good,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write what was asked for."""
    parser = COMMAND.parser()
    parser.add_argument("--onnx", action="store_true", help="also decode in ONNX Runtime, with a cache")
    rows = {**FAMILIES, **MIXTURES}
    return COMMAND.run(rows, lambda name, options: measure(name, onnx=options.onnx), parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
