"""torchvision's models, built without weights. Where its compiled part does not load (beside a CPU torch), the two
operators that its Python code names are defined first, and `nms`, which detectors call, is computed in Python."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn


def _load_operators() -> None:
    package = find_spec("torchvision")
    assert package is not None and package.origin is not None, "torchvision is not installed"
    for compiled in Path(package.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(compiled)
        except OSError:
            continue
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
            if name == "nms":
                _library.impl(name, _nms, "CPU")  # type: ignore[no-untyped-call]


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """The boxes that no box of a higher score overlaps by more: ``[n, 4]`` corners, ``[n]``; indices, best first."""
    left, kept = scores.argsort(descending=True), list[torch.Tensor]()
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        corner = torch.maximum(boxes[best, :2], boxes[left, :2])
        both = (torch.minimum(boxes[best, 2:], boxes[left, 2:]) - corner).clamp(min=0).prod(1)
        left = left[both / (area[best] + area[left] - both) <= iou_threshold]
    return torch.stack(kept) if kept else left


_library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
_load_operators()

from torchvision import extension, models  # noqa: E402

extension._has_ops = lambda: hasattr(torch.ops.torchvision, "nms")

# name → size of the usual input, and of the smallest one that the model takes, without the batch
CONVOLUTIONAL: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "alexnet": ((3, 224, 224), (3, 96, 96)),
    "convnext_tiny": ((3, 224, 224), (3, 64, 64)),
    "densenet121": ((3, 224, 224), (3, 64, 64)),
    "efficientnet_b0": ((3, 224, 224), (3, 64, 64)),
    "efficientnet_v2_s": ((3, 224, 224), (3, 64, 64)),
    "googlenet": ((3, 224, 224), (3, 64, 64)),
    "inception_v3": ((3, 299, 299), (3, 96, 96)),
    "mnasnet0_5": ((3, 224, 224), (3, 64, 64)),
    "mobilenet_v2": ((3, 224, 224), (3, 64, 64)),
    "mobilenet_v3_small": ((3, 224, 224), (3, 64, 64)),
    "regnet_y_400mf": ((3, 224, 224), (3, 64, 64)),
    "resnet18": ((3, 224, 224), (3, 64, 64)),
    "resnet50": ((3, 224, 224), (3, 64, 64)),
    "resnext50_32x4d": ((3, 224, 224), (3, 64, 64)),
    "shufflenet_v2_x0_5": ((3, 224, 224), (3, 64, 64)),
    "squeezenet1_1": ((3, 224, 224), (3, 64, 64)),
    "vgg11_bn": ((3, 224, 224), (3, 64, 64)),
    "wide_resnet50_2": ((3, 224, 224), (3, 64, 64)),
    "seg_deeplabv3_mobilenet_v3_large": ((3, 224, 224), (3, 64, 64)),
    "seg_fcn_resnet50": ((3, 224, 224), (3, 64, 64)),
    "seg_lraspp_mobilenet_v3_large": ((3, 224, 224), (3, 64, 64)),
    "r2plus1d_18": ((3, 8, 112, 112), (3, 4, 32, 32)),
    "s3d": ((3, 16, 224, 224), (3, 16, 64, 64)),
}
WITH_ATTENTION: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "maxvit_t": ((3, 224, 224), (3, 224, 224)),
    "mvit_v1_b": ((3, 16, 224, 224), (3, 16, 224, 224)),
    "swin3d_t": ((3, 8, 224, 224), (3, 4, 64, 64)),
    "swin_t": ((3, 224, 224), (3, 64, 64)),
    "swin_v2_t": ((3, 256, 256), (3, 64, 64)),
    "vit_b_32": ((3, 224, 224), (3, 224, 224)),
}
MODELS = CONVOLUTIONAL | WITH_ATTENTION


def build(name: str, *, small: bool = False) -> nn.Module:
    """A randomly initialised model, the same one each time; ``small`` where it gets a small `example`."""
    torch.manual_seed(0)
    model: nn.Module
    if name.startswith("seg_"):
        model = getattr(models.segmentation, name.removeprefix("seg_"))(weights=None, weights_backbone=None)
        return model
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    home = models if hasattr(models, name) else models.video
    model = getattr(home, name)(weights=None, **options)
    if small and name == "s3d":
        model.avgpool = nn.AvgPool3d((2, 2, 2), stride=1)  # over all that is left of it, as (2, 7, 7) is usually
    if small and name == "vgg11_bn":  # two layers of 4096 units have nine tenths of its weights
        layers = [nn.Linear(512 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1000)]
        model.classifier = nn.Sequential(*layers)
    return model


def example(name: str, *, small: bool = False) -> torch.Tensor:
    """Two random inputs of the usual size; small ones for quick checks (one, where the model takes no small ones)."""
    usual, least = MODELS[name]
    batch = 1 if small and usual == least else 2
    return torch.randn(batch, *(least if small else usual), generator=torch.Generator().manual_seed(1))
