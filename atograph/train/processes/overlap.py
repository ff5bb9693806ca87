"""Gradients averaged while the backward pass goes on: full buckets travel, and others are still being filled.

What `DistributedDataParallel` does, without its wrapper: a loss may call the bare module as it likes, and the module is
another one once a slim one has taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed
from torch.distributed import Work

BUCKET = 25 * 2**20
"""Bytes of a message (as `DistributedDataParallel` has it); a tensor that is larger travels alone."""


class Overlap:
    """The gradients of one step.

    Buckets are made of the parameters in reverse, about the order in which a backward pass comes to them, and are sent
    in this order by all processes. A gradient that is added to after its bucket was sent (some ways of checkpointing
    activations do so) makes all processes send the bucket once more.

    Args:
        parameters: those that are trained, the same in all processes.
        meeting: the device on which processes exchange tensors.
        finish: waits for a message.
    """

    def __init__(self, parameters: Sequence[Tensor], meeting: torch.device, finish: Callable[[Work], None]) -> None:
        self._parameters, self._meeting, self._finish = parameters, meeting, finish
        self._buckets = vectors(parameters[::-1])
        self._bucket_of = {id(each): number for number, bucket in enumerate(self._buckets) for each in bucket}
        self._missing = [{id(each) for each in bucket} for bucket in self._buckets]
        self._sent: list[tuple[Tensor, Work]] = []
        self._late = [0.0] * len(self._buckets)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send what a backward pass within the block completes."""
        handles = [parameter.register_post_accumulate_grad_hook(self._came) for parameter in self._parameters]  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def finish(self, count: int) -> None:
        """Send the rest, and put the mean over ``count`` processes in the place of each gradient.

        A process without a gradient counts as zero, where any has one.
        """
        while len(self._sent) < len(self._buckets):
            self._send()
        told = [float(parameter.grad is not None) for parameter in self._parameters] + self._late
        about = torch.tensor(told, device=self._meeting)
        self._finish(distributed.all_reduce(about, async_op=True))
        for parameter, have in zip(self._parameters, about.tolist(), strict=False):
            if have and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        late = about[len(self._parameters) :].tolist()
        for number, bucket in enumerate(self._buckets):
            flat, work = self._sent[number]
            self._finish(work)
            if late[number]:
                flat = self._flat(bucket)
                self._finish(distributed.all_reduce(flat, async_op=True))
            flat /= count
            for parameter, mean in split(flat, bucket):
                if parameter.grad is not None:
                    parameter.grad.copy_(mean)
        self._sent.clear()

    def _came(self, parameter: Tensor) -> None:
        number = self._bucket_of[id(parameter)]
        if number < len(self._sent):
            self._late[number] = 1.0
            return
        self._missing[number].discard(id(parameter))
        while len(self._sent) < len(self._buckets) and not self._missing[len(self._sent)]:
            self._send()

    @torch.no_grad()
    def _send(self) -> None:
        flat = self._flat(self._buckets[len(self._sent)])
        self._sent.append((flat, distributed.all_reduce(flat, async_op=True)))

    def _flat(self, bucket: Sequence[Tensor]) -> Tensor:
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in bucket]
        return flattened(gradients).to(self._meeting)


def vectors(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors that make one message each: of one type of number, in order, and about `BUCKET` bytes."""
    made: list[list[Tensor]] = []
    last: dict[torch.dtype, tuple[list[Tensor], int]] = {}
    for tensor in tensors:
        bucket, size = last.get(tensor.dtype, ([], 0))
        if not bucket or size + tensor.nbytes > BUCKET:
            bucket, size = [], 0
            made.append(bucket)
        bucket.append(tensor)
        last[tensor.dtype] = bucket, size + tensor.nbytes
    return made


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one type as one vector, a copy."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def split(flat: Tensor, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each tensor with its part of a vector that was made of tensors of these shapes."""
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return ((tensor, part.view(tensor.shape)) for tensor, part in zip(tensors, parts, strict=True))
