"""What the functions that write ops get and give while torch.onnx traces: values of a file that is being made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import numpy as np
import onnx_ir as ir
from onnxscript import opset18


class Value(Protocol):
    """A tensor without data. torch.onnx reads annotations: a property here would make a type of tensors of it."""

    shape: Sequence[Any]
    """Numbers, and symbols for dynamic sizes."""
    dtype: ir.DataType


class Opset(Protocol):
    """The ops of ONNX as functions."""

    def RNN(self, *inputs: Value, **attributes: object) -> tuple[Value, Value]:
        """What all steps give, and the last state."""

    def __getattr__(self, name: str) -> Callable[..., Value]:
        """Any op with one output."""


op = cast("Opset", opset18)


def integers(*values: int) -> Value:
    """A constant vector."""
    return op.Constant(value=ir.tensor(np.array(values, np.int64)))
