"""Results of frequent ops on tensors without data, by shorter ways: torch takes up to milliseconds to find each.

A formula is asked only about contiguous floating-point tensors of one type on one device, and may decline with None.
Where it answers, torch would give a new contiguous tensor of that shape and of the inputs' type. Ops that only look at
their inputs another way, and some others, run at once on torch's kernels for tensors without data. For the rest torch's
fake tensor mode is asked, which also knows what devices, constants and values that depend on data ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from atograph.passes.ir.fake import meta_kernels  # noqa: F401  (torch's fake tensor mode asks them)
from atograph.passes.ir.fake.recurrent import RECURRENT
from atograph.passes.ir.fake.tensors import empty
from atograph.passes.torch_private import FakeTensor, FakeTensorMode, OpOverload, in_kernel_invocation_manager

_ATEN = torch.ops.aten
Shape = Sequence[int]


def result_of(op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What an op gives for tensors without data.

    Args:
        op: an ATen op, or a function on sizes.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Raises:
        Exception: what torch raises if the op does not take these inputs.
    """
    if op is _ATEN.istft.default and isinstance(args[0], FakeTensor):
        return _istft(*args, **kwargs)
    if op in RECURRENT and isinstance(args[0], FakeTensor):
        return RECURRENT[op](*args, **kwargs)
    formula = _FORMULAS.get(op)
    if formula is not None and not kwargs and _are_plain(args):
        shape = formula(*args)
        if shape is not None and op in _IN_PLACE:
            return args[0]
        if shape is not None:
            return empty(args[0].fake_mode, shape, args[0].dtype, args[0].device)
    tensors = _tensors(args) if op in _AT_ONCE else []
    if tensors and not any(isinstance(value, torch.Tensor) for value in kwargs.values()):
        first = tensors[0]
        if all(type(t) is FakeTensor and t.constant is None and t.device == first.device for t in tensors):
            mode, device = first.fake_mode, first.device  # within, its device is meta
            with in_kernel_invocation_manager(mode):
                result = op(*args, **kwargs)
            return _fake(result, mode, device)
    return op(*args, **kwargs)


