"""Images of other sizes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atograph.from_onnx.op import Op
from atograph.from_onnx.table import Value, row

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
_DYADIC = 1024
"""Of factors that are multiples of one part of this, products with sizes are exact in float32."""

_PLACED = ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")


@row("Resize", known=(1, 2, 3))
def resize(op: Op, x: Tensor, *rest: Value) -> Tensor:
    """To sizes, or by scales."""
    scales, sizes = (rest[0] if rest else None, None) if op.opset < 11 else (*rest[1:3], None, None)[:2]
    axes = [axis % x.dim() for axis in op.attribute("axes") or range(x.dim())]
    policy = op.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        raise op.refuse(f"it keeps the aspect ratio ({policy})")
    if op.attribute("antialias", 0) or op.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise op.refuse("it is antialiased, or crops")
    mode = op.attribute("coordinate_transformation_mode", "half_pixel" if op.opset >= 11 else "asymmetric")
    by, to = op.numbers(scales, []), op.numbers(sizes, [])
    factors: list[Any] = [1.0] * x.dim()
    target: list[Any] = [*x.shape]
    for index, axis in enumerate(axes):
        if to:
            target[axis], factors[axis] = to[index], None
        else:
            factors[axis] = by[index]
            target[axis] = _scaled(x.shape[axis], by[index])
    return _resized(op, x, target, factors, op.attribute("mode", "nearest"), mode)


@row("Upsample", known=(1,))
def upsample(op: Op, x: Tensor, scales: Value = None) -> Tensor:
    """By scales, as before opset 10."""
    by = op.from_attribute_or_input("scales", scales) or []
    target = [_scaled(length, factor) for length, factor in zip(x.shape, by, strict=True)]
    return _resized(op, x, target, by, op.attribute("mode", "nearest"), "asymmetric")


def _scaled(length: Any, factor: float) -> Any:
    """A length times a factor, rounded down as ONNX Runtime does it, in float32; a whole factor leaves a size what it
    is."""
    if factor == 1.0:
        return length
    if float(factor).is_integer():
        return length * int(factor)
    return int(np.float32(length) * np.float32(factor)) if type(length) is int else int(length * factor)


def _resized(op: Op, x: Tensor, target: list[Any], factors: list[Any], kind: str, mode: str) -> Tensor:
    _check(op, x, target, factors, kind, mode)
    spatial, factors = target[2:], factors[2:]
    whole = all(type(factor) is float and factor.is_integer() and factor >= 1 for factor in factors)
    if whole and all(factor == 1.0 for factor in factors):
        return x
    if not whole and _same_law(op, x, spatial, factors, kind, mode):
        names = {"nearest": "nearest", "linear": _LINEAR[x.dim()], "cubic": "bicubic"}
        return F.interpolate(x, scale_factor=factors, mode=names[kind], recompute_scale_factor=False)
    told = all(_tells(*each) for each in zip(x.shape[2:], spatial, factors, strict=True))
    if kind == "nearest":
        return _nearest(op, x, spatial, factors, mode, even=whole or _multiples(x, spatial), told=told)
    corners = mode == "align_corners"
    single = mode == "pytorch_half_pixel" and any(type(to) is int and to == 1 for to in spatial)
    if mode != "asymmetric" and (told or corners) and not single:
        if kind == "linear":
            return F.interpolate(x, size=spatial, mode=_LINEAR[x.dim()], align_corners=corners)
        if x.dim() == 4 and op.attribute("cubic_coeff_a", -0.75) == -0.75:
            return F.interpolate(x, size=spatial, mode="bicubic", align_corners=corners)
    taps = _linear if kind == "linear" else partial(_cubic, op.attribute("cubic_coeff_a", -0.75))
    return _between(x, spatial, factors, mode, taps)


def _same_law(op: Op, x: Tensor, spatial: list[Any], factors: list[Any], kind: str, mode: str) -> bool:
    """Whether torch, told the factors, gives the same for any size: their products with lengths are exact."""
    if not all(type(factor) is float and (factor * _DYADIC).is_integer() for factor in factors):
        return False
    if kind == "nearest":
        older = op.kind == "Upsample" or op.opset < 11
        floors = all(factor >= 1 for factor in factors) if older else op.attribute("nearest_mode") == "floor"
        return floors and (older or mode == "asymmetric")
    single = mode == "pytorch_half_pixel" and any(type(to) is int and to == 1 for to in spatial)
    known = kind == "linear" or (x.dim() == 4 and op.attribute("cubic_coeff_a", -0.75) == -0.75)
    return known and mode in ("half_pixel", "pytorch_half_pixel") and not single


def _check(op: Op, x: Tensor, target: list[Any], factors: list[Any], kind: str, mode: str) -> None:
    """Refuse what is not known here."""
    if x.dim() not in _LINEAR:
        raise op.refuse(f"it resizes a tensor of {x.dim()} dims, and 3 to 5 are known here")
    if mode not in _PLACED:
        raise op.refuse(f"it places pixels by {mode}, and known are {', '.join(_PLACED)}")
    if kind not in ("nearest", "linear", "cubic"):
        raise op.refuse(f"it interpolates by {kind}")
    if kind == "cubic" and op.attribute("exclude_outside", 0):
        raise op.refuse("it leaves out what is outside (exclude_outside=1)")
    for own, to, factor in zip(x.shape[:2], target, factors, strict=False):
        if factor not in (None, 1.0) or (type(own) is int and type(to) is int and own != to):
            raise op.refuse("it resizes samples or channels, its first two dims")
    if target[0] != x.shape[0]:
        raise op.refuse(f"its sizes are those of {target[0]} samples, whatever the file is given")


def _tells(length: Any, to: Any, factor: float | None) -> bool:
    """Whether the sizes alone tell the factor."""
    return factor is None or factor.is_integer() or (type(length) is int and length * factor == to)


def _nearest(op: Op, x: Tensor, spatial: list[Any], factors: list[Any], mode: str, *, even: bool, told: bool) -> Tensor:
    rounding = op.attribute("nearest_mode", "round_prefer_floor")
    older = op.kind == "Upsample" or op.opset < 11
    smaller = any(factor is not None and factor < 1 for factor in factors)
    floors = not smaller if older else mode == "asymmetric" and rounding == "floor"
    if told and floors:
        return F.interpolate(x, size=spatial, mode="nearest")
    if even and told and rounding in ("round_prefer_floor", "round_prefer_ceil") and mode == "half_pixel":
        return F.interpolate(x, size=spatial, mode="nearest")
    if (
        mode == "asymmetric"
        and even
        and rounding == "round_prefer_floor"
        and all(factor in (None, 1.0, 2.0) for factor in factors)
    ):
        twice = all(to == 2 * own or to == own for own, to in zip(x.shape[2:], spatial, strict=True))
        if twice:  # 0.5 is rounded down: as by floors
            return F.interpolate(x, size=spatial, mode="nearest")
    return _by_positions(x, spatial, factors, mode, "older" if older else rounding)


def _multiples(x: Tensor, spatial: list[Any]) -> bool:
    return all(to % own == 0 for own, to in zip(x.shape[2:], spatial, strict=True))


def _positions(length: Any, to: Any, factor: float | None, mode: str) -> Tensor:
    place = torch.arange(to, dtype=torch.float32)
    scale = to / length if factor is None else factor
    if mode == "align_corners":
        return place * ((length - 1) / (to - 1) if to > 1 else 0.0)
    if mode == "asymmetric":
        return place / scale
    if mode == "pytorch_half_pixel" and type(to) is int and to == 1:
        return place
    return (place + 0.5) / scale - 0.5


_ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "floor": torch.floor, "ceil": torch.ceil,
    "round_prefer_floor": lambda place: torch.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: torch.floor(place + 0.5),
}  # fmt: skip


def _by_positions(x: Tensor, spatial: list[Any], factors: list[Any], mode: str, rounding: str) -> Tensor:
    """The nearest, dim by dim, wherever the file says that it stands."""
    for dim, (to, factor) in enumerate(zip(spatial, factors, strict=True), start=2):
        if factor != 1.0:
            older = "floor" if factor is None or factor >= 1 else "ceil"  # ONNX Runtime, before opset 11
            place = _ROUNDED[older if rounding == "older" else rounding](_positions(x.shape[dim], to, factor, mode))
            x = x.index_select(dim, place.clamp(0, x.shape[dim] - 1).to(torch.int64))
    return x


Taps: TypeAlias = "Callable[[Tensor], dict[int, Tensor]]"
"""What each neighbour is multiplied by, by how far it is from the one below: of shares between that and the next."""


def _linear(share: Tensor) -> dict[int, Tensor]:
    return {0: 1 - share, 1: share}


def _cubic(a: float, share: Tensor) -> dict[int, Tensor]:
    """Keys's kernel."""

    def near(far: Tensor) -> Tensor:
        return ((a + 2) * far - (a + 3)) * far * far + 1

    def beyond(far: Tensor) -> Tensor:
        return ((a * far - 5 * a) * far + 8 * a) * far - 4 * a

    return {-1: beyond(share + 1), 0: near(share), 1: near(1 - share), 2: beyond(2 - share)}


