"""How files are quantised, by target and by what a network is made of: a row each, the likeliest first.

What each runtime reads alike, and which ops gain, was measured (docs/deploy.md). OpenVINO computes activations
in uint8 as ONNX Runtime does, and gets a concatenation of signed ones wrong, and an addition behind an embedding and a
product; TensorRT takes signed ones alone, around zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir

Kind = Literal["convolutional", "transformer", "recurrent", "dense"]
"""What most of a network's work is: convolutions, attention, LSTM and its like, or products of matrices alone."""

_RECURRENT = {"LSTM", "GRU", "RNN"}

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Ops with integer kernels, and with weights."""

_BETWEEN = ("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Relu")
"""Ops between convolutions that keep values in int8: without them, each is brought to float32 and back."""


@dataclass(frozen=True)
class Scheme:
    """One way to quantise.

    Attributes:
        name: in sentences.
        targets: what its files are for.
        kinds: the networks that it is for.
        ops: the types of ops that are quantised.
        dynamic: ranges of activations are found on each call, and take no data.
        activations: their type.
        symmetric: activations have zero in the middle, and a zero point of 0 where they are signed.
        per_channel: weights have a step for each output channel; else one for the whole tensor.
        products: products of two computed values (attention) are quantised, too, and not those with weights alone.
    """

    name: str
    targets: tuple[str, ...]
    kinds: tuple[Kind, ...]
    ops: tuple[str, ...]
    dynamic: bool = False
    activations: Literal["uint8", "int8"] = "uint8"
    symmetric: bool = False
    per_channel: bool = True
    products: bool = False


SCHEMES = (
    Scheme("static, uint8", ("onnx", "openvino"), ("convolutional", "dense"), (*_LAYERS, *_BETWEEN)),
    Scheme("static, uint8, layers alone", ("onnx", "openvino"), ("convolutional", "dense"), _LAYERS),
    Scheme("dynamic, uint8", ("onnx",), ("transformer", "recurrent"), ("MatMul", "Gemm", "LSTM"), dynamic=True),
    Scheme("static, uint8, products with weights", ("onnx", "openvino"), ("transformer", "recurrent"), ("MatMul",)),
    Scheme(
        "static, symmetric int8", ("tensorrt",), ("convolutional", "transformer", "recurrent", "dense"), _LAYERS,
        activations="int8", symmetric=True,
    ),
)  # fmt: skip


def schemes_for(target: str, kind: Kind) -> list[Scheme]:
    """The rows of a target and a kind of network, in the order in which they are tried."""
    return [scheme for scheme in SCHEMES if target in scheme.targets and kind in scheme.kinds]


def kind_of(path: Path) -> Kind:
    """What an ONNX file is made of, by its ops."""
    nodes = list(ir.load(path).graph.all_nodes())
    ops = [node.op_type for node in nodes]
    products = [node for node in nodes if node.op_type == "MatMul"]
    attention = "Attention" in ops or any(not _constant(node.inputs[1]) for node in products)
    if _RECURRENT & set(ops):
        return "recurrent"
    if attention and ops.count("Conv") < len(products):
        return "transformer"
    return "convolutional" if {"Conv", "ConvTranspose"} & set(ops) else "dense"


def _constant(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return value is not None and (value.const_value is not None or (producer is not None and not producer.inputs))
