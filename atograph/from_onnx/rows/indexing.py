"""What takes elements by positions, and what puts them there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atograph.from_onnx.known import Known
from atograph.from_onnx.op import Op, all_known
from atograph.from_onnx.table import Value, row

_FAR = 2**31 - 1


@row("Gather", weights=(0,))
def gather(op: Op, x: Value, places: Value) -> Value:
    """Slices along an axis, by their positions."""
    axis = op.attribute("axis", 0)
    if all_known(x, places):
        index = np.array(places.array.tolist(), dtype=np.int64)
        made = np.empty((), dtype=object)
        taken = np.take(x.array, index, axis)
        if np.ndim(taken) == 0 and not isinstance(taken, np.ndarray):
            made[()] = taken
            taken = made
        return Known(taken, x.dtype, x.sized)
    x = op.tensor(x)
    axis %= x.dim()
    if isinstance(places, Known) and places.array.ndim == 0:
        return x.select(axis, places.item())
    if isinstance(places, Known):
        shape, flat = places.array.shape, places.ints()
        run = bool(flat) and not places.sized and flat == [*range(flat[0], flat[0] + len(flat))]
        run = run and (flat[0] >= 0 or flat[-1] < 0)  # from the last to the first is no run
        taken = (
            x.narrow(axis, flat[0] % x.shape[axis], len(flat))
            if run
            else x.index_select(axis, _flat(op, places, x, axis))
        )
        return taken if len(shape) == 1 else taken.unflatten(axis, shape)
    if axis == 0 and x.dim() == 2 and isinstance(x, torch.nn.Parameter):
        return F.embedding(places, x)
    flat_places = places.reshape(-1)
    taken = x.index_select(axis, torch.where(flat_places < 0, flat_places + x.shape[axis], flat_places))
    return taken if places.dim() == 1 else taken.reshape([*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]])


def _flat(op: Op, places: Known, x: Tensor, axis: int) -> Tensor:
    """Positions as a row; those that count from the end are told from the front."""
    if places.sized:
        return op.tensor(places).reshape(-1)
    told = [place % x.shape[axis] if place < 0 else place for place in places.ints()]
    return torch.tensor(told, dtype=torch.int64)


@row("Slice", known=(1, 2, 3, 4))
def slice_(
    op: Op, x: Value, starts: Value = None, ends: Value = None, axes: Value = None, steps: Value = None
) -> Value:
    """From, to, along, in steps."""
    begins = op.from_attribute_or_input("starts", starts) or []
    stops = op.from_attribute_or_input("ends", ends) or []
    along = op.from_attribute_or_input("axes", axes) or [*range(len(begins))]
    by = op.numbers(steps, [1] * len(begins))
    rank = x.array.ndim if isinstance(x, Known) else x.dim()
    if isinstance(x, Known):
        index: list[Any] = [slice(None)] * rank
        for begin, stop, axis, step in zip(begins, stops, along, by, strict=True):
            begin = max(begin, -x.array.shape[axis]) if step < 0 else begin
            index[axis % rank] = slice(begin, None if step < 0 and stop < -_FAR else stop, step)
        return Known(x.array[tuple(index)], x.dtype, x.sized)
    for begin, stop, axis, step in zip(begins, stops, along, by, strict=True):
        x = _sliced(x, axis % rank, begin, stop, step)
    return x


def _sliced(x: Tensor, axis: int, begin: Any, stop: Any, step: int) -> Tensor:
    """One dim of a slice; backwards it is turned first."""
    index: list[Any] = [slice(None)] * x.dim()
    if step < 0:
        length = x.shape[axis]
        first = max(min(begin + length if begin < 0 else begin, length - 1), 0)
        last = -1 if stop < -length else stop + length if stop < 0 else stop
        index[axis] = slice(length - 1 - first, length - 1 - last, -step)
        return x.flip(axis)[tuple(index)]
    index[axis] = slice(
        None if type(begin) is int and begin == 0 else begin, None if type(stop) is int and stop >= _FAR else stop, step
    )
    return x if index[axis] == slice(None, None, 1) else x[tuple(index)]


@row("GatherElements")
def gather_elements(op: Op, x: Value, places: Value) -> Tensor:
    """An element for each position."""
    x, places = op.tensor(x), op.tensor(places)
    axis = op.attribute("axis", 0)
    made: Tensor = x.gather(axis, torch.where(places < 0, places + x.shape[axis], places))
    return made


@row("GatherND")
def gather_nd(op: Op, x: Value, places: Value) -> Tensor:
    """Slices by rows of positions."""
    x, places, ahead = op.tensor(x), op.tensor(places), op.attribute("batch_dims", 0)
    index: list[Any] = []
    for dim in range(ahead):
        shape = [1] * (places.dim() - 1)
        shape[dim] = -1
        index.append(torch.arange(places.shape[dim]).reshape(shape))
    made: Tensor = x[(*index, *places.unbind(-1))]
    return made


_SCATTERED = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@row("ScatterElements", "Scatter")
def scatter_elements(op: Op, x: Value, places: Value, updates: Value) -> Tensor:
    """An element put at each position."""
    x, places = op.tensor(x), op.tensor(places)
    updates = op.tensor(updates, x)
    axis, how = op.attribute("axis", 0), op.attribute("reduction", "none")
    places = torch.where(places < 0, places + x.shape[axis], places)
    made: Tensor = (
        x.scatter(axis, places, updates) if how == "none" else x.scatter_reduce(axis, places, updates, _SCATTERED[how])
    )
    return made


@row("ScatterND")
def scatter_nd(op: Op, x: Value, places: Value, updates: Value) -> Value:
    """Slices put at rows of positions."""
    how = op.attribute("reduction", "none")
    if how not in ("none", "add"):
        raise op.refuse(f"it puts things together by {how}")
    if all_known(x, places, updates) and how == "none":
        made = x.array.copy()
        for row_of, value in zip(
            places.array.reshape(-1, places.array.shape[-1]), updates.array.reshape(-1), strict=True
        ):
            made[tuple(row_of)] = value
        return Known(made, x.dtype, x.sized or updates.sized)
    x, places = op.tensor(x), op.tensor(places)
    return x.index_put(tuple(places.unbind(-1)), op.tensor(updates, x), accumulate=how == "add")


@row("OneHot", known=(1,))
def one_hot(op: Op, places: Value, depth: Value, values: Value) -> Tensor:
    """One value at each position, and another elsewhere."""
    places, length = op.tensor(places).to(torch.int64), op.number(depth)
    off, on = values.ints() if isinstance(values, Known) else values.unbind()
    axis = op.attribute("axis", -1)
    axis = axis + places.dim() + 1 if axis < 0 else axis
    shape = [1] * (places.dim() + 1)
    shape[axis] = -1
    hit = torch.where(places < 0, places + length, places).unsqueeze(axis) == torch.arange(length).reshape(shape)
    if isinstance(on, Tensor):
        return torch.where(hit, on, off)
    dtype = op.wide if values.dtype == torch.float32 else values.dtype
    return torch.where(hit, torch.full((), on, dtype=dtype), torch.full((), off, dtype=dtype))


@row("ReverseSequence")
def reverse_sequence(op: Op, x: Tensor, lengths: Value) -> Tensor:
    """Each sequence backwards, up to its length."""
    time, batch = op.attribute("time_axis", 0), op.attribute("batch_axis", 1)
    place = torch.arange(x.shape[time])[:, None]
    ends = op.tensor(lengths)[None]
    index = torch.where(place < ends, ends - 1 - place, place)
    index = index if time < batch else index.t()
    shape = [1] * x.dim()
    shape[time], shape[batch] = x.shape[time], x.shape[batch]
    return x.gather(time, index.reshape(shape).expand(x.shape))