def _istft(
    spectra: FakeTensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: torch.Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> FakeTensor:
    """Of spectra [.., frequencies, frames] the signals [.., length]; torch looks at the window's values on the way."""
    hop = n_fft // 4 if hop_length is None else hop_length
    whole = n_fft + hop * (spectra.shape[-1] - 1)
    kept = length if length is not None else whole - (2 * (n_fft // 2) if center else 0)
    dtype = spectra.dtype if return_complex else spectra.dtype.to_real()
    return empty(spectra.fake_mode, (*spectra.shape[:-2], kept), dtype, spectra.device)


def _tensors(args: Sequence[object]) -> list[Any]:
    """The tensors among some arguments, or in a list that is the first of them."""
    listed = args[0] if args and isinstance(args[0], (list, tuple)) else ()
    return [value for value in (*listed, *args) if isinstance(value, torch.Tensor)]


def _fake(result: object, mode: FakeTensorMode, device: torch.device) -> object:
    """What a kernel gave, as tensors of a mode; a kernel that gave its own input back gave one already."""
    if isinstance(result, (tuple, list)):
        return type(result)(_fake(item, mode, device) for item in result)
    return FakeTensor(mode, result, device) if type(result) is torch.Tensor else result


def _are_plain(args: Sequence[object]) -> bool:
    tensors = [value for value in args if isinstance(value, torch.Tensor)]
    first = tensors[0] if tensors else None
    return (
        first is not None
        and first is args[0]
        and all(
            type(value) is FakeTensor
            and value.constant is None  # whose value torch knows
            and value.is_contiguous()
            and value.dtype.is_floating_point
            and value.dtype == first.dtype
            and value.device == first.device
            for value in tensors
        )
    )


def _like(x: torch.Tensor, *_options: object) -> Shape:
    return x.shape


def _channel_norm(x: torch.Tensor, *options: object) -> Shape | None:
    return x.shape if x.dim() > 1 and _all_of_shape(options, x.shape[1:2]) else None


def _group_norm(x: torch.Tensor, groups: int, *options: object) -> Shape | None:
    return x.shape if x.dim() > 1 and not x.shape[1] % groups and _all_of_shape(options, x.shape[1:2]) else None


def _layer_norm(x: torch.Tensor, normalized: Shape, *options: object) -> Shape | None:
    fits = list(x.shape[x.dim() - len(normalized) :]) == list(normalized)
    return x.shape if fits and _all_of_shape(options, normalized) else None


def _all_of_shape(options: Sequence[object], shape: Shape) -> bool:
    return all(list(value.shape) == list(shape) for value in options if isinstance(value, torch.Tensor))


def _elementwise(x: torch.Tensor, y: object, *options: object) -> Shape | None:
    same = y.shape == x.shape if isinstance(y, torch.Tensor) else isinstance(y, (int, float))
    return x.shape if same and not options else None


def _broadcast(x: torch.Tensor, y: object, *options: object) -> Shape | None:
    """The same where one of the two may be spread, too."""
    if options or not isinstance(y, torch.Tensor) or x.shape == y.shape:
        return _elementwise(x, y, *options)
    if not x.dim() or not y.dim() or any(each.stride() != _contiguous(each.shape) for each in (x, y)):
        return None  # a number in a tensor, or one that is in another order where sizes are 1
    rank = max(x.dim(), y.dim())
    one, other = ((1,) * (rank - each.dim()) + tuple(each.shape) for each in (x, y))
    pairs = list(zip(one, other, strict=True))
    return [max(a, b) for a, b in pairs] if all(a == b or 1 in (a, b) for a, b in pairs) and 0 not in one else None


def _bounded(x: torch.Tensor, bound: object) -> Shape | None:
    return x.shape if isinstance(bound, (int, float)) and x.stride() == _contiguous(x.shape) else None


def _pooled(x: torch.Tensor, sizes: Shape) -> Shape | None:
    plain = x.dim() > 2 and x.stride() == _contiguous(x.shape) and all(type(size) is int for size in sizes)
    return (*x.shape[:-2], *sizes) if plain and len(sizes) == 2 else None


def _softmax(x: torch.Tensor, _dim: int, dtype: torch.dtype | None = None) -> Shape | None:
    return x.shape if dtype is None else None


def _linear(x: torch.Tensor, weight: torch.Tensor, _bias: torch.Tensor | None = None) -> Shape | None:
    fits = x.dim() > 1 and weight.dim() == 2 and x.shape[-1] == weight.shape[1]
    return (*x.shape[:-1], weight.shape[0]) if fits else None


def _matmul(x: torch.Tensor, y: torch.Tensor) -> Shape | None:
    fits = x.dim() == y.dim() > 1 and x.shape[:-2] == y.shape[:-2] and x.shape[-1] == y.shape[-2]
    return (*x.shape[:-1], y.shape[-1]) if fits else None


def _contiguous(shape: Shape) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Shape = (1,),
    padding: Shape = (0,),
    dilation: Shape = (1,),
    groups: int = 1,
) -> Shape | None:
    spatial = x.dim() - 2
    if any(tensor.stride() != _contiguous(tensor.shape) for tensor in (x, weight)):
        return None  # with sizes of 1, channels may come last in a contiguous tensor, and then do in the result
    if x.dim() != weight.dim() or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    each = [list(option) * (spatial if len(option) == 1 else 1) for option in (stride, padding, dilation)]
    sizes = [
        (size + 2 * pad - step * (kernel - 1) - 1) // jump + 1
        for size, kernel, jump, pad, step in zip(x.shape[2:], weight.shape[2:], *each, strict=True)
    ]
    return (x.shape[0], weight.shape[0], *sizes) if min(sizes) > 0 else None


_ACTIVATIONS = (
    "relu", "gelu", "silu", "sigmoid", "tanh", "relu6", "hardtanh", "hardswish", "hardsigmoid", "elu", "leaky_relu",
    "mish",
)  # fmt: skip
_IN_PLACE = (
    *(getattr(_ATEN, f"{name}_").default for name in _ACTIVATIONS),
    _ATEN.add_.Tensor, _ATEN.sub_.Tensor, _ATEN.mul_.Tensor, _ATEN.div_.Tensor,
)  # fmt: skip
_FORMULAS: dict[OpOverload, Callable[..., Shape | None]] = {
    **{getattr(_ATEN, name).default: _like for name in (*_ACTIVATIONS, "exp", "rsqrt", "sqrt", "neg")},
    **dict.fromkeys(_IN_PLACE, _like),
    **dict.fromkeys((_ATEN.add.Tensor, _ATEN.sub.Tensor, _ATEN.mul.Tensor, _ATEN.div.Tensor), _broadcast),
    **dict.fromkeys((
        _ATEN.pow.Tensor_Scalar, _ATEN.add_.Tensor, _ATEN.sub_.Tensor, _ATEN.mul_.Tensor, _ATEN.div_.Tensor,
    ), _elementwise),
    _ATEN.clamp_min.default: _bounded,
    _ATEN.adaptive_avg_pool2d.default: _pooled,
    _ATEN.batch_norm.default: _channel_norm,
    _ATEN.instance_norm.default: _channel_norm,
    _ATEN.group_norm.default: _group_norm,
    _ATEN.layer_norm.default: _layer_norm,
    _ATEN.softmax.int: _softmax,
    _ATEN.linear.default: _linear,
    _ATEN.matmul.default: _matmul,
    _ATEN.conv1d.default: _conv,
    _ATEN.conv2d.default: _conv,
    _ATEN.conv3d.default: _conv,
}  # fmt: skip
"""Op → the shape of its result, or None where torch must say."""

_AT_ONCE = {
    _ATEN.view.default, _ATEN.reshape.default, _ATEN.flatten.using_ints, _ATEN.unflatten.int, _ATEN.permute.default,
    _ATEN.transpose.int, _ATEN.t.default, _ATEN.mT.default, _ATEN.unsqueeze.default, _ATEN.squeeze.dim,
    _ATEN.expand.default, _ATEN.slice.Tensor, _ATEN.select.int, _ATEN.narrow.default, _ATEN.split.Tensor,
    _ATEN.split_with_sizes.default, _ATEN.chunk.default, _ATEN.unbind.int, _ATEN.contiguous.default,
    _ATEN.matmul.default, _ATEN.bmm.default, _ATEN.linear.default, _ATEN.cat.default, _ATEN.mean.dim,
    _ATEN.softmax.int, _ATEN.sum.dim_IntList, _ATEN.alias.default, _ATEN.expand_as.default,
    _ATEN.linalg_vector_norm.default,
}  # fmt: skip
"""Ops whose kernels for tensors without data need nothing but shapes, strides and types."""
