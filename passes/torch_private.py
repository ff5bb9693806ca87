"""Every private module and class of torch that is used, so that a new torch is looked at in one place.

They are loaded on first use: some take a second. Here they have public names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch._C import _jit_resolve_packet as resolve_packet
    from torch._C._functorch import is_functorch_wrapped_tensor
    from torch._decomp import decomposition_table
    from torch._dispatch.python import enable_python_dispatcher
    from torch._export import utils as export_utils
    from torch._export.serde import schema
    from torch._export.serde.schema import ScalarType
    from torch._export.serde.serialize import SerializedArtifact, deserialize, deserialize_scalar_type
    from torch._export.serde.union import _Union as SchemaUnion
    from torch._export.utils import _check_valid_to_preserve as may_stay_composite
    from torch._export.utils import _is_cia_op as is_composite
    from torch._guards import detect_fake_mode
    from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
    from torch._subclasses import fake_impls
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensor,
        FakeTensorMode,
        in_kernel_invocation_manager,
    )
    from torch.export import exported_program
    from torch.fx._lazy_graph_module import _LazyGraphModule as LazyGraphModule
    from torch.jit._trace import TopLevelTracedModule
    from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
    from torch.nn.modules.batchnorm import _NormBase as NormBase
    from torch.nn.modules.conv import _ConvNd as ConvNd
    from torch.nn.modules.dropout import _DropoutNd as DropoutNd
    from torch.onnx._internal.exporter import _decomp as onnx_decompositions
    from torch.onnx._internal.exporter import _fx_passes as onnx_passes
    from torch.onnx._internal.exporter import _registration as onnx_registration
    from torch.onnx._internal.fx.passes import type_promotion as onnx_type_promotion
    from torch.utils import _pytree as pytree
    from torch.utils._python_dispatch import _disable_current_modes as disable_current_modes
    from torch.utils._pytree import TreeSpec, tree_leaves, tree_map

__all__ = [
    "BatchNorm",
    "ConvNd",
    "DataDependentOutputException",
    "DropoutNd",
    "DynamicOutputShapeException",
    "FakeTensor",
    "FakeTensorMode",
    "HigherOrderOperator",
    "LazyGraphModule",
    "NormBase",
    "OpOverload",
    "OpOverloadPacket",
    "ScalarType",
    "SchemaUnion",
    "SerializedArtifact",
    "TopLevelTracedModule",
    "TreeSpec",
    "decomposition_table",
    "deserialize",
    "deserialize_scalar_type",
    "detect_fake_mode",
    "disable_current_modes",
    "enable_python_dispatcher",
    "export_utils",
    "exported_program",
    "fake_impls",
    "in_kernel_invocation_manager",
    "is_composite",
    "is_functorch_wrapped_tensor",
    "may_stay_composite",
    "onnx_decompositions",
    "onnx_passes",
    "onnx_registration",
    "onnx_type_promotion",
    "pytree",
    "resolve_packet",
    "schema",
    "tree_leaves",
    "tree_map",
]

_MODULES = {
    "export_utils": "torch._export.utils",
    "exported_program": "torch.export.exported_program",
    "fake_impls": "torch._subclasses.fake_impls",
    "onnx_decompositions": "torch.onnx._internal.exporter._decomp",
    "onnx_passes": "torch.onnx._internal.exporter._fx_passes",
    "onnx_registration": "torch.onnx._internal.exporter._registration",
    "onnx_type_promotion": "torch.onnx._internal.fx.passes.type_promotion",
    "pytree": "torch.utils._pytree",
    "schema": "torch._export.serde.schema",
}

_HOMES = {
    "BatchNorm": "torch.nn.modules.batchnorm:_BatchNorm",
    "ConvNd": "torch.nn.modules.conv:_ConvNd",
    "DataDependentOutputException": "torch._subclasses.fake_tensor:DataDependentOutputException",
    "DropoutNd": "torch.nn.modules.dropout:_DropoutNd",
    "DynamicOutputShapeException": "torch._subclasses.fake_tensor:DynamicOutputShapeException",
    "FakeTensor": "torch._subclasses.fake_tensor:FakeTensor",
    "FakeTensorMode": "torch._subclasses.fake_tensor:FakeTensorMode",
    "HigherOrderOperator": "torch._ops:HigherOrderOperator",
    "LazyGraphModule": "torch.fx._lazy_graph_module:_LazyGraphModule",
    "NormBase": "torch.nn.modules.batchnorm:_NormBase",
    "OpOverload": "torch._ops:OpOverload",
    "OpOverloadPacket": "torch._ops:OpOverloadPacket",
    "ScalarType": "torch._export.serde.schema:ScalarType",
    "SchemaUnion": "torch._export.serde.union:_Union",
    "SerializedArtifact": "torch._export.serde.serialize:SerializedArtifact",
    "TopLevelTracedModule": "torch.jit._trace:TopLevelTracedModule",
    "TreeSpec": "torch.utils._pytree:TreeSpec",
    "decomposition_table": "torch._decomp:decomposition_table",
    "deserialize": "torch._export.serde.serialize:deserialize",
    "deserialize_scalar_type": "torch._export.serde.serialize:deserialize_scalar_type",
    "detect_fake_mode": "torch._guards:detect_fake_mode",
    "disable_current_modes": "torch.utils._python_dispatch:_disable_current_modes",
    "enable_python_dispatcher": "torch._dispatch.python:enable_python_dispatcher",
    "in_kernel_invocation_manager": "torch._subclasses.fake_tensor:in_kernel_invocation_manager",
    "is_composite": "torch._export.utils:_is_cia_op",
    "is_functorch_wrapped_tensor": "torch._C._functorch:is_functorch_wrapped_tensor",
    "may_stay_composite": "torch._export.utils:_check_valid_to_preserve",
    "resolve_packet": "torch._C:_jit_resolve_packet",
    "tree_leaves": "torch.utils._pytree:tree_leaves",
    "tree_map": "torch.utils._pytree:tree_map",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = import_module(_MODULES[name])
    elif name in _HOMES:
        module, _, own = _HOMES[name].partition(":")
        value = getattr(import_module(module), own)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
