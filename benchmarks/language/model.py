"""A small causal language model of characters, and text to train it on: what `benchmarks.language` trains."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

HEADS = 4
PIECE = 16_384
"""Characters; of each twenty pieces one is held out."""


class Block(nn.Module):
    """Attention to what came before and a layer in between, each added to what it reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, width] to the same."""
        batch, length, _width = x.shape
        y = self.norm(x)
        q, k, v = (
            layer(y).view(batch, length, HEADS, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, -1))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """[N, L] characters to [N, L, letters] logits of the next one each.

    Args:
        letters: how many characters there are.
        context: the largest L.
        width: of the stream between the blocks, a multiple of the four heads.
        layers: blocks.
    """

    def __init__(self, letters: int, context: int, width: int, layers: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, width), nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        nn.init.normal_(self.letters.weight, std=0.02)  # as small as what the blocks add
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, ids: Tensor) -> Tensor:
        """[N, L] to [N, L, letters]."""
        x = self.letters(ids) + self.places[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def bits(model: nn.Module, batch: Any) -> Tensor:
    """Bits per character over all positions of a batch of windows."""
    return cross_entropy(model, batch) / torch.log(torch.tensor(2.0))


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """The loss of a batch of windows."""
    ids, following = batch
    return functional.cross_entropy(model(ids).transpose(1, 2), following)


@cache
def text_of(path: Path | None) -> str:
    """The text: of a file, or else the King James Bible, as the program of Debian's package prints it, by verses.

    It ends the command where there is none.
    """
    if path is not None:
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            sys.exit(f"--text: {path} cannot be read: {error.strerror}.")
    program = shutil.which("bible")
    if program is None:
        sys.exit("There is no text: apt-get install bible-kjv, or give a file of plain text with --text.")
    printed = subprocess.run([program, "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True).stdout
    return re.sub(r"^\S+ ", "", printed, flags=re.MULTILINE)


@cache
def encoded(path: Path | None) -> tuple[Tensor, Tensor, int]:
    """Characters by number of what is trained on and of what is held out, and how many there are."""
    text = text_of(path)
    known = sorted(set(text))
    numbers = {letter: number for number, letter in enumerate(known)}
    ids = torch.tensor([numbers[letter] for letter in text], dtype=torch.uint8 if len(known) < 256 else torch.int32)
    pieces = ids.split(PIECE)
    train = torch.cat([piece for at, piece in enumerate(pieces) if at % 20 != 19])
    held_out = [piece for at, piece in enumerate(pieces) if at % 20 == 19]
    if not held_out:
        sys.exit(f"The text has {len(text):,} characters, and a benchmark needs {20 * PIECE:,} or more.")
    return train, torch.cat(held_out), len(known)


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of a text that do not overlap: what comes in, and what follows each character of it."""

    def __init__(self, ids: Tensor, context: int) -> None:
        self.ids, self.context = ids, context

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.context

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self.ids[index * self.context : (index + 1) * self.context + 1].long()
        return window[:-1], window[1:]


def loaders(
    path: Path | None, context: int, windows: int, held_out: int, batch: int, seed: int
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Batches to train on, other ones each epoch, and those that are held out.

    Args:
        path: as in `text_of`.
        context: characters of a window.
        windows: of an epoch, drawn from all.
        held_out: windows that are measured on, at even distances.
        batch: windows of a batch.
        seed: of the drawing.
    """
    train, rest, _letters = encoded(path)
    trained, measured = Windows(train, context), Windows(rest, context)
    drawn = RandomSampler(
        trained, num_samples=min(windows, len(trained)), generator=torch.Generator().manual_seed(seed)
    )
    chosen = torch.linspace(0, len(measured) - 1, min(held_out, len(measured))).long().tolist()
    pairs = [torch.stack(each) for each in zip(*(measured[index] for index in chosen), strict=True)]
    return DataLoader(trained, batch, sampler=drawn, drop_last=True), DataLoader(TensorDataset(*pairs), 4 * batch)
