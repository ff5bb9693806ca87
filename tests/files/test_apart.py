"""Checkpoints that hold each expert of a mixture under a name of its own, as the hub has them, cut to a plan."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import atograph
from atograph.files.apart import put_together
from atograph.files.checkpoint import Checkpoint, Reader
from benchmarks.exact import perturb

CALL: dict[str, Any] = {"input_ids": torch.arange(3, 19).reshape(2, 8), "use_cache": False}
SIZES: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "num_experts_per_tok": 2,
}  # fmt: skip


def mixture(transformers: ModuleType, family: str) -> Any:
    torch.manual_seed(0)
    if family == "Mixtral":
        model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZES, num_local_experts=4))
    else:
        config = transformers.Qwen3MoeConfig(**SIZES, num_experts=4, moe_intermediate_size=24, head_dim=8)
        model = transformers.Qwen3MoeForCausalLM(config)
    perturb(model)
    return model.eval()


@pytest.mark.parametrize("family", ["Mixtral", "Qwen3-MoE"])
def test_experts_are_put_together_from_shards(transformers: ModuleType, family: str, tmp_path: Path) -> None:
    model = mixture(transformers, family)
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    checkpoint = Checkpoint.open(tmp_path)
    assert len(checkpoint.files) > 3 and any("experts.3." in name for name in checkpoint.tensors)
    nbytes = checkpoint.nbytes
    put_together(checkpoint, model)
    own = model.state_dict()
    assert checkpoint.tensors.keys() == own.keys() and checkpoint.nbytes == nbytes
    with Reader() as reader:
        for name, stored in checkpoint.tensors.items():
            assert stored.shape == own[name].shape
            assert torch.equal(reader.rows(stored, 0, stored.shape[0]).view(stored.dtype), own[name]), name
            part = reader.rows(stored, 1, stored.shape[0] - 1).view(stored.dtype)
            assert torch.equal(part, own[name][1 : stored.shape[0] - 1]), name


def test_experts_that_are_not_all_there_stay_apart_and_are_refused(transformers: ModuleType, tmp_path: Path) -> None:
    model = mixture(transformers, "Mixtral")
    model.save_pretrained(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    name = next(name for name in checkpoint.tensors if "experts.1.w2" in name)
    del checkpoint.tensors[name]
    put_together(checkpoint, model)
    missing = model.state_dict().keys() - checkpoint.tensors.keys()
    assert missing == {"model.layers.0.mlp.experts.down_proj"}
    assert "model.layers.0.block_sparse_moe.experts.0.w2.weight" in checkpoint.tensors


@pytest.mark.parametrize(("experts", "share"), [(None, 0.7), (0.5, None), (0.5, 0.8)])
def test_a_plan_is_applied_to_it(
    transformers: ModuleType, experts: float | None, share: float | None, tmp_path: Path
) -> None:
    """Widths, experts, and both; plain transformers loads what is written."""
    dense = mixture(transformers, "Mixtral")
    dense.save_pretrained(tmp_path / "dense", max_shard_size="8KB")
    left: Any = dense if experts is None else atograph.keep_experts(dense, experts).module
    graph = atograph.trace(left, (), CALL, outputs=["logits"]).steered(uniform=True)
    plan = graph.plan(kept={}) if share is None else graph.plan(share, round_to=8)
    with atograph.without_weights():
        empty = type(dense)(dense.config)
    graph = atograph.trace(atograph.as_declared(empty, plan), (), CALL, outputs=["logits"])
    applied = atograph.apply_plan(graph.for_plan(plan), plan, tmp_path / "dense", tmp_path / "slim")
    assert not applied.why_no_config
    again = type(dense).from_pretrained(tmp_path / "slim").eval()
    assert again.config.num_local_experts == (4 if experts is None else 2)
    assert (again.config.intermediate_size < 24) == (share is not None)
    with torch.no_grad():
        torch.testing.assert_close(again(**CALL).logits, atograph.mask(left, plan)(**CALL).logits)
