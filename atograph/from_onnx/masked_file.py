"""The ONNX file that a network came from, with the weights that the network has now: zeros where units go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from atograph.from_onnx.body import GraphPath, Source
from atograph.from_onnx.file import OnnxFile

_MOST = 2**31 - 2**20
"""Bytes that one file can hold."""


def write_with_weights(
    file: OnnxFile, sources: Iterable[Source], state: Mapping[str, torch.Tensor], path: Path
) -> Path:
    """Write a file again: all as it was, but for the values of its constants.

    Args:
        file: as it was read.
        sources: which constant each tensor comes from.
        state: tensors by name; what is missing stays as it is.
        path: where to.
    """
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    holders: dict[GraphPath, dict[str, onnx.TensorProto | onnx.AttributeProto]] = {}
    for source in sources:
        if source.name not in state:
            continue
        if source.graph not in holders:
            holders[source.graph] = _constants(_graph(model.graph, source.graph))
        _write(holders[source.graph][source.constant], source, state[source.name].detach().cpu())
    large = model.ByteSize() > _MOST
    onnx.save(model, str(path), save_as_external_data=large, location=f"{path.name}.data" if large else None)
    return path


def _graph(graph: onnx.GraphProto, path: GraphPath) -> onnx.GraphProto:
    for index, key in path:
        nodes = [node for node in graph.node if node.op_type != "Constant"]
        graph = next(attribute.g for attribute in nodes[index].attribute if attribute.name == key)
    return graph


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto | onnx.AttributeProto]:
    found: dict[str, onnx.TensorProto | onnx.AttributeProto] = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            attribute = node.attribute[0]
            found[node.output[0]] = attribute.t if attribute.HasField("t") else attribute
    return found


def _write(holder: onnx.TensorProto | onnx.AttributeProto, source: Source, value: torch.Tensor) -> None:
    if isinstance(holder, onnx.AttributeProto):
        del holder.floats[:]
        holder.floats.extend(value.reshape(-1).tolist())
        return
    array = numpy_helper.to_array(holder)
    flat = array.reshape(-1).copy()
    where = slice(None) if source.where is None else source.where.reshape(-1).numpy()
    flat[where] = value.reshape(-1).numpy().astype(np.asarray(flat).dtype)
    holder.CopyFrom(numpy_helper.from_array(flat.reshape(array.shape), holder.name))
