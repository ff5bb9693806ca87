"""One training in several processes: what they agree on, and which part of the data each of them sees.

The processes are those that ``accelerate launch`` (or ``torchrun``) started, on one machine or on several. Each of them
holds the whole model; gradients, those of the controller included, are averaged, so that all hold the same weights and
masks. `Alone` is the one process of any other run.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, IterableDataset

from atograph.passes.errors import UserError
from atograph.train.processes.overlap import Overlap, flattened, split, vectors
from atograph.train.processes.partners import Gone, Partners
from atograph.train.processes.parts import InOrderOfFirst, Parts, counted, with_batches
from atograph.train.saved.checkpoints import pack, unpack
from atograph.train.saved.weights import is_sharded

_PATIENCE = timedelta(days=1)
"""How long a process waits for another one: exporting and measuring a large model takes a while."""


class Replicas(Protocol):
    """The processes of one training."""

    @property
    def rank(self) -> int:
        """The number of this process; 0 is the one that writes and prints."""

    @property
    def count(self) -> int:
        """How many processes there are."""

    @property
    def device(self) -> torch.device | None:
        """The device of this process; None: whatever the settings say."""

    def sum_(self, tensor: Tensor) -> None:
        """Put the sum over all processes in the place of a tensor."""

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over all processes in the place of each tensor."""

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """The same for the gradients; a process without one counts as zero, where any has one.

        Those of sharded parameters are means already, and stay.
        """

    def averaging(self, parameters: Iterable[Tensor]) -> AbstractContextManager[None]:
        """The same for the gradients that a backward pass within the block makes, and those that are there before.

        Most of them travel while the pass goes on. In the end all are the mean.
        """

    def from_first(self, tensors: Sequence[Tensor]) -> None:
        """Put the first process's values in the place of each tensor."""

    def total(self, value: float) -> float:
        """The sum over all processes."""

    def gather(self, value: object) -> list[Any]:
        """What each process gives, by rank; in all but the first an empty list.

        Args:
            value: what a checkpoint can hold.
        """

    def share_of(self, examples: int) -> float:
        """What this process's mean over so many examples weighs in the mean over all processes; 1 for equal parts."""

    def part_of(self, data: Iterable[object], even: bool) -> Iterable[object]:
        """This process's part of each batch.

        Args:
            data: batches.
            even: every process gets as many batches, the last one completed by examples from the start where it has to
                be; else each example comes once, and some processes may get fewer batches.
        """

    def wait(self) -> None:
        """Until every process has come here.

        Raises:
            Gone: as all that exchanges something: another process has refused something, or does not answer.
        """

    def telling(self) -> AbstractContextManager[None]:
        """Within the block, what this process raises is told to all others, who end then as well."""


class Alone:
    """The only process."""

    rank, count = 0, 1
    device: torch.device | None = None

    def sum_(self, tensor: Tensor) -> None:
        """It is the sum."""

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """They are their own mean."""

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """They are their own mean."""

    def averaging(self, parameters: Iterable[Tensor]) -> AbstractContextManager[None]:
        """They are their own mean."""
        return nullcontext()

    def from_first(self, tensors: Sequence[Tensor]) -> None:
        """It is this one."""

    def total(self, value: float) -> float:
        """The value."""
        return value

    def gather(self, value: object) -> list[Any]:
        """The value."""
        return [value]

    def share_of(self, examples: int) -> float:
        """All of it."""
        return 1.0

    def part_of(self, data: Iterable[object], even: bool) -> Iterable[object]:
        """All of it."""
        return data

    def wait(self) -> None:
        """Nobody else comes."""

    def telling(self) -> AbstractContextManager[None]:
        """Nobody listens."""
        return nullcontext()


