"""Tokens of a vocabulary go: rows of embeddings and heads, with new numbers for those that stay."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import atograph
from atograph.declared.again import certify_again
from atograph.declared.smaller import counted_for
from atograph.declared.token_inputs import TokenInputs
from atograph.declared.tokens import read_tokens
from atograph.passes.errors import UserError
from atograph.run.declare import left_of
from atograph.spec.example_inputs import Inputs
from atograph.train.settings import TrainSettings
from benchmarks.exact import perturb

KEPT = range(4, 40)
IDS = torch.randint(4, 40, (2, 7), generator=torch.Generator().manual_seed(0))
CALL: dict[str, Any] = {"input_ids": IDS, "use_cache": False}


@cache
def model_of(transformers: ModuleType, family: str) -> nn.Module:
    """A small model, which no test changes."""
    torch.manual_seed(0)
    special = {"vocab_size": 60, "eos_token_id": 50, "bos_token_id": 51, "pad_token_id": 2}
    llama = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    model: nn.Module
    if family == "Gpt2":
        config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=4, n_positions=32, **special)
        model = transformers.GPT2LMHeadModel(config)
    elif family == "Bert":
        model = transformers.BertForMaskedLM(transformers.BertConfig(**llama, **special))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**llama, **special))
    perturb(model)
    return model.eval()


@pytest.mark.parametrize("family", ["Gpt2", "Llama", "Bert"])
def test_on_tokens_that_stay_the_logits_are_the_same(transformers: ModuleType, family: str) -> None:
    model = model_of(transformers, family)
    reduced = atograph.keep_tokens(model, KEPT)
    call = {"input_ids": IDS}
    kept = list(reduced.change.kept[""])
    assert kept == [2, *KEPT, 50, 51]  # those of the configuration in any case
    proof = reduced.certify(call)
    assert proof.difference < 1e-9
    new = torch.tensor([kept.index(token) for token in IDS.flatten().tolist()]).reshape(IDS.shape)
    with torch.no_grad():
        torch.testing.assert_close(reduced.module(new).logits, model(IDS).logits[..., kept])


def test_tied_weights_stay_tied_and_others_do_not_become_so(transformers: ModuleType) -> None:
    tied = atograph.keep_tokens(model_of(transformers, "Gpt2"), KEPT).module
    assert tied.transformer.wte.weight is tied.lm_head.weight
    untied = atograph.keep_tokens(model_of(transformers, "Llama"), KEPT).module
    assert untied.model.embed_tokens.weight is not untied.lm_head.weight
    assert untied.lm_head.out_features == 39


def test_the_configuration_has_the_new_numbers(transformers: ModuleType, tmp_path: Path) -> None:
    model = model_of(transformers, "Llama")
    model.generation_config.suppress_tokens = [5, 45]
    reduced = atograph.keep_tokens(model, KEPT)
    reduced.module.save_pretrained(tmp_path)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    config, generation = again.config, again.generation_config
    assert (config.vocab_size, config.pad_token_id, config.eos_token_id, config.bos_token_id) == (39, 0, 37, 38)
    assert (generation.eos_token_id, generation.suppress_tokens) == (37, [2])
    assert again.model.embed_tokens.padding_idx == 0
    model.generation_config.suppress_tokens = None
    new = torch.tensor([reduced.change.kept[""].index(token) for token in IDS.flatten().tolist()]).reshape(IDS.shape)
    with torch.no_grad():
        assert torch.equal(again(new).logits, reduced.module(new).logits)


def test_batches_get_the_new_numbers(transformers: ModuleType) -> None:
    model = model_of(transformers, "Llama")
    reduced = atograph.keep_tokens(model, KEPT)
    found = counted_for(model, reduced.change)
    tokens = TokenInputs.of(model, reduced.change, found, Inputs((), CALL))
    labels = IDS.clone()
    labels[0, :3] = -100
    batch = tokens.batch({"input_ids": IDS, "labels": labels, "attention_mask": torch.ones_like(IDS)})
    assert torch.equal(batch["input_ids"], IDS - 3)
    assert torch.equal(batch["labels"], torch.where(labels == -100, labels, labels - 3))
    assert batch["attention_mask"].eq(1).all()
    with pytest.raises(UserError, match="the data has the token 45 in input_ids, which does not stay"):
        tokens.batch({"input_ids": torch.tensor([[5, 45]])})
    with pytest.raises(UserError, match="the data has 60 in input_ids, which is no token of the model"):
        tokens.batch({"input_ids": torch.tensor([[5, 60]])})


def test_labels_of_classes_stay(transformers: ModuleType) -> None:
    """Of a model without a head of tokens, labels are something else."""
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, num_labels=3
    )
    model = transformers.BertForTokenClassification(config).eval()
    reduced = atograph.keep_tokens(model, KEPT)
    tokens = TokenInputs.of(model, reduced.change, counted_for(model, reduced.change), Inputs((IDS,), {}))
    classes = torch.randint(3, IDS.shape)
    batch = tokens.batch({"input_ids": IDS, "labels": classes})
    assert torch.equal(batch["labels"], classes)
    assert reduced.certify(IDS).difference < 1e-9


def test_files_of_tokens(tmp_path: Path) -> None:
    for name, content in {
        "lines.txt": b"3\n17\n\n5\n", "list.json": b"[3, 17, 5]", "list.txt": b"\n[3, 17, 5]\n",
        "windows.txt": b"\xef\xbb\xbf3\r\n17\r\n5\r\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
        assert read_tokens(tmp_path / name) == [3, 17, 5], name
    with pytest.raises(UserError, match="cannot read the tokens"):
        read_tokens(tmp_path / "none.txt")


@pytest.mark.parametrize(("content", "why"), [
    ("3\nhello\n", r"line 2: 'hello' is no number of a token\. .* A text has those that its tokenizer gives"),
    ("3\n-4\n", "line 2: '-4' is no number"),
    ("9" * 5000, "line 1: '9999.* is no number"),
    (" \n", "it names no token"),
    ("[]", "it names no token"),
    ('{"the": 3}', "this is no list of tokens"),
    ('["the"]', "this is no list of tokens"),
    ("3\n60\n", r"tokens\.txt: 60 is no token of this model: they are 0 to 59"),
])  # fmt: skip
def test_files_that_name_none(transformers: ModuleType, content: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text(content, encoding="utf-8")
    settings = TrainSettings(keep_tokens=str(path))
    with pytest.raises(UserError, match=why):
        left_of(model_of(transformers, "Llama"), Inputs((), CALL), settings, prove=False)


class TwoHeads(nn.Module):
    """A model of transformers with a second head, tied to the embeddings or not."""

    def __init__(self, transformers: ModuleType, tied: bool) -> None:
        super().__init__()
        self.lm, self.second = model_of(transformers, "Llama"), nn.Linear(32, 60, bias=False)
        if tied:
            self.second.weight = self.lm.model.embed_tokens.weight

    def forward(self, input_ids: torch.Tensor) -> Any:
        hidden = self.lm.model(input_ids).last_hidden_state
        return {"logits": self.lm.lm_head(hidden), "second": self.second(hidden)}


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_around_the_model_goes_along_where_it_is_tied(transformers: ModuleType, tied: bool) -> None:
    dense: Any = TwoHeads(transformers, tied).eval()
    reduced = atograph.keep_tokens(dense, KEPT)
    small: Any = reduced.module
    assert (small.second.weight is small.lm.model.embed_tokens.weight) == tied
    assert small(IDS - 3)["second"].shape[-1] == (39 if tied else 60)
    assert reduced.certify({"input_ids": IDS}).difference < 1e-9
    fresh = copy.deepcopy(dense)
    (proof,) = certify_again(fresh, small, [reduced.change], Inputs((), {"input_ids": IDS - 3}))
    assert proof.difference < 1e-9


def test_labels_of_a_vocabulary_of_its_own_stay(transformers: ModuleType) -> None:
    """Of a decoder that has as many tokens as the encoder, and embeddings of its own."""
    config = transformers.MarianConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=60, decoder_vocab_size=60, pad_token_id=0, eos_token_id=1,
        share_encoder_decoder_embeddings=False, tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip
    model = transformers.MarianMTModel(config).eval()
    reduced = atograph.keep_tokens(model, KEPT)
    call = {"input_ids": IDS, "decoder_input_ids": IDS + 2}
    found = counted_for(model, reduced.change)
    tokens = TokenInputs.of(model, reduced.change, found, Inputs((), call), reduced.module)
    batch = tokens.batch({**call, "labels": IDS})
    assert torch.equal(batch["input_ids"], IDS - 2)
    assert torch.equal(batch["decoder_input_ids"], IDS + 2) and torch.equal(batch["labels"], IDS)


def test_tokens_that_a_model_transposes_are_its_tokens(transformers: ModuleType) -> None:
    model = transformers.XLNetLMHeadModel(
        transformers.XLNetConfig(vocab_size=60, d_model=16, n_layer=1, n_head=2, d_inner=16)
    )
    assert atograph.keep_tokens(model.eval(), KEPT).certify({"input_ids": IDS}).difference < 1e-9


def test_what_cannot_be_done(transformers: ModuleType) -> None:
    model = model_of(transformers, "Llama")
    with pytest.raises(UserError, match="60 is no token of this model: they are 0 to 59"):
        atograph.keep_tokens(model, [3, 60])
    with pytest.raises(UserError, match="all 60 tokens of this model would stay"):
        atograph.keep_tokens(model, range(60))
    with pytest.raises(UserError, match="'the' is no number of a token"):
        atograph.keep_tokens(model, ["the"])  # type: ignore[list-item]
    with pytest.raises(UserError, match="no token would stay"):
        atograph.keep_tokens(model, [])
    with pytest.raises(UserError, match="no vocabulary was found in Linear"):
        atograph.keep_tokens(nn.Linear(2, 2), [1])
    reduced = atograph.keep_tokens(model, KEPT)
    with pytest.raises(UserError, match=r"none of the inputs .* is what the vocabulary is indexed by"):
        reduced.certify({"inputs_embeds": torch.randn(1, 3, 32)})
