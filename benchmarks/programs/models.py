"""The models of `benchmarks.programs`: small ones of torchvision, timm and transformers, random weights, float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

import torch
from torch import nn

Inputs: TypeAlias = tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]
"""Arguments of one call."""


def _made(model: nn.Module, *args: torch.Tensor) -> tuple[nn.Module, Inputs]:
    """In float64, with numbers in norms and biases that are none of the usual ones."""
    for name, value in model.double().eval().state_dict().items():
        if value.is_floating_point() and value.dim() == 1:
            value.uniform_(0.5, 1.5) if name.endswith(("var", "weight")) else value.normal_(std=0.1)
    return model, (args, {})


def _torchvision(name: str, side: int = 64) -> tuple[nn.Module, Inputs]:
    from benchmarks.models.torchvision_models import models

    return _made(models.get_model(name, weights=None, num_classes=10), torch.randn(2, 3, side, side).double())


def _densenet(**options: Any) -> tuple[nn.Module, Inputs]:
    from benchmarks.models.torchvision_models import models

    return _made(models.DenseNet(num_classes=10, **options), torch.randn(2, 3, 64, 64).double())


def _timm(name: str, side: int = 64, **options: Any) -> tuple[nn.Module, Inputs]:
    import_module("benchmarks.models.torchvision_models")  # timm imports torchvision
    import timm

    return _made(timm.create_model(name, num_classes=10, **options), torch.randn(2, 3, side, side).double())


def _mixer(ratio: float | tuple[float, float] = (0.5, 4.0), **parts: str) -> tuple[nn.Module, Inputs]:
    import_module("benchmarks.models.torchvision_models")
    from timm.models import mlp_mixer

    options = {name: getattr(mlp_mixer, part) for name, part in parts.items()} | {"mlp_ratio": ratio}
    model = mlp_mixer.MlpMixer(num_classes=10, img_size=64, patch_size=16, num_blocks=2, embed_dim=64, **options)
    return _made(model, torch.randn(2, 3, 64, 64).double())


def _transformers(kind: str, config: str, attention: str = "sdpa", **options: Any) -> tuple[nn.Module, Inputs]:
    import_module("benchmarks.models.torchvision_models")  # transformers does, too
    import transformers

    made = getattr(transformers, config)(vocab_size=99, use_cache=False, attn_implementation=attention, **options)
    return _made(_Logits(getattr(transformers, kind)(made)), torch.randint(99, (2, 12)))


class _Logits(nn.Module):
    """A model of transformers that takes ids and gives its first result."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        first: torch.Tensor = self.model(input_ids=ids)[0]
        return first


_SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip

MODELS: Mapping[str, Callable[[], tuple[nn.Module, Inputs]]] = {
    "ResNet-18": lambda: _torchvision("resnet18"),
    "DenseNet": lambda: _densenet(growth_rate=8, block_config=(2, 2, 2), num_init_features=16),
    "SqueezeNet": lambda: _torchvision("squeezenet1_1"),
    "MobileNetV3": lambda: _torchvision("mobilenet_v3_small"),
    "RegNet": lambda: _timm("regnetx_002"),
    "ViT": lambda: _timm("vit_tiny_patch16_224", img_size=64, depth=2),
    "ConvNeXt": lambda: _timm("convnext_atto", depths=(1, 1, 1, 1)),
    "MLP-Mixer": lambda: _mixer(),
    "ResMLP": lambda: _mixer(4, block_layer="ResBlock", norm_layer="Affine"),
    "BERT": lambda: _transformers("BertForMaskedLM", "BertConfig", **_SMALL),
    "Llama": lambda: _transformers("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2, **_SMALL),
    # of its attention in one op torch's own run_decompositions() makes a view that torch refuses
    "GPT-2": lambda: _transformers("GPT2LMHeadModel", "GPT2Config", "eager", n_embd=32, n_layer=2, n_head=4),
}