class Several:
    """The processes of torch's default process group, through Hugging Face Accelerate."""

    def __init__(self, device: str) -> None:
        try:
            from accelerate import Accelerator, InitProcessGroupKwargs
        except ImportError as error:
            raise UserError(
                "several processes train one model with the package accelerate, which is not installed.",
                hint="pip install accelerate",
            ) from error
        engine = Accelerator(
            cpu=device == "cpu",
            mixed_precision="no",  # see `compute.autocast`
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
        self.device: torch.device = engine.device
        self.rank, self.count = distributed.get_rank(), distributed.get_world_size()
        from torch.distributed import distributed_c10d

        self._partners = Partners(self.rank, self.count, distributed_c10d._get_default_store())
        nccl = distributed.get_backend() == "nccl"
        self._meeting = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")

    @torch.no_grad()
    def sum_(self, tensor: Tensor) -> None:
        """In one message."""
        there = tensor.to(self._meeting)
        self._sum_(there)
        if there is not tensor:
            tensor.copy_(there)

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """In few messages, each of one type of number."""

        def mean(flat: Tensor) -> None:
            self._sum_(flat)
            flat /= self.count

        self._together(tensors, mean)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """As `averaging`, after the backward pass."""
        with self.averaging(parameters):
            pass

    @contextmanager
    def averaging(self, parameters: Iterable[Tensor]) -> Iterator[None]:
        """In one message for each bucket of gradients, and one about who has which."""
        trained = [each for each in parameters if each.requires_grad and not is_sharded(each)]
        overlap = Overlap(trained, self._meeting, self._partners.finish)
        with overlap.sending():
            yield
        overlap.finish(self.count)

    def from_first(self, tensors: Sequence[Tensor]) -> None:
        """In few messages, each of one type of number."""
        self._together(tensors, lambda flat: self._partners.finish(distributed.broadcast(flat, 0, async_op=True)))

    def total(self, value: float) -> float:
        """The sum, in float64."""
        found = torch.tensor(value, dtype=torch.float64, device=self._meeting)
        self._sum_(found)
        return float(found)

    def gather(self, value: object) -> list[Any]:
        """As bytes, from process to process."""
        self.wait()
        found: list[Any] | None = None if self.rank else [None] * self.count
        distributed.gather_object(pack(value), found)
        return [unpack(*each) for each in found or ()]

    def share_of(self, examples: int) -> float:
        """After one message."""
        return examples * self.count / self.total(float(examples))

    def part_of(self, data: Iterable[object], even: bool) -> Iterable[object]:
        """Of a DataLoader each process loads its own part only; of anything else all do, and each takes its part.

        Raises:
            UserError: the batch size of a DataLoader is not a multiple of the number of processes.
        """
        loader = getattr(data, "made", data)  # what a SPEC's function returned
        batches = getattr(loader, "batch_sampler", None)
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or not counted(batches):
            return Parts(data, self, even)
        from accelerate.data_loader import BatchSamplerShard

        try:
            own = BatchSamplerShard(batches, self.count, self.rank, split_batches=True, even_batches=even)
        except ValueError as error:
            raise UserError(
                f"the DataLoader's batches cannot be shared between {self.count} processes: {error}",
                where="train_data or val_data",
                hint="Make the batch size, of all processes together, a multiple of their number.",
            ) from error
        return InOrderOfFirst(with_batches(loader, own), self)

    def leave(self) -> None:
        """Nothing is exchanged any more."""
        self._partners.leave()

    def wait(self) -> None:
        """Until every process has come here."""
        self._partners.finish(distributed.barrier(async_op=True))

    @contextmanager
    def telling(self) -> Iterator[None]:
        """But for what another one has told."""
        try:
            yield
        except Gone:
            raise
        except BaseException as error:
            self._partners.check_refusal(error)
            self._partners.refuse(error)
            raise

    def _sum_(self, tensor: Tensor) -> None:
        self._partners.finish(distributed.all_reduce(tensor, async_op=True))

    def _together(self, tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> None:
        """Exchange tensors in place, many in one vector."""
        for same in vectors([tensor.detach() for tensor in tensors]):
            flat = flattened(same).to(self._meeting)
            exchange(flat)
            for tensor, part in split(flat, same):
                tensor.copy_(part)


@cache
def join(device: str = "auto") -> Replicas:
    """The processes that this one was started with.

    Args:
        device: ``cpu`` keeps them from GPUs.

    Raises:
        UserError: there are several, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone()
    started = distributed.is_initialized()
    several = Several(device)
    if not started:
        atexit.register(distributed.destroy_process_group)
    atexit.register(several.leave)  # before that
    return several
