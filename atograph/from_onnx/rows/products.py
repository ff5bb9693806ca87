"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from atograph.from_onnx.op import Op
from atograph.from_onnx.table import Value, row


@row("MatMul", weights=(0, 1))
def matmul(op: Op, one: Value, other: Value) -> Tensor:
    """As numpy has it."""
    return torch.matmul(op.tensor(one), op.tensor(other))


@row("Gemm", weights=(0, 1, 2))
def gemm(op: Op, one: Value, other: Value, added: Value = None) -> Tensor:
    """A product of two matrices, and something that is added to it."""
    a, b = op.tensor(one), op.tensor(other)
    alpha, beta = op.attribute("alpha", 1.0), op.attribute("beta", 1.0)
    a = a.t() if op.attribute("transA", 0) else a
    c = None if added is None else op.tensor(added, a)
    if alpha == 1.0 and beta == 1.0 and op.attribute("transB", 0) and (c is None or c.dim() == 1):
        return F.linear(a, b, c)
    product = torch.matmul(a, b.t() if op.attribute("transB", 0) else b)
    product = product if alpha == 1.0 else product * alpha
    return product if c is None or beta == 0.0 else product + (c if beta == 1.0 else c * beta)


@row("Einsum", weights=(0, 1))
def einsum(op: Op, *values: Value) -> Tensor:
    """By a formula."""
    made: Tensor = torch.einsum(op.attributes["equation"].replace(" ", ""), *(op.tensor(value) for value in values))
    return made
