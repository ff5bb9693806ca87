"""Which part of the data each process of a training sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from atograph.train.saved.seeding import held_generators
from atograph.values.batches import batch_size, map_tensors


class Partition(Protocol):
    """One of the processes (`train.processes.replicas.Replicas`)."""

    @property
    def rank(self) -> int:
        """Its number."""

    @property
    def count(self) -> int:
        """How many there are."""

    def from_first(self, tensors: Sequence[Tensor]) -> None:
        """Put the first process's values in the place of each tensor."""


class InOrderOfFirst:
    """Passes that begin with the first process's state of the generators: an order that is drawn then is the same."""

    def __init__(self, data: Iterable[object], replicas: Partition) -> None:
        self.data, self._replicas = data, replicas

    def __iter__(self) -> Iterator[object]:
        held = [each for each in held_generators(self.data) if isinstance(each, torch.Generator)]
        for generator in (torch.default_generator, *held):
            state = generator.get_state()
            self._replicas.from_first([state])
            generator.set_state(state)
        return iter(self.data)

    def __len__(self) -> int:
        """Batches in one pass.

        Raises:
            TypeError: the data has no length.
        """
        return len(self.data)  # type: ignore[arg-type]


class Parts(InOrderOfFirst):
    """Every ``count``-th example of each batch, from a process's rank on."""

    def __init__(self, data: Iterable[object], replicas: Partition, even: bool) -> None:
        super().__init__(data, replicas)
        self._even = even

    def __iter__(self) -> Iterator[object]:
        rank, count = self._replicas.rank, self._replicas.count
        for batch in super().__iter__():
            size = batch_size(batch)
            mine = torch.arange(rank, size, count)
            if not len(mine) and not self._even:
                continue
            if not len(mine):  # fewer examples than processes
                mine = torch.tensor([rank % size])
            yield map_tensors(batch, partial(_some, size, mine))


def counted(batch_sampler: object) -> bool:
    """Whether its batches are all of one size, the last one aside."""
    return isinstance(getattr(batch_sampler, "batch_size", None), int)


def with_batches(loader: DataLoader[object], batch_sampler: Iterable[list[int]]) -> DataLoader[object]:
    """The same loader with other batches."""
    workers: dict[str, Any] = {}
    if loader.num_workers:
        workers = {"prefetch_factor": loader.prefetch_factor, "persistent_workers": loader.persistent_workers}
    return DataLoader(
        loader.dataset,
        batch_sampler=batch_sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        **workers,
    )


def _some(size: int, indices: Tensor, tensor: Tensor) -> Tensor:
    """Some rows of a tensor that has one for each of ``size`` examples; any other one as it is."""
    return tensor[indices.to(tensor.device)] if tensor.ndim and tensor.shape[0] == size else tensor
