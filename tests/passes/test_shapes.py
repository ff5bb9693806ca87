"""The table of shape formulas says what torch says, on every op in it and on inputs that it must leave to torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from atograph.passes.ir.fake.results import _AT_ONCE, _FORMULAS, result_of

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
            (_t(2, 3).mT, _t(2, 3).mT), (_t(2, 3), True), (_t(2, 3, 4, 5), _t(2, 3, 1, 1)), (_t(2, 3, 4), _t(3, 1)),
            (_t(2, 3, 4, 5), _t(2, 3, 1, 1).to(memory_format=torch.channels_last)),
            (_t(2, 3, 4, 5).to(memory_format=torch.channels_last), _t(2, 3, 1, 1)),
            *([(_t(3), _t(2, 3)), (_t(3, 1), _t(1, 4))] if str(op)[-8] != "_" else []),
        ]
        for op in (
            aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor,
            aten.add_.Tensor, aten.sub_.Tensor, aten.mul_.Tensor, aten.div_.Tensor,
        )
    },
    aten.pow.Tensor_Scalar: [(_t(2, 3), 2), (_t(2, 3), 0.5), (_t(2, 3, dtype=torch.int64), 2)],
    aten.clamp_min.default: [(_t(2, 3), 0.1), (_t(2, 3).mT, 1), (_t(2, 3, dtype=torch.int64), 0.5)],
    aten.adaptive_avg_pool2d.default: [
        (_t(2, 3, 8, 9), [1, 1]), (_t(3, 8, 9), [2, 5]),
        (_t(2, 3, 8, 9).to(memory_format=torch.channels_last), [1, 2]),
    ],
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
AT_ONCE: dict[Any, list[tuple[Any, ...]]] = {
    aten.view.default: [(_t(2, 6), [3, 4]), (_t(2, 6, 5).mT, [2, 5, 2, 3])],
    aten.reshape.default: [(_t(2, 6), [3, -1]), (_t(2, 6).mT, [12])],
    aten.flatten.using_ints: [(_t(2, 6, 5), 1), (_t(2, 6, 5).mT, 1), (_t(2, 3), 1)],
    aten.unflatten.int: [(_t(2, 6), 1, [3, 2])],
    aten.permute.default: [(_t(2, 6, 5), [2, 0, 1])],
    aten.transpose.int: [(_t(2, 6, 5), 0, -1)],
    aten.t.default: [(_t(2, 6),)],
    aten.mT.default: [(_t(2, 6, 5),)],
    aten.unsqueeze.default: [(_t(2, 6), -1)],
    aten.squeeze.dim: [(_t(2, 1), 1), (_t(2, 3), 1)],
    aten.expand.default: [(_t(2, 1), [3, 2, 4]), (_t(2, 1), [2, 4])],
    aten.slice.Tensor: [(_t(2, 6), 1, 1, 9), (_t(2, 6), 1, 0, 6, 2)],
    aten.select.int: [(_t(2, 6), 1, -1)],
    aten.sum.dim_IntList: [(_t(2, 6, 5), [1]), (_t(2, 6, 5).mT, [0, -1], True), (_t(2, 3, dtype=torch.int32), [0])],
    aten.alias.default: [(_t(2, 6).mT,)],
    aten.expand_as.default: [(_t(2, 1), _t(3, 2, 4))],
    aten.linalg_vector_norm.default: [(_t(2, 6, 5), 2, [1]), (_t(2, 6).mT, 1.0, [0], True)],
    aten.narrow.default: [(_t(2, 6), 1, 2, 3)],
    aten.split.Tensor: [(_t(2, 6), 4, 1)],
    aten.split_with_sizes.default: [(_t(2, 6), [4, 2], 1), (_t(2, 6), [4, 1], 1)],
    aten.chunk.default: [(_t(2, 7), 3, 1)],
    aten.unbind.int: [(_t(2, 6), 1)],
    aten.contiguous.default: [(_t(2, 6),), (_t(2, 6).mT,)],
    aten.bmm.default: [(_t(5, 2, 3), _t(5, 3, 4)), (_t(5, 3, 2).mT, _t(5, 4, 3).mT)],
    aten.cat.default: [([_t(2, 6), _t(2, 3)], 1), ([_t(2, 6), _t(2, 3, dtype=torch.int64)], -1)],
    aten.mean.dim: [(_t(2, 6), [1], True), (_t(2, 6), [0, 1]), (_t(2, 6, dtype=torch.int64), [1])],
}  # fmt: skip
UNARY: list[tuple[Any, ...]] = [
    (_t(2, 3),),
    (_t(2, 3).mT,),
    (_t(2, 3, dtype=torch.int64),),
    (_t(2, 3, dtype=torch.float16),),
]


@pytest.mark.parametrize("op", [*_FORMULAS, *AT_ONCE], ids=str)
def test_the_shorter_ways_give_what_torch_gives(op: Any) -> None:
    for args in CASES.get(op, AT_ONCE.get(op, UNARY)):
        with FakeTensorMode() as mode:
            fake = torch.utils._pytree.tree_map_only(torch.Tensor, mode.from_tensor, args)
            expected = _said(lambda: op(*fake))  # noqa: B023
            assert _said(lambda: result_of(op, fake, {})) == expected, args  # noqa: B023


def test_every_shorter_way_is_tried() -> None:
    assert {*CASES, *AT_ONCE} >= _AT_ONCE


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
        (aten.view.default, (_t(2, 6).mT, [12])),
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
    parts = result if isinstance(result, (tuple, list)) else [result]
    return [(type(part), part.shape, part.stride(), part.dtype, part.device) for part in parts]
