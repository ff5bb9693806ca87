"""What the callbacks of Lightning and of transformers' Trainer have in common, their examples and their document."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from doc_blocks import blocks
from trainings import check_slim

from atograph.integrations import required
from atograph.passes.errors import UserError

ROOT = Path(__file__).parents[2]
DOCUMENT = blocks((ROOT / "docs" / "integrations.md").read_text(encoding="utf-8"))


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"needs the package not_there, .* pip install not_there"):
        required("lightning", "not_there.at_all", "nor_there")
    assert required("lightning", "not_there", "json").__name__ == "json"
    (tmp_path / "lacks_another.py").write_text("import not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        required("lightning", "lacks_another")


def test_a_package_that_is_broken_is_named_with_what_it_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_one.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"package broken_one, .*cannot be imported: .*nms does not exist"):
        required("lightning", "broken_one")


@pytest.mark.long
def test_atograph_itself_imports_neither() -> None:
    code = "import sys, atograph, atograph.integrations.own_loop, atograph.integrations; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "atograph.integrations.own_loop" in found
    assert not {"lightning", "pytorch_lightning", "transformers"} & {*found}


@pytest.mark.long
def test_the_example_in_lightning(lightning: ModuleType, example: Callable[[str], ModuleType]) -> None:
    digits = example("lightning_digits")
    module, callback = digits.fit(
        epochs=5, accelerator="cpu", limit_train_batches=8, enable_progress_bar=False, enable_model_summary=False
    )
    check_slim(module, callback.slim, callback.ato.graph.flops, budget=0.3)
    assert digits.accuracy(callback.slim) == pytest.approx(digits.accuracy(module.eval()), abs=0.005)


@pytest.mark.long
def test_the_example_with_the_trainer(transformers: ModuleType, example: Callable[[str], ModuleType]) -> None:
    digits = example("trainer_digits")
    model, callback = digits.train(epochs=5, max_steps=40, disable_tqdm=True)
    check_slim(model, callback.slim, callback.ato.graph.flops, budget=0.3)
    assert digits.accuracy(callback.slim) == pytest.approx(digits.accuracy(model.eval()), abs=0.005)


@pytest.mark.long
@pytest.mark.parametrize("package", ["lightning", "transformers"])
def test_the_document(package: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> None:
    """Its code is marked ``py``, not ``python``: `test_docs` runs that where the packages need not be."""
    request.getfixturevalue(package)
    monkeypatch.chdir(tmp_path)
    (text,) = [block.text for block in DOCUMENT if block.language == "py" and f"integrations.{package}" in block.text]
    torch.manual_seed(0)
    exec(compile(text, "integrations.md", "exec"), {"__name__": "document"})
