"""The digits example in Lightning: a callback prunes while the trainer trains.

python examples/lightning_digits.py
"""

import torch
from digits import ResNet, train_data, val_data
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch.nn.functional import cross_entropy

from atograph.integrations.lightning import AutoTrainOnceCallback


class Digits(LightningModule):
    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.network, self.epochs = ResNet(), epochs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        images, labels = batch
        loss = cross_entropy(self(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs),
        }


def fit(epochs: int, **options: object) -> tuple[Digits, AutoTrainOnceCallback]:
    seed_everything(0)
    module, callback = Digits(epochs), AutoTrainOnceCallback(flops=0.3, round_to=2)
    Trainer(max_epochs=epochs, callbacks=[callback], logger=False, enable_checkpointing=False, **options).fit(
        module, train_data()
    )
    return module, callback


def accuracy(model) -> float:
    right = [model(images).argmax(1) == labels for images, labels in val_data()]
    return float(torch.cat(right).float().mean())


if __name__ == "__main__":
    module, callback = fit(epochs=40, accelerator="cpu", enable_model_summary=False)
    print(f"FLOPs     {callback.ato.graph.flops:,} -> {callback.slim.flops:,}")
    print(f"accuracy  masked {accuracy(module.eval()):.4f}, slim {accuracy(callback.slim):.4f}")
