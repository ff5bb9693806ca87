"""The experiments of Auto-Train-Once (Wu et al., CVPR 2024, arXiv 2403.14729) as a table: what is trained, and how.

Where a figure comes from:

- *code*: the authors' code, https://github.com/xidongwu/AutoTrainOnce: its README's commands, and the run scripts and
  logs of its history (up to commit 60066db), which give the arguments, the FLOPs and the accuracy of each run.
- *quoted*: somebody else gives it as the paper's (docs/results/paper.md says who).
- *unchecked*: as it is remembered from the paper's tables; compare it with them before you rely on it.
- *ours*: a choice of ours, because there is nothing to go by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from benchmarks.paper import networks


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: in all; `TrainSettings` says which part of them belongs to the search.
        batch: images in a batch, of all processes together.
        optimizer: as in `TrainSettings`.
        lr: peak rate, for that batch.
        weight_decay: per step, times the rate (of `adamw`) or added to the gradient (of `sgd`).
        warmup: epochs in which the rate climbs; a cosine follows.
        smoothing: of the labels.
        mixup: alpha of Zhang et al., arXiv 1710.09412; 0: images are not mixed.
        jitter: whether colours are changed at random.
        more: other fields of `TrainSettings`.
    """

    epochs: int
    batch: int
    optimizer: Literal["sgd", "adamw"]
    lr: float
    weight_decay: float
    warmup: int = 5
    smoothing: float = 0.0
    mixup: float = 0.0
    jitter: bool = False
    more: tuple[tuple[str, Any], ...] = ()

    def settings(self) -> dict[str, Any]:
        """What of it are fields of `TrainSettings`."""
        return {
            "epochs": self.epochs,
            "optimizer": self.optimizer,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "warmup": self.warmup / self.epochs,
            **dict(self.more),
        }


@dataclass(frozen=True)
class Row:
    """One experiment.

    Attributes:
        network: makes it, for a number of classes.
        data: ``cifar10``, ``cifar100`` or ``imagenet``.
        flops: share of the network's FLOPs to keep.
        source: where that share comes from (see above).
        recipe: how it is trained.
    """

    network: Callable[[int], nn.Module]
    data: Literal["cifar10", "cifar100", "imagenet"]
    flops: float
    source: Literal["code", "quoted", "unchecked", "ours"]
    recipe: Recipe


# Epochs: quoted (300). All else is ours: the rate for this batch is He et al.'s (arXiv 1512.03385, section 4.2).
_CIFAR = Recipe(epochs=300, batch=128, optimizer="sgd", lr=0.1, weight_decay=5e-4)

# All of it: code (the logs rn50_lmd0_* and rn34_lmd0_56, one recipe for both; the README gives 1024 images in a batch
# for ResNet-50). But what is in `more` is ours: 16 batches as large as these would be 5 GB of main memory, and they are
# a part of each checkpoint.
_RESNET = Recipe(
    epochs=245, batch=512, optimizer="adamw", lr=1e-3, weight_decay=0.05, smoothing=0.1, mixup=0.2, jitter=True,
    more=(("controller_batches", 8), ("checkpoint_seconds", 1800.0)),
)  # fmt: skip

# All of it: code (the log mbv2_lmd0_66_adam_cos). It started from trained weights there.
_MOBILENET = replace(_RESNET, epochs=305, batch=1024, mixup=0.0, jitter=False)

ROWS = {
    "resnet18-cifar10": Row(networks.small_resnet18, "cifar10", 0.202, "unchecked", _CIFAR),
    "resnet56-cifar10": Row(networks.resnet56, "cifar10", 0.45, "unchecked", _CIFAR),
    # Quoted: 1.84 times fewer FLOPs.
    "mobilenetv2-cifar10": Row(networks.small_mobilenet_v2, "cifar10", 0.543, "quoted", _CIFAR),
    "resnet18-cifar100": Row(networks.small_resnet18, "cifar100", 0.599, "unchecked", _CIFAR),
    "resnet34-cifar100": Row(networks.small_resnet34, "cifar100", 0.505, "unchecked", _CIFAR),
    # Not known to be one of the paper's: ResNet-34's budget and recipe.
    "resnet18-imagenet": Row(networks.resnet18, "imagenet", 0.559, "ours", _RESNET),
    "resnet34-imagenet": Row(networks.resnet34, "imagenet", 0.559, "code", _RESNET),
    # The README's budget; the logs have 0.379 and 0.438, too.
    "resnet50-imagenet": Row(networks.resnet50, "imagenet", 0.288, "code", _RESNET),
    "mobilenetv2-imagenet": Row(networks.mobilenet_v2, "imagenet", 0.7, "code", _MOBILENET),
}
"""The experiments by name."""
