"""The zoo: models of torchvision, timm and transformers by name (``tv:``, ``timm:``, ``hf:``), without weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.models import torchvision_models  # first: it defines what importing torchvision asks for

# isort: split
from benchmarks.models import timm_models, transformers_models

NAMES: tuple[str, ...] = (
    *(f"tv:{name}" for name in torchvision_models.MODELS),
    *(f"hf:{name}" for name in transformers_models.MODELS),
    *(f"timm:{name}" for name in timm_models.MODELS),
)

Example = tuple[tuple[Any, ...], dict[str, Any]]


def build(name: str) -> tuple[nn.Module, Example]:
    """A model of the zoo in eval mode with its example inputs, positional and by keyword."""
    library, _, own = name.partition(":")
    if library == "tv":
        return torchvision_models.build(own).eval(), ((torchvision_models.example(own),), {})
    if library == "hf":
        return transformers_models.build(own).eval(), ((), dict(transformers_models.example(own)))
    model = timm_models.build(own).eval()
    return model, ((timm_models.example(model),), {})
