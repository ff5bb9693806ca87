"""What the benchmarks of training train: networks of any width, their data, and the shape of one image."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.accuracy import fashion
from examples import digits


@dataclass(frozen=True)
class Domain:
    """One network and its data.

    Attributes:
        network: by its width, over the usual one.
        loaders: training and test batches, by what the command says and a seed.
        side: pixels of an image along each side, by what the command says.
    """

    network: Callable[[float], nn.Module]
    loaders: Callable[[argparse.Namespace, int], tuple[Iterable[Any], Iterable[Any]]]
    side: Callable[[argparse.Namespace], int]


def _fashion(options: argparse.Namespace, seed: int) -> tuple[Iterable[Any], Iterable[Any]]:
    return fashion.loaders(options.data, options.images, seed, options.shrink)


def _digits(_options: argparse.Namespace, seed: int) -> tuple[Iterable[Any], Iterable[Any]]:
    torch.manual_seed(seed)
    return digits.train_data(), digits.val_data()


DOMAINS: Mapping[str, Domain] = {
    **{
        name: Domain(network, _fashion, lambda options: 28 // options.shrink)
        for name, network in fashion.NETWORKS.items()
    },
    "digits": Domain(partial(fashion.resnet, (16, 16, 32, 32, 64, 64)), _digits, lambda _options: 8),
}
"""Fashion-MNIST with each of its networks, and the digits of scikit-learn with that of `examples/digits.py`."""
