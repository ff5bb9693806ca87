"""The table of shape formulas says what torch says, on every op in it and on inputs that it must leave to torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from atograph.passes.shapes import _FORMULAS, result_of
from torch._subclasses.fake_tensor import FakeTensorMode

aten = torch.ops.aten


def _t(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


def _norm_args(channels: int) -> list[Any]:
    return [_t(channels), _t(channels), _t(channels), _t(channels), False, 0.1, 1e-5, False]


CASES: dict[Any, list[tuple[Any, ...]]] = {
    aten.batch_norm.default: [(_t(2, 6, 5, 4), *_norm_args(6)), (_t(2, 6), *_norm_args(6))],
    aten.instance_norm.default: [(_t(2, 6, 5, 4), None, None, None, None, True, 0.1, 1e-5, False)],
    aten.layer_norm.default: [(_t(2, 5, 6), [6], _t(6), _t(6)), (_t(2, 6, 5).mT, [6])],
    aten.group_norm.default: [(_t(2, 6, 5), 3, _t(6), _t(6))],
    aten.elu.default: [(_t(2, 3), 1.5)],
    aten.leaky_relu.default: [(_t(2, 3), 0.2)],
    aten.hardtanh.default: [(_t(2, 3), 0.0, 6.0)],
    **{
        op: [
            (_t(2, 3), _t(2, 3)), (_t(2, 3), _t(3)), (_t(2, 3), _t()), (_t(2, 3), 2), (_t(2, 3), 2.5),
            (_t(2, 3), _t(2, 3, dtype=torch.float64)), (_t(2, 3, dtype=torch.int64), 2.5), (_t(2, 3), 2j),
            (_t(2, 3).mT, _t(2, 3).mT), (_t(2, 3), True),
        ]
        for op in (
            aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor,
            aten.add_.Tensor, aten.sub_.Tensor, aten.mul_.Tensor, aten.div_.Tensor,
        )
    },
    aten.pow.Tensor_Scalar: [(_t(2, 3), 2), (_t(2, 3), 0.5), (_t(2, 3, dtype=torch.int64), 2)],
    aten.softmax.int: [(_t(2, 3), -1), (_t(2, 3), 0, torch.float64)],
    aten.linear.default: [
        (_t(2, 3), _t(4, 3), _t(4)), (_t(2, 5, 3), _t(4, 3)), (_t(3), _t(4, 3)), (_t(3, 2).mT, _t(4, 3)),
        (_t(2, 3), _t(3)),
    ],
    aten.matmul.default: [
        (_t(2, 3), _t(3, 4)), (_t(5, 2, 3), _t(5, 3, 4)), (_t(5, 2, 3), _t(3, 4)), (_t(2, 3), _t(5, 3, 4)),
        (_t(3), _t(3, 4)), (_t(1, 2, 3), _t(5, 3, 4)),
    ],
    aten.conv1d.default: [(_t(2, 6, 9), _t(4, 6, 3)), (_t(2, 6, 9), _t(4, 3, 3), _t(4), [2], [1], [2], 2)],
    aten.conv2d.default: [
        (_t(2, 6, 9, 8), _t(4, 6, 3, 2)), (_t(2, 6, 9, 8), _t(4, 3, 3, 2), None, [2, 1], [1, 0], [2, 1], 2),
        (_t(2, 6, 9, 8), _t(4, 6, 3, 3), _t(4), [2], [1]), (_t(6, 9, 8), _t(4, 6, 3, 2)),
        (_t(2, 6, 9, 8).to(memory_format=torch.channels_last), _t(4, 6, 3, 2)),
    ],
    aten.conv3d.default: [(_t(2, 6, 9, 8, 7), _t(4, 6, 3, 2, 1), _t(4), [2, 1, 1], [1, 0, 2])],
}  # fmt: skip
UNARY: list[tuple[Any, ...]] = [
    (_t(2, 3),),
    (_t(2, 3).mT,),
    (_t(2, 3, dtype=torch.int64),),
    (_t(2, 3, dtype=torch.float16),),
]


@pytest.mark.parametrize("op", _FORMULAS, ids=str)
def test_formulas_say_what_torch_says(op: Any) -> None:
    for args in CASES.get(op, UNARY):
        with FakeTensorMode() as mode:
            fake = torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, args)
            expected = _said(lambda: op(*fake))  # noqa: B023
            assert _said(lambda: result_of(op, fake, {})) == expected, args  # noqa: B023


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (aten.linear.default, (_t(2, 3), _t(4, 5))),
        (aten.matmul.default, (_t(2, 3), _t(4, 5))),
        (aten.conv2d.default, (_t(2, 6, 9, 8), _t(4, 5, 3, 3))),
        (aten.conv2d.default, (_t(2, 6, 2, 2), _t(4, 6, 3, 3))),
        (aten.batch_norm.default, (_t(2, 6, 5, 4), *_norm_args(5))),
        (aten.layer_norm.default, (_t(2, 5, 6), [6], _t(5), _t(5))),
        (aten.group_norm.default, (_t(2, 6, 5), 4)),
    ],
)
def test_what_does_not_fit_is_refused_as_torch_refuses_it(op: Any, args: tuple[Any, ...]) -> None:
    with FakeTensorMode() as mode:
        fake = torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, args)
        with pytest.raises(RuntimeError):
            result_of(op, fake, {})


def _said(call: Any) -> Any:
    try:
        result = call()
    except Exception as error:
        return type(error)
    return result.shape, result.stride(), result.dtype, result.device