def _between(x: Tensor, spatial: list[Any], factors: list[Any], mode: str, taps: Taps) -> Tensor:
    """Sums of neighbours along each dim, wherever the file says that each pixel stands; edges go on outside."""
    for dim, (to, factor) in enumerate(zip(spatial, factors, strict=True), start=2):
        if factor == 1.0:
            continue
        last = x.shape[dim] - 1
        place = _positions(x.shape[dim], to, factor, mode).to(x.dtype)
        place = place.clamp(0, last) if taps is _linear else place
        below = place.floor()
        shape = [1] * x.dim()
        shape[dim] = -1
        whole, parts = below.to(torch.int64), taps(place - below)
        x = reduce(
            operator.add,
            (x.index_select(dim, (whole + step).clamp(0, last)) * part.reshape(shape) for step, part in parts.items()),
        )
    return x


@row("GridSample")
def grid_sample(op: Op, x: Tensor, grid: Tensor) -> Tensor:
    """At the positions of a grid."""
    modes = {
        "bilinear": "bilinear",
        "linear": "bilinear",
        "nearest": "nearest",
        "bicubic": "bicubic",
        "cubic": "bicubic",
    }
    return F.grid_sample(
        x, grid, modes[op.attribute("mode", "bilinear")], op.attribute("padding_mode", "zeros"),
        bool(op.attribute("align_corners", 0)),
    )  # fmt: skip
