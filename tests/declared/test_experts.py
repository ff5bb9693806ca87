"""Whole experts of mixtures go: which ones, what is left, and its certificate."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import atograph
from atograph.declared.certificate import certify
from atograph.declared.routing import Routing
from atograph.declared.smaller import counted_for, smaller
from atograph.passes.declared import Declared
from atograph.passes.errors import UserError
from atograph.spec.example_inputs import Inputs
from benchmarks.exact import perturb

IDS = torch.randint(3, 60, (4, 7), generator=torch.Generator().manual_seed(0))
CALL: dict[str, Any] = {"input_ids": IDS, "use_cache": False}
SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": 2, "pad_token_id": 0, "eos_token_id": 1,
    "bos_token_id": 2, "max_position_embeddings": 64,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 6},
    "Qwen2Moe": {"num_experts": 6, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 20},
    "Qwen3Moe": {"num_experts": 6, "moe_intermediate_size": 16, "norm_topk_prob": True},
    "GptOss": {"num_local_experts": 6},
    "Ernie4_5_Moe": {"moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 16},
    "Olmoe": {"num_experts": 6},
    "Llama4": {"num_local_experts": 6, "num_experts_per_tok": 1, "intermediate_size_mlp": 24,
               "interleave_moe_layer_step": 1, "attention_chunk_size": 16},
    "Dbrx": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64,
             "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
             "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 6, "moe_top_k": 2}},
    "Jamba": {"num_experts": 6, "expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 2,
              "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4},
    "DeepseekV3": {
        "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
        "n_shared_experts": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8, "num_key_value_heads": 4,
    },
}  # fmt: skip


@cache
def mixture(transformers: ModuleType, family: str) -> nn.Module:
    """A small model, which no test changes."""
    torch.manual_seed(0)
    kind = "Llama4TextConfig" if family == "Llama4" else f"{family}Config"
    sizes = {name: SIZES[name] for name in ("vocab_size", "pad_token_id")} if family == "Dbrx" else SIZES
    config = getattr(transformers, kind)(**{**sizes, **OWN[family]})
    model: nn.Module = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    perturb(model)
    return model


@pytest.mark.parametrize("family", OWN)
def test_fewer_experts_are_the_dense_model_that_cannot_choose_the_others(transformers: ModuleType, family: str) -> None:
    reduced = atograph.keep_experts(mixture(transformers, family), 0.5, [CALL])
    proof = reduced.certify(CALL)
    assert proof.difference < 1e-6  # the code casts to float32
    assert proof.moved is not None
    assert proof.moved > 1e-3
    assert proof.count * 2 == proof.size
    assert all(
        tensor.shape[0] == proof.count
        for name, tensor in reduced.module.state_dict().items()
        if name.endswith(("mlp.gate.weight", "router.weight", "experts.down_proj"))
    )


def test_the_groups_of_a_router_stay_equally_large(transformers: ModuleType) -> None:
    reduced = atograph.keep_experts(mixture(transformers, "DeepseekV3"), 0.5, [CALL])
    (kept,) = reduced.change.kept.values()
    assert [each // 4 for each in kept] == [0, 0, 1, 1]


def test_where_none_of_the_others_was_used_it_is_the_dense_model(transformers: ModuleType) -> None:
    model = mixture(transformers, "Qwen3Moe")
    proof = certify(model, *for_the_first_token(model, "num_local_experts"), Inputs((), one_token()))
    assert proof.unused == 1
    assert proof.unused_difference is not None
    assert proof.unused_difference < 1e-6


def test_a_router_that_weighs_all_experts_is_told(transformers: ModuleType) -> None:
    """Qwen2-MoE divides by a sum over all of them, so the chosen ones weigh more where others are gone."""
    model = mixture(transformers, "Qwen2Moe")
    proof = certify(model, *for_the_first_token(model, "num_experts"), Inputs((), one_token()))
    assert proof.unused == 1
    assert proof.holds
    assert proof.unused_difference is not None
    assert proof.unused_difference > 1e-4
    assert "1 of 1 samples met none of the others" in str(proof)


def one_token() -> dict[str, Any]:
    return {"input_ids": IDS[:1, :1], "use_cache": False}


def for_the_first_token(model: nn.Module, field: str) -> tuple[nn.Module, Declared]:
    """The model with the experts that the first token is sent to, and one more."""
    change = Declared(kind="experts", field=field, size=6, kept={f"model.layers.{n}.mlp": (0,) for n in (0, 1)})
    with Routing(model, counted_for(model, change).routers_of_blocks(), 6) as watched, torch.no_grad():
        model(**one_token())
    kept = {}
    for block, (chosen,) in watched.chosen.items():
        assert chosen is not None
        used = chosen.flatten().tolist()
        kept[block] = tuple(sorted([*used, next(each for each in range(6) if each not in used)]))
    change = change.model_copy(update={"kept": kept})
    return smaller(model, change), change


def test_those_stay_that_the_router_sends_most_to(transformers: ModuleType) -> None:
    model = mixture(transformers, "Mixtral")
    reduced = atograph.keep_experts(model, 0.5, [CALL])
    with Routing(model, counted_for(model, reduced.change).routers_of_blocks(), 6) as watched, torch.no_grad():
        model(**CALL)
    for block, kept in reduced.change.kept.items():
        sent = torch.zeros(6)
        (logits,), (chosen,) = watched.logits[block], watched.chosen[block]
        assert chosen is not None
        for row, experts in zip(logits, chosen, strict=True):
            sent[experts] += row[experts].softmax(0)
        assert set(kept) == set(sent.topk(3).indices.tolist())


def test_plain_transformers_loads_it(transformers: ModuleType, tmp_path: Path) -> None:
    reduced = atograph.keep_experts(mixture(transformers, "Mixtral"), 0.5)
    reduced.module.save_pretrained(tmp_path)
    again = type(reduced.module).from_pretrained(tmp_path).eval()
    assert again.config.num_local_experts == 3
    with torch.no_grad():
        assert torch.equal(again(**CALL).logits, reduced.module(**CALL).logits)


def test_the_dense_model_is_left_as_it_is(transformers: ModuleType) -> None:
    model = mixture(transformers, "Mixtral")
    reduced = atograph.keep_experts(model, 0.5)
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert model.config.num_local_experts == 6
    assert own.isdisjoint(tensor.data_ptr() for tensor in reduced.module.state_dict().values())
    assert not reduced.module.training


def test_a_model_with_a_mixture_in_it(transformers: ModuleType) -> None:
    class Scored(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body, self.score = body, nn.Linear(60, 1)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.score(self.body(input_ids=ids, use_cache=False).logits)
            return scores

    reduced = atograph.keep_experts(Scored(mixture(transformers, "Mixtral")).eval(), 0.5, [IDS])
    assert reduced.change.part == "body"
    assert reduced.certify(IDS).holds


def test_what_cannot_be_done(transformers: ModuleType) -> None:
    model = mixture(transformers, "Mixtral")
    with pytest.raises(
        UserError, match=r"1 of 6 experts would stay in model.layers.0.mlp, and each token is sent to 2"
    ):
        atograph.keep_experts(model, 0.2)
    with pytest.raises(UserError, match="of 6 experts that share keeps all"):
        atograph.keep_experts(model, 0.99)
    with pytest.raises(UserError, match="lies between 0 and 1"):
        atograph.keep_experts(model, 1.5)
    with pytest.raises(UserError, match="no mixture of experts was found in Linear: no part of it is made from a conf"):
        atograph.keep_experts(nn.Linear(2, 2), 0.5)
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    with pytest.raises(UserError, match="no mixture of experts was found in LlamaForCausalLM: no such number"):
        atograph.keep_experts(llama, 0.5)
    change = Declared(kind="experts", field="num_local_experts", size=6, kept={"model.layers.7.mlp": (0, 1)})
    with pytest.raises(UserError, match="another model than the one of which 2 of 6 experts were kept"):
        smaller(model, change)


def test_a_model_in_which_more_hangs_on_the_number(transformers: ModuleType) -> None:
    """NLLB-MoE takes the place in its routers' masks for the number of an expert."""
    torch.manual_seed(0)
    config = transformers.NllbMoeConfig(
        vocab_size=60, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_sparse_step=1, decoder_sparse_step=1,
        num_experts=6, decoder_start_token_id=1, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    model = transformers.NllbMoeForConditionalGeneration(config).eval()
    perturb(model)
    call = {"input_ids": IDS, "decoder_input_ids": IDS}
    reduced = atograph.keep_experts(model, 0.5, [call])
    with pytest.raises(UserError, match="in this model more hangs on num_experts than its experts and their routers"):
        reduced.certify(call)
