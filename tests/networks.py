"""Small networks, each with one kind of coupling: those of ``tests/golden``, where their code stands."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from doc_blocks import blocks
from torch import nn

GOLDEN = Path(__file__).parent / "golden"

NETWORKS = ("plain", "residual", "dense", "gated", "grouped")


@cache
def _code(name: str) -> dict[str, Any]:
    path = GOLDEN / f"{name}.md"
    block = blocks(path.read_text(encoding="utf-8"))[0]
    names: dict[str, Any] = {"__name__": f"golden_{name}"}
    exec(compile("\n" * (block.line - 1) + block.text, str(path), "exec"), names)
    return names


def maker(name: str) -> Callable[[], nn.Module]:
    """What makes a network."""
    return _code(name)["model"]  # type: ignore[no-any-return]


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network in eval mode, the same one each time, and two inputs."""
    torch.manual_seed(0)
    code = _code(name)
    return code["model"]().eval(), code["example_inputs"]()
