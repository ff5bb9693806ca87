"""Configurations of transformers that name code, or something that is no model: no code of theirs runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from atograph import UserError
from atograph.spec.spec import load_spec

SMALL = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 8, "vocab_size": 20}  # fmt: skip


@pytest.fixture
def folder(transformers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('was run', 'w')\nclass Evil: pass\n")
    return tmp_path


@pytest.mark.parametrize("named", ["BertModel", ["pipeline"], [{}], ["__dict__"], [], None, 5, ["AutoModel"]])
def test_what_is_no_model_is_not_called(folder: Path, named: Any) -> None:
    (folder / "config.json").write_text(json.dumps(SMALL | {"architectures": named}))
    try:
        made = load_spec(f"transformers:{folder}").model()
    except UserError:
        return
    assert type(made).__name__ == "BertModel"


CONFIGS: dict[str, bytes] = {
    "code of its own": json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}).encode(),
    "no width": json.dumps(SMALL | {"hidden_size": -8}).encode(),
    "a width of text": json.dumps(SMALL | {"hidden_size": "8"}).encode(),
    "a width that no memory holds": json.dumps(SMALL | {"hidden_size": 10**12}).encode(),
    "a list": b"[]",
    "nested": b"[" * 100_000,
    "a million digits": b'{"model_type": ' + b"9" * 10**6 + b"}",
    "no text": b"\0\xff",
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_configuration_that_is_none(folder: Path, what: str) -> None:
    (folder / "config.json").write_bytes(CONFIGS[what])
    with pytest.raises(UserError) as refusal:
        load_spec(f"transformers:{folder}").model()
    assert "\n" not in str(refusal.value)
    assert not (folder / "was run").exists()


def test_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "config.json")
    with pytest.raises(UserError, match="transformers cannot read a configuration there"):
        load_spec(f"transformers:{folder}")
