"""What makes a folder of slim weights one that transformers loads: its configuration, and files beside the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from atograph.files.checkpoint import Checkpoint
from atograph.files.reading import read_json
from atograph.graph.graph import Graph
from atograph.passes.plan.plan import Plan
from atograph.repair.config_widths import numbers_of

CONFIG = "config.json"

_BESIDE = (".json", ".txt", ".model", ".jinja")
"""Endings of tokenizers, vocabularies, templates, and how to generate."""

_OURS = ("plan.json", "report.json")


def write_beside(graph: Graph, plan: Plan, checkpoint: Checkpoint, folder: Path) -> str:
    """Write the configuration of slim weights, and copy what lies beside the dense ones.

    Args:
        graph: of the dense model, on the meta device or not.
        plan: what it keeps.
        checkpoint: its weights.
        folder: of the slim weights.

    Returns:
        Why there is no configuration, in words; empty where there is one, or the dense model has none.
    """
    source = checkpoint.files[0].parent / CONFIG
    if graph.model is None or not source.is_file():
        return ""
    numbers = numbers_of(graph.model, graph.program, plan)
    if isinstance(numbers, str):
        return numbers
    config = read_json(source, "not a configuration of transformers")
    (folder / CONFIG).write_text(json.dumps({**config, **numbers}, indent=2) + "\n", encoding="utf-8")
    for path in _beside(source.parent):
        shutil.copyfile(path, folder / path.name)
    return ""


def _beside(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        index = path.name.endswith(".index.json")
        if path.is_file() and path.suffix in _BESIDE and not index and path.name not in (CONFIG, *_OURS):
            yield path
