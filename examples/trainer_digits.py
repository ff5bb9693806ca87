"""The digits example with the Trainer of transformers: a callback prunes while it trains.

python examples/trainer_digits.py
"""

import tempfile

import torch
from digits import ResNet, train_data, val_data
from torch import nn
from transformers import Trainer, TrainingArguments

from atograph.integrations.transformers import AutoTrainOnceCallback


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = ResNet()

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.network(images)
        return (
            {"logits": logits}
            if labels is None
            else {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}
        )


def train(epochs: int, **options: object) -> tuple[Digits, AutoTrainOnceCallback]:
    torch.manual_seed(0)
    model, callback = Digits(), AutoTrainOnceCallback(flops=0.3, round_to=2)
    data = [{"images": image, "labels": label} for image, label in train_data().dataset]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=64, learning_rate=2e-3, weight_decay=0.05,
            lr_scheduler_type="cosine", report_to="none", save_strategy="no", use_cpu=True, **options,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    return model, callback


def accuracy(model) -> float:
    right = [model(images=images)["logits"].argmax(1) == labels for images, labels in val_data()]
    return float(torch.cat(right).float().mean())


if __name__ == "__main__":
    model, callback = train(epochs=40)
    print(f"FLOPs     {callback.ato.graph.flops:,} -> {callback.slim.flops:,}")
    print(f"accuracy  masked {accuracy(model.eval()):.4f}, slim {accuracy(callback.slim):.4f}")
