"""Images of other sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from atograph.from_onnx.op import Op
from atograph.from_onnx.table import Value, row

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


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
    """A length times a factor, rounded down; a whole factor leaves a size what it is."""
    if factor == 1.0:
        return length
    return length * int(factor) if float(factor).is_integer() else int(length * factor)


def _resized(op: Op, x: Tensor, target: list[Any], factors: list[Any], kind: str, mode: str) -> Tensor:
    spatial = target[2:]
    whole = all(type(factor) is float and factor.is_integer() and factor >= 1 for factor in factors)
    if whole and all(factor == 1.0 for factor in factors):
        return x
    even = whole or _multiples(x, spatial)
    if kind == "nearest":
        rounding = op.attribute("nearest_mode", "round_prefer_floor")
        floors = (mode == "asymmetric" and rounding == "floor") or op.kind == "Upsample" or op.opset < 11
        if floors or (even and rounding in ("round_prefer_floor", "round_prefer_ceil") and mode == "half_pixel"):
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
        return _by_positions(op, x, spatial, factors[2:], mode, rounding)
    if kind == "linear" and mode in ("half_pixel", "pytorch_half_pixel", "align_corners") and x.dim() in _LINEAR:
        return F.interpolate(x, size=spatial, mode=_LINEAR[x.dim()], align_corners=mode == "align_corners")
    if kind == "linear" and mode == "asymmetric":
        return _linear(x, spatial, factors[2:])
    centred = mode in ("half_pixel", "pytorch_half_pixel", "align_corners")
    if kind == "cubic" and x.dim() == 4 and op.attribute("cubic_coeff_a", -0.75) == -0.75 and centred:
        return F.interpolate(x, size=spatial, mode="bicubic", align_corners=mode == "align_corners")
    raise op.refuse(f"it interpolates by {kind} with {mode}, and torch does not")


def _multiples(x: Tensor, spatial: list[Any]) -> bool:
    return all(to % own == 0 for own, to in zip(x.shape[2:], spatial, strict=True))


def _positions(length: Any, to: Any, factor: float | None, mode: str) -> Tensor:
    place = torch.arange(to, dtype=torch.float32)
    scale = to / length if factor is None else factor
    if mode == "align_corners":
        return place * ((length - 1) / (to - 1) if to > 1 else 0.0)
    if mode == "asymmetric":
        return place / scale
    return (place + 0.5) / scale - 0.5


_ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "floor": torch.floor, "ceil": torch.ceil,
    "round_prefer_floor": lambda place: torch.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: torch.floor(place + 0.5),
}  # fmt: skip


def _by_positions(op: Op, x: Tensor, spatial: list[Any], factors: list[Any], mode: str, rounding: str) -> Tensor:
    """The nearest, dim by dim, wherever the file says that it stands."""
    if mode not in ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"):
        raise op.refuse(f"it places pixels by {mode}")
    for dim, (to, factor) in enumerate(zip(spatial, factors, strict=True), start=2):
        if factor != 1.0:
            place = _ROUNDED[rounding](_positions(x.shape[dim], to, factor, mode))
            x = x.index_select(dim, place.clamp(0, x.shape[dim] - 1).to(torch.int64))
    return x


def _linear(x: Tensor, spatial: list[Any], factors: list[Any]) -> Tensor:
    """Linear along each dim, from the left edge of each pixel."""
    for dim, (to, factor) in enumerate(zip(spatial, factors, strict=True), start=2):
        if factor == 1.0:
            continue
        place = _positions(x.shape[dim], to, factor, "asymmetric").clamp(0, x.shape[dim] - 1).to(x.dtype)
        below = place.floor()
        shape = [1] * x.dim()
        shape[dim] = -1
        share = (place - below).reshape(shape)
        left = below.to(torch.int64)
        right = (left + 1).clamp(max=x.shape[dim] - 1)
        x = x.index_select(dim, left) * (1 - share) + x.index_select(dim, right) * share
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
