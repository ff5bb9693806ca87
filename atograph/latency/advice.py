"""What could be done about layers of a slim model that take longer than their FLOPs promise."""

from __future__ import annotations

from collections.abc import Sequence

from atograph.report.bench import LayerPair

_WIDTH = 8
"""Channels that the kernels of ONNX Runtime take at a time, or half of them."""

_LAYOUT = ("ReorderInput", "ReorderOutput")
"""What ONNX Runtime puts in where channels do not come in blocks."""

_MOVES = {
    "Reshape", "Transpose", "Gather", "GatherElements", "GatherND", "Concat", "Split", "Slice", "Pad", "Expand", "Tile",
    "Squeeze", "Unsqueeze", "Flatten", "ScatterElements", "ScatterND", "Identity", "Cast", "Shape", "DepthToSpace",
    "SpaceToDepth", "Resize",
}  # fmt: skip


def advice(layers: Sequence[LayerPair], multiple: int) -> str:
    """One sentence for each kind of layer, the most wasteful kind first.

    Args:
        layers: those that waste.
        multiple: as `report.bench.Bench.multiple`.
    """
    wasted: dict[str, float] = {}
    for layer in layers:
        sentence = _sentence(layer, multiple)
        wasted[sentence] = wasted.get(sentence, 0.0) + layer.wasted
    return " ".join(sorted(wasted, key=lambda sentence: -wasted[sentence]))


def _sentence(layer: LayerPair, multiple: int) -> str:
    if layer.kept is not None and layer.kept >= 1:
        return "Layers that keep all of their FLOPs cannot become faster: report.json says what is frozen, and why."
    if layer.kept is not None or layer.op in _LAYOUT:
        if multiple % _WIDTH:
            return f"Convolutions and linear layers like widths in multiples of {_WIDTH} or more: --round-to auto."
        return f"Widths are multiples of {_WIDTH} already; a larger batch gives small layers more to do."
    if layer.op in _MOVES:
        return f"{layer.op} moves values and computes nothing: it comes from the model's code, and no width helps."
    return "Layers without weights have no FLOPs that a plan could count: they shrink with the channels at best."
