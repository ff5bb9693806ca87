"""The notebook of examples/: its form, and its cells run in order as a reader runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from forked import completed

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "first-steps.ipynb"


def read() -> dict[str, Any]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def code() -> list[str]:
    return ["".join(cell["source"]) for cell in read()["cells"] if cell["cell_type"] == "code"]


def run() -> None:
    """All cells in one namespace, without IPython: none of them has magic in it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, text in enumerate(code()):
        exec(compile(text, f"cell {number}", "exec", dont_inherit=True), namespace)


def test_it_is_a_notebook_without_outputs() -> None:
    notebook = read()
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"]) > 8
    for cell in notebook["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


def test_the_cells_run_and_what_they_assert_holds(tmp_path: Path) -> None:
    assert sum(text.count("assert") for text in code()) >= 4
    found = completed(tmp_path, function=run)
    assert found.returncode == 0, found.stdout + found.stderr
