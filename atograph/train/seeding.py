"""Determinism: one seed for every generator that a training run can draw from.

On the CPU, runs with equal settings, data, versions and number of threads are equal bit for bit. What cannot
be promised: on CUDA, cuDNN and atomic additions (``index_add_`` in the projection, some backward kernels) may
sum in another order from run to run; data loaders with workers are as deterministic as their own
``worker_init_fn``; a model built before `seed_everything` was called has the initial weights of whatever seed
was set then.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_everything(seed: int) -> None:
    """Seed torch (every device), `random`, and numpy's global generator if numpy is loaded."""
    random.seed(seed)
    torch.manual_seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


@contextmanager
def own_randomness(seed: int | None = None) -> Iterator[None]:
    """Leave torch's global CPU generator as found: what runs inside does not shift the data order outside.

    With ``seed``, what runs inside draws from that seed.
    """
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield
