"""Decoding with a slim cache: a cut-down version of the benchmark."""

from __future__ import annotations

import pytest

from benchmarks.decoding.command import COMMAND, measure


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize(("name", "files"), [("Mixtral", "decoder.onnx"), ("Whisper", "encoder.onnx, decoder.onnx")])
@pytest.mark.long
def test_tokens_of_a_slim_cache_are_the_masked_models(name: str, files: str) -> None:
    row = measure(name, steps=4, layers=1)
    assert row.equal == row.tokens == 12 and row.difference < 1e-4 and row.files == files
    assert "12 of 12" in COMMAND.table([row])
