"""A Llama-3-70B configuration on the meta device: what analysis and plans take. ``python -m benchmarks.llama_70b``

No weights are needed: the model is made on the meta device, traced, planned and slimmed as a structure. It prints the
time of each step with the peak memory of the process so far, the groups, and what plans save.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

import atograph
from atograph.report import numbers
from benchmarks.models import transformers_models  # noqa: F401  # first: it makes transformers importable


def llama(layers: int) -> nn.Module:
    """The model on the meta device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8192, num_hidden_layers=layers, num_attention_heads=64, num_key_value_heads=8,
        intermediate_size=28672, vocab_size=128256, max_position_embeddings=8192, use_cache=False,
        dtype=torch.bfloat16,
    )  # fmt: skip
    with torch.device("meta"):
        return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def peak_memory() -> int:
    """Bytes that this process had resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--tokens", type=int, default=16, help="length of the example input")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = Table("step", "seconds", "peak memory", box=box.SIMPLE_HEAD, pad_edge=False)

    @contextmanager
    def step(name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        steps.add_row(name, f"{time.monotonic() - started:.2f}", numbers.size(peak_memory()))

    with step("before"):
        pass
    with step("model on the meta device"):
        model = llama(options.layers)
    with step("trace"):
        graph = atograph.trace(model, torch.ones(2, options.tokens, dtype=torch.long))
    with step("a random plan"):
        half = graph.plan(random=0, keep=0.5)
    with step("a plan from scores"):
        scores = {group.name: torch.rand(group.size) for group in graph.prunable}
        scored = graph.plan_from_scores(scores, flops=0.5)
    with step("slim, as a structure"):
        slim = atograph.slim(graph, half)
    assert (slim.flops, slim.params) == (graph.cost.flops(half.counts), graph.cost.params(half.counts))

    plans = Table("plan", "FLOPs kept", "parameters kept", "bfloat16 weights", box=box.SIMPLE_HEAD, pad_edge=False)
    smallest = {group.name: 1 for group in graph.prunable}
    counts = {
        "dense": {}, "random half of every group": half.counts, "0.5 of the FLOPs, random scores": scored.counts,
        "one unit of every group": smallest,
    }  # fmt: skip
    for name, kept in counts.items():
        flops, params = graph.cost.flops(kept), graph.cost.params(kept)
        plans.add_row(
            name, numbers.percent(flops / graph.flops), numbers.percent(params / graph.params), numbers.size(2 * params)
        )
    units = sum(group.size for group in graph.prunable)
    console = Console(width=110)
    console.print(
        f"{len(graph.program.graph.nodes):,} nodes, {len(graph.groups)} groups, {len(graph.prunable)} of them prunable "
        f"with {units:,} units; {numbers.count(graph.flops)}FLOPs for {options.tokens} tokens, "
        f"{numbers.count(graph.params)} parameters",
        highlight=False,
    )
    for group in list(graph.groups)[:9]:
        text = str(group)
        console.print(f"  {text if len(text) < 106 else text[:102] + ' ...'}", markup=False, highlight=False)
    console.print(plans)
    console.print(steps)


if __name__ == "__main__":
    main()
