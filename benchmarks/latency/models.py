"""The models of `benchmarks.latency`: full size, random weights, nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.models import torchvision_models  # first: it defines what importing torchvision asks for

# isort: split
from torchvision import models as tv
from transformers import BertConfig, BertForSequenceClassification

Made = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A model in eval mode, and example inputs of a batch of two."""

CONVOLUTIONAL = ("mobilenet_v2", "densenet121", "resnet50", "convnext_tiny")


def _vision(name: str) -> Callable[[], Made]:
    return lambda: (getattr(tv, name)(weights=None), (torch.randn(2, 3, 224, 224),), {})


def _bert() -> Made:
    return BertForSequenceClassification(BertConfig()), (), {"input_ids": torch.randint(100, 30_000, (2, 128))}


MODELS: dict[str, Callable[[], Made]] = {
    **{name: _vision(name) for name in (*CONVOLUTIONAL, "swin_t")},
    "bert_base": _bert,
    "vit_b_16": _vision("vit_b_16"),
}
"""By the FLOPs that they take: what is stopped early has measured as many as it can."""


def build(name: str) -> Made:
    """A model with the same random weights each time."""
    assert torchvision_models.MODELS
    torch.manual_seed(0)
    model, args, kwargs = MODELS[name]()
    return model.eval(), args, kwargs
