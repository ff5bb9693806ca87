"""The tokenizer of a smaller vocabulary: a text of which all tokens stay has the same ones, by their new numbers."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import atograph
from atograph.declared.tokenizer import TOKENS, is_of_tokenizer, tokens_needed, write_tokenizer
from atograph.passes.declared import Declared
from atograph.passes.errors import UserError

TEXT = "the cat sat on the mat and the other dog then lay on the log near that lost hat, as cats do at the lake"
WORDS = TEXT.split()


def trained(tokenizers: ModuleType, kind: str) -> Any:
    """A tokenizer of some words, with two tokens around each text."""
    models, trainers, pre = tokenizers.models, tokenizers.trainers, tokenizers.pre_tokenizers
    special = ["<s>", "</s>", "<unk>"]
    if kind == "BPE":
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre.ByteLevel(), tokenizers.decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre.ByteLevel.alphabet())
    elif kind == "suffix":
        made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        made.pre_tokenizer = pre.Whitespace()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, end_of_word_suffix="</w>")
    elif kind == "prefix":
        made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
        made.pre_tokenizer = pre.Whitespace()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, continuing_subword_prefix="##")
    elif kind == "Unigram":
        made = tokenizers.Tokenizer(models.Unigram())
        made.pre_tokenizer = pre.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>")
    else:
        made = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer = pre.Whitespace()
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special)
    made.train_from_iterator([TEXT] * 3, trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, made.token_to_id(name)) for name in ("<s>", "</s>")]
    )
    return made


@pytest.mark.parametrize("kind", ["BPE", "suffix", "prefix", "Unigram", "WordPiece"])
def test_texts_of_tokens_that_stay(tmp_path: Path, kind: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    dense, chosen = trained(tokenizers, kind), random.Random(0)
    (tmp_path / "tokenizer.json").write_text(dense.to_str(), encoding="utf-8")
    size = dense.get_vocab_size()
    texts = [" ".join(chosen.choices(WORDS, k=4)) for _ in range(200)]
    wanted = {token for text in texts[:5] for token in dense.encode(text).ids}
    kept = tuple(sorted(wanted | tokens_needed(tmp_path, wanted)))
    assert len(kept) < size
    (tmp_path / "slim").mkdir()
    change = Declared(kind="tokens", field="vocab_size", size=size, kept={"": kept})
    assert write_tokenizer(tmp_path, change, tmp_path / "slim") == ""
    slim = tokenizers.Tokenizer.from_file(str(tmp_path / "slim" / "tokenizer.json"))
    assert json.loads((tmp_path / "slim" / TOKENS).read_text()) == list(kept)
    assert slim.get_vocab_size() == len(kept)
    same = 0
    for text in texts:
        old = dense.encode(text).ids
        if set(old) <= {*kept}:
            assert [kept[token] for token in slim.encode(text).ids] == old
            same += 1
    assert 5 <= same < len(texts)


def test_bytes_stay_so_that_any_text_has_tokens(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    dense = trained(tokenizers, "BPE")
    (tmp_path / "tokenizer.json").write_text(dense.to_str(), encoding="utf-8")
    kept = tuple(sorted(tokens_needed(tmp_path, [dense.token_to_id("Ġcats")])))
    assert dense.token_to_id("Ġcat") in kept  # on the way to it
    assert dense.token_to_id("Ġdog") not in kept
    (tmp_path / "slim").mkdir()
    change = Declared(kind="tokens", field="vocab_size", size=dense.get_vocab_size(), kept={"": kept})
    write_tokenizer(tmp_path, change, tmp_path / "slim")
    slim = tokenizers.Tokenizer.from_file(str(tmp_path / "slim" / "tokenizer.json"))
    assert slim.decode(slim.encode("the Ärger of 猫").ids) == " the Ärger of 猫"


def test_where_there_is_none(transformers: ModuleType, tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, eos_token_id=0, bos_token_id=0)
    reduced = atograph.keep_tokens(transformers.GPT2LMHeadModel(config), range(10))
    with pytest.raises(UserError, match="no tokenizer is written: nobody knows where the model was loaded from"):
        reduced.save_tokenizer(tmp_path)
    assert json.loads((tmp_path / TOKENS).read_text()) == list(range(10))
    with pytest.raises(UserError, match=r"there is no tokenizer\.json"):
        reduced.save_tokenizer(tmp_path, tmp_path)


def test_a_model_that_was_loaded_keeps_what_its_tokenizer_needs(transformers: ModuleType, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    dense = trained(tokenizers, "BPE")
    source, out = tmp_path / "dense", tmp_path / "slim"
    config = transformers.GPT2Config(
        vocab_size=dense.get_vocab_size(), n_embd=8, n_layer=1, n_head=2, eos_token_id=1, bos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(source)
    transformers.PreTrainedTokenizerFast(tokenizer_object=dense, eos_token="</s>").save_pretrained(source)
    model = transformers.GPT2LMHeadModel.from_pretrained(source)
    reduced = atograph.keep_tokens(model, [dense.token_to_id("Ġcat"), dense.token_to_id("Ġthe")])
    reduced.module.save_pretrained(out)
    reduced.save_tokenizer(out)
    slim = transformers.AutoTokenizer.from_pretrained(out)
    ids = slim("the cat")["input_ids"]
    assert [reduced.change.kept[""][token] for token in ids] == dense.encode("the cat").ids
    assert slim.eos_token_id == reduced.module.config.eos_token_id
    besides, kept = reduced.besides, len(reduced.change.kept[""])
    assert besides.startswith("2 that were named and, with them, 2 special ones that its configuration names and ")
    assert sum(int(number) for number in re.findall(r"\d+", besides)) == kept
    assert f" stay: {besides}; on these" in str(reduced.certify({"input_ids": torch.tensor([[0, 1]])}))
    with pytest.raises(UserError, match=rf"would stay: {config.vocab_size - 2} that were named"):
        atograph.keep_tokens(model, range(2, config.vocab_size))


def test_what_is_unknown_stays_dearer_than_any_piece(tmp_path: Path) -> None:
    """Unigram takes the best row of pieces; what is unknown costs ten more than the dearest piece that there is."""
    tokenizers = pytest.importorskip("tokenizers")
    pieces = [("<unk>", 0.0), ("ab", -20.0), ("cd", -20.0), ("abc", -5.0), ("d", -60.0)]
    dense = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    (tmp_path / "tokenizer.json").write_text(dense.to_str(), encoding="utf-8")
    assert dense.encode("abcd").tokens == ["ab", "cd"]
    wanted = {1, 2, 3}
    kept = tuple(sorted(wanted | tokens_needed(tmp_path, wanted)))
    (tmp_path / "slim").mkdir()
    change = Declared(kind="tokens", field="vocab_size", size=5, kept={"": kept})
    assert write_tokenizer(tmp_path, change, tmp_path / "slim") == ""
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "slim" / "tokenizer.json")).encode("abcd").tokens == [
        "ab",
        "cd",
    ]


@pytest.mark.parametrize(("name", "numbers"), [
    ("vocab.json", True), ("vocab-src.json", True), ("merges.txt", True), ("spiece.model", True), ("tekken.json", True),
    ("tokenizer_config.json", True), ("added_tokens.json", True), ("target.spm", True), ("qwen.tiktoken", True),
    ("encoder.json", True), ("vocab.bpe", True),
    ("preprocessor_config.json", False), ("generation_config.json", False), ("chat_template.jinja", False),
    ("README.txt", False), ("sentence_bert_config.json", False),
])  # fmt: skip
def test_files_with_numbers_of_tokens(name: str, numbers: bool) -> None:
    assert is_of_tokenizer(name) == numbers
