"""Uniform widths of large configurations on the meta device: what they take. ``python -m benchmarks.uniform [NAME]``

Llama 3 8B and Mixtral 8x7B, 32 layers of width 4096 each, without data: the model is traced, uniform widths are wished
for (`Graph.steered`: trials of what the configuration can say), and planned from random scores. It prints seconds of
the processor, which other work on the machine stretches less, and seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

import atograph
from benchmarks.models import transformers_models  # noqa: F401  # first: it makes transformers importable

_WIDTHS: dict[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 8192, "use_cache": False,
}  # fmt: skip
CONFIGURATIONS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {**_WIDTHS, "vocab_size": 128256}),
    "Mixtral": ("mixtral", {**_WIDTHS, "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2}),
}
"""Name → kind and configuration, apart from the number of layers."""


def build(name: str, layers: int) -> nn.Module:
    """The model on the meta device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, sizes = CONFIGURATIONS[name]
    make: Callable[[object], nn.Module] = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        return make(AutoConfig.for_model(kind, **sizes, num_hidden_layers=layers)).eval()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(CONFIGURATIONS), metavar="NAME", help="Llama, Mixtral")
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("model", "step", "processor s", "s", box=box.SIMPLE_HEAD, pad_edge=False)
    said = []
    for name in options.names:

        @contextmanager
        def step(what: str, name: str = name) -> Iterator[None]:
            began, busy = time.monotonic(), time.process_time()
            yield
            table.add_row(name, what, f"{time.process_time() - busy:.1f}", f"{time.monotonic() - began:.1f}")

        model = build(name, options.layers)
        with step("trace"):
            graph = atograph.trace(model, (), {"input_ids": torch.ones(2, 16, dtype=torch.long)}, outputs=["logits"])
        with step("uniform kinds"):
            steered = graph.steered(uniform=True)
        torch.manual_seed(0)
        scores = {group.name: torch.rand(group.size) for group in steered.prunable}
        with step("a plan from scores"):
            plan = steered.plan_from_scores(scores, flops=0.5, round_to=64)
        with step("slim, as a structure"):
            slim = atograph.slim(steered, plan)
        said.append(f"{name}: {len(graph.groups)} groups, {slim.flops / graph.flops:.3f} of the FLOPs")
    console = Console(width=110)
    console.print(*said, sep="\n", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
