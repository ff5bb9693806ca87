"""A slim module whose code does something else at the slim sizes: its numbers are those of its configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from packages import torchvision, transformers  # noqa: F401  # fixtures

import atograph
from atograph.passes.analysis.attention import attention_parts


@pytest.mark.usefixtures("transformers")
def test_a_llama_with_a_head_of_keys_for_each_of_queries() -> None:
    """It repeats its keys where they are fewer, by code that it does not run any more."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    call = {"input_ids": torch.randint(3, 48, (2, 6)), "use_cache": False}
    graph = atograph.trace(model, (), call).steered(uniform=True)
    heads = next(name for name, part in attention_parts(graph.program, graph.groups).items() if part == "heads")
    slim = atograph.slim(graph, graph.plan(kept={heads: [0]}))
    assert slim.module is not None, slim.why_no_module
    own: Any = slim.module.config
    assert own.num_attention_heads == own.num_key_value_heads == 2
    padding = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        for mask in (dict[str, Any](), {"attention_mask": padding}):
            expected = atograph.mask(model, slim.plan)(**call, **mask).logits
            torch.testing.assert_close(slim.module(**call, **mask).logits, expected)
