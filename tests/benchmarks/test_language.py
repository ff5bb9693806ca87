"""The benchmark of a language model, on a text of a few words."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from benchmarks.language import command as language
from benchmarks.language.command import Language, measure
from benchmarks.language.model import PIECE, bits, encoded, loaders


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("in the beginning was the word, and the word was with god. " * (21 * PIECE // 58))
    return path


def options(text: Path | None) -> Namespace:
    return Namespace(
        text=text, width=16, layers=1, context=8, batch=4, epochs=2, windows=32, held_out=8, lr=4e-3, device="cpu"
    )


@pytest.mark.long
@pytest.mark.parametrize("method", language.METHODS)
def test_each_method_trains_within_its_budget(text: Path, method: str) -> None:
    run = measure(("decoder", 0.4, method, 0), options(text))
    assert run.flops == 1 if method == "dense" else 0.2 < run.flops <= 0.4
    assert 0 < run.metric < 5 and run.cost is not None
    assert run.zeroing is None or run.zeroing > -0.5


def test_bits_are_those_of_each_character(text: Path) -> None:
    bench = Language("decoder", 0.5, 0, options(text))
    model, (ids, following) = bench.model(), next(iter(bench.task().train_data))
    assert ids.shape == following.shape == (4, 8) and torch.equal(ids[:, 1:], following[:, :-1])
    chances = model(ids).softmax(2).gather(2, following[..., None])
    torch.testing.assert_close(bits(model, (ids, following)), -chances.log2().mean())
    assert float(functional.cross_entropy(model(ids).flatten(0, 1), following.flatten())) > 0
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % encoded(text)[2]
    torch.testing.assert_close(model(changed)[:, :-1], model(ids)[:, :-1])  # it sees nothing of what comes


def test_what_is_held_out_is_not_trained_on(text: Path) -> None:
    train, held_out, letters = encoded(text)
    assert len(train) + len(held_out) == len(text.read_text()) and len(held_out) == PIECE
    assert letters == len(set(text.read_text()))
    first, again, other = (torch.cat([ids for ids, _ in loaders(text, 8, 32, 8, 4, seed)[0]]) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_text_that_is_missing_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks.language import model as language_model

    monkeypatch.setattr(language_model.shutil, "which", lambda _name: None)
    language_model.text_of.cache_clear()
    with pytest.raises(SystemExit, match="apt-get install bible-kjv"):
        language_model.text_of(None)
    with pytest.raises(SystemExit, match="cannot be read"):
        language_model.text_of(tmp_path / "nothing.txt")
    (tmp_path / "short.txt").write_text("In the beginning")
    with pytest.raises(SystemExit, match="needs 327,680 or more"):
        encoded(tmp_path / "short.txt")
