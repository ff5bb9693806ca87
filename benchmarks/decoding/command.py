"""Decoding with a slim cache in ONNX Runtime: ``python -m benchmarks.decoding [--only GLOB] [--markdown FILE]``.

Tiny models of transformers with random weights, of which a random half of every group goes, KV heads and head dims
included. The slim program with its cache as state is written to ONNX: one file for a decoder, which reads the prompt
and goes on; two for an encoder-decoder. Three prompts of different lengths go together, padded on the left. The tokens
of greedy decoding in ONNX Runtime are held against those of the masked model in torch, which has a cache of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import atograph
from benchmarks.common.by_name import ByName

STEPS = 32


@dataclass(frozen=True)
class Row:
    """What was found for a model.

    Attributes:
        model: its name.
        groups: those that the plan cuts, of those that may be cut.
        cache: heads × width of the keys of each layer, dense and slim, where they differ.
        prompts: their lengths.
        equal: tokens that are the masked model's.
        tokens: all.
        difference: the largest of the logits, relative to the largest logit.
        files: their names.
    """

    model: str
    groups: str
    cache: str
    prompts: tuple[int, ...]
    equal: int
    tokens: int
    difference: float
    files: str


def measure(name: str, steps: int = STEPS, layers: int = 2) -> Row:
    """Slim a model, and decode with it.

    Raises:
        AssertionError: nothing of its cache was cut.
    """
    from benchmarks.decoding.models import PROMPTS, Files, build, by_torch, prompt_of, traced

    model = build(name, layers)
    graph, inputs = traced(model)
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    dense, small = (_cache(each["past_key_values"]) for each in (inputs, slim.cut_state(**inputs)[1]))
    assert all(one != other for one, other in zip(dense, small, strict=True)), "the cache was not cut"
    prompt = prompt_of(model)
    masked: Any = atograph.mask(model, slim.plan)
    tokens, logits = by_torch(masked.model, prompt, steps)
    with TemporaryDirectory() as folder:
        files = Files(slim, Path(folder), bool(prompt.encoder))
        slim_tokens, slim_logits = files.decoded(model.cache(len(prompt.ids)), prompt, steps)
        names = ", ".join(path.name for path in files.paths)
    prunable = [group for group in graph.groups if group.frozen is None]
    cut = [group for group in prunable if not slim.plan.mask(group.name).all()]
    return Row(
        model=name, groups=f"{len(cut)} of {len(prunable)}",
        cache=", ".join(dict.fromkeys(f"{one} → {other}" for one, other in zip(dense, small, strict=True))),
        prompts=PROMPTS, equal=int((tokens == slim_tokens).sum()), tokens=tokens.numel(),
        difference=float((logits - slim_logits).abs().max() / logits.abs().max()), files=names,
    )  # fmt: skip


def _cache(value: Any) -> list[str]:
    """Heads × width of each tensor of keys in a cache."""
    if isinstance(value, torch.Tensor):
        return [f"{value.shape[1]}×{value.shape[3]}"]
    items = value.values() if isinstance(value, dict) else value
    return [text for each in items for text in _cache(each)]


def _cells(row: Row) -> list[str]:
    return [
        row.model, row.groups, row.cache, ", ".join(map(str, row.prompts)), f"{row.equal} of {row.tokens}",
        f"{row.difference:.1e}", row.files,
    ]  # fmt: skip


COMMAND = ByName[Row](
    "decoding", __doc__, "<!-- table: python -m benchmarks.decoding -->",
    ["model", "groups cut", "KV heads × width", "prompts", "tokens equal", "logits differ by", "files"],
    _cells, lambda row: row.equal == row.tokens,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write what was asked for."""
    from benchmarks.decoding.models import MODELS

    parser = COMMAND.parser()
    parser.add_argument("--tokens", type=int, default=STEPS, metavar="N", help=f"tokens to decode (default: {STEPS})")
    return COMMAND.run(MODELS, lambda name, options: measure(name, options.tokens), parser, arguments)
