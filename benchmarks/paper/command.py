"""The paper's own experiments: ``python -m benchmarks.paper ROW --data DIR``.

ROW is one of the table in `benchmarks.paper.rows`. DIR holds the binary archive of CIFAR-10 or CIFAR-100 (or the folder
in it), or the images of ImageNet as train/CLASS/*.JPEG and val/CLASS/*.JPEG.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from atograph.cli.compress import train_settings
from atograph.passes.cost.share import share_of
from atograph.passes.errors import UserError
from atograph.run import compress
from atograph.run.compress import Job, Result
from atograph.spec.example_inputs import as_inputs
from atograph.spec.init_weights import load_init
from atograph.terminal.console import Console
from atograph.train.saved.seeding import seed_everything
from atograph.train.settings import TrainSettings
from atograph.train.settings import settings_of as checked_settings
from atograph.train.task import Task
from benchmarks.common.published import PUBLISHED
from benchmarks.paper import cifar, imagenet
from benchmarks.paper.rows import ROWS, Row


@dataclass(frozen=True)
class TrainingLoss:
    """Cross-entropy with smoothed labels, of images that are mixed in pairs.

    In eval mode, where the controller learns, it is the plain one, as in the authors' code.

    Attributes:
        smoothing: of the labels.
        mixup: alpha of Zhang et al., arXiv 1710.09412; 0: images are not mixed.
    """

    smoothing: float
    mixup: float

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean over a batch of images [N, 3, H, W] and classes [N], a scalar."""
        images, labels = batch
        if not model.training:
            return nn.functional.cross_entropy(model(images), labels)
        if not self.mixup:
            return nn.functional.cross_entropy(model(images), labels, label_smoothing=self.smoothing)
        share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
        other = torch.randperm(len(labels)).to(labels.device)
        logits = model(torch.lerp(images[other], images, share))
        losses = [
            nn.functional.cross_entropy(logits, each, label_smoothing=self.smoothing)
            for each in (labels, labels[other])
        ]
        return share * losses[0] + (1 - share) * losses[1]


def run(name: str, options: argparse.Namespace, console: Console) -> Result:
    """Train and compress one row, as the options of `main` say.

    Raises:
        UserError: data, budget, settings or folder cannot be used.
    """
    row, settings = ROWS[name], settings_of(name, options)

    def make() -> Job:
        seed_everything(settings.seed)  # of the initial weights, and of the data's order
        train, val, classes, side = _data(row, options)
        model = row.network(classes)
        if options.init is not None:
            load_init(model, options.init)
        recipe, where = row.recipe, f"the row {name}"
        loss = TrainingLoss(recipe.smoothing, recipe.mixup) if recipe.smoothing or recipe.mixup else None
        return Job(
            name=name, where=where, model=model, inputs=as_inputs(torch.zeros(2, 3, side, side), where=where),
            task=Task(train, val, loss=loss), settings=settings, baseline=options.baseline, opset=None,
            init=options.init,
        )  # fmt: skip

    return compress.run(make, settings, out=options.out, force=options.force, resume=options.resume, console=console)


def settings_of(name: str, options: argparse.Namespace) -> TrainSettings:
    """A row's training settings, with those in their place that were given.

    Raises:
        UserError: one that is given does not exist or does not fit.
    """
    if options.flops is not None:
        share_of(options.flops, "--flops")
    given = {"method": "ato"} | {each: getattr(options, each) for each in ("flops", "epochs", "device", "seed")}
    changed = train_settings(given, options.set).model_dump(exclude_unset=True)
    published = PUBLISHED if options.as_published else {}
    row = ROWS[name]
    return checked_settings({"flops": row.flops, **row.recipe.settings(), **published, **changed})


def _data(row: Row, options: argparse.Namespace) -> tuple[DataLoader[Any], DataLoader[Any], int, int]:
    """Training and validation batches, the number of classes, and the side of the images."""
    batch = options.batch or row.recipe.batch
    limit = options.limit
    half = None if limit is None else max(limit // 2, 1)
    if row.data == "imagenet":
        classes = imagenet.classes(options.data)
        shape = {"size": options.size or 224, "workers": options.workers}
        train = imagenet.train_data(options.data, batch, jitter=row.recipe.jitter, limit=limit, **shape)
        val = imagenet.val_data(options.data, limit=half, **shape)
        return train, val, classes, shape["size"]
    if options.size is not None:
        raise UserError("--size is for the rows of ImageNet: the images of CIFAR are 32 x 32.")
    form = cifar.FORMS[row.data]
    train = cifar.train_data(options.data, form, batch, limit)
    return train, cifar.val_data(options.data, form, half), form.classes, cifar.SIDE


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--flops", type=float, metavar="SHARE", help="of the FLOPs to keep (default: the row's)")
    parser.add_argument("--epochs", type=_count, metavar="N", help="default: the row's")
    parser.add_argument(
        "--batch", type=_count, metavar="N", help="images in a batch (default: the row's); see --set lr"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/ROW")
    parser.add_argument("--force", action="store_true", help="replace a run that is there")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--device", help="auto (the default), cpu, cuda, ...")
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument("--init", type=Path, metavar="FILE", help="initial weights, .safetensors or .pt")
    parser.add_argument("--baseline", action="store_true", help="train the dense network the same way first")
    parser.add_argument("--as-published", action="store_true", help="with the search's schedule of the authors' code")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other training setting")
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="that read ImageNet (default: 8)")
    parser.add_argument("--size", type=_count, metavar="PIXELS", help="of ImageNet's crops (default: 224)")
    parser.add_argument("--limit", type=_count, metavar="N", help="only N training images, and half as many others")
    return parser


def main() -> None:
    """Run one row, and print what came of it."""
    command = parser()
    options = command.parse_args()
    options.out = options.out or Path("runs", options.row)
    console = Console()
    try:
        result = run(options.row, options, console)
    except UserError as error:
        command.exit(2, f"error: {error}\n")
    console.report(result.report)
    console.say(f"written to {options.out}")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
