"""What ExecuTorch does in a process of its own (`child_process`): files by number, their inputs by position."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from executorch.runtime import Runtime
from numpy.typing import NDArray

_BFLOAT16 = 15
"""What ExecuTorch has for it among its types of elements (``scalar_type.h``)."""

_files: dict[int, Any] = {}


def load(path: str) -> dict[str, object]:
    """Load a file.

    Args:
        path: the file.

    Returns:
        The file's number, and what it says of its inputs: the largest sizes that it has memory for.
    """
    with _told():
        method = Runtime.get().load_program(path).load_method("forward")
    number = max(_files, default=0) + 1
    _files[number] = method
    infos = [_info(method, at) for at in range(method.metadata.num_inputs())]
    return {
        "number": number,
        "inputs": [
            {"name": str(at), "type": "", "shape": list(info.sizes())}
            for at, info in enumerate(infos)
            if info is not None
        ],
        "metadata": {},
        "threads": 0,
    }


def _info(method: Any, at: int) -> Any:
    with suppress(Exception):  # an input that is no tensor
        return method.metadata.input_tensor_meta(at)
    return None


def close(number: int) -> None:
    """Forget a file."""
    _files.pop(number, None)


def run(number: int, feed: Mapping[str, object]) -> list[NDArray[np.generic]]:
    """The outputs of a file, for inputs in order; numpy has no bfloat16, so values in that come and go in float32."""
    method = _files[number]
    given = [
        _tensor(value, _info(method, at)) if isinstance(value, np.ndarray) else value
        for at, value in enumerate(feed.values())
    ]
    with _told():
        values = method.execute(given)
        return [np.array((value.float() if value.dtype == torch.bfloat16 else value).numpy()) for value in values]


def _tensor(value: NDArray[np.generic], info: Any) -> torch.Tensor:
    tensor = torch.from_numpy(value)
    return tensor.bfloat16() if info is not None and info.dtype() == _BFLOAT16 else tensor


@contextmanager
def _told() -> Iterator[None]:
    """Within it, errors say what ExecuTorch has written beside them: itself it raises a number."""
    start = os.lseek(2, 0, os.SEEK_CUR)  # a file: `child_process`
    try:
        yield
    except RuntimeError as error:
        said = os.pread(2, 4000, start).decode(errors="replace").splitlines()
        lines = [line.partition("] ")[2] for line in said if not line.startswith("[cpuinfo_utils")]
        raise RuntimeError("; ".join([*filter(None, lines[:2]), str(error)])) from error
