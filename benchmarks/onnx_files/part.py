"""One ONNX file of the table, in a process of its own: ``python -m benchmarks.onnx_files.part FILE RESULT [SHARE]``.

FILE is a path, or the name of a model of the zoo, which is exported dense by our own writer first.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image, ImageDraw

import atograph
from atograph.from_onnx import rows
from atograph.from_onnx.file import OnnxFile, read_onnx
from atograph.from_onnx.table import ROWS
from atograph.proof.certificate import compare, exactness
from atograph.run.rehearse import deploy
from atograph.slimming.masking import mask
from atograph.spec.example_inputs import Inputs
from atograph.targets.table import targets_of
from atograph.values.batch_size import repeat_single
from benchmarks.models import build


def main() -> None:
    """Write what was found after each stage, so that a file that takes too long leaves where it was."""
    name, result = sys.argv[1], Path(sys.argv[2])
    share = float(sys.argv[3]) if len(sys.argv) > 3 else 0.5
    torch.set_num_threads(1)
    found: dict[str, Any] = {"file": Path(name).name, "stage": "reading"}

    def note(**values: object) -> None:
        found.update(values)
        result.write_text(json.dumps(found, indent=1), encoding="utf-8")

    note()
    started = time.monotonic()
    with TemporaryDirectory() as aside:
        try:
            path = Path(name) if Path(name).exists() else _exported(name, Path(aside))
            for stage, values in _measured(path, Path(aside), share):
                note(stage=stage, **values)
            note(stage="done")
        except Exception as error:
            note(why=" ".join(str(error).replace(aside, "").replace(f"{Path(name).parent}/", "").split())[:400])
        note(seconds=round(time.monotonic() - started, 1))


def _exported(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    model, (args, kwargs) = build(name)
    graph = atograph.trace(model.eval(), args, kwargs)
    whole = graph.plan(kept={})
    return atograph.slim(graph, whole).to_onnx(folder / f"{name.replace(':', '-')}.onnx")


def _measured(path: Path, folder: Path, share: float) -> Iterator[tuple[str, dict[str, Any]]]:
    file = read_onnx(path)
    rows.load()
    nodes = [*_nodes(file.model.graph)]
    unknown = Counter(node.op_type for node in nodes if (_domain(node), node.op_type) not in ROWS)
    yield "importing", {
        "opset": file.opsets.get(""), "ops": len(nodes), "unknown": dict(unknown), "bytes": path.stat().st_size,
        "kinds": sorted({node.op_type for node in nodes}),
    }  # fmt: skip
    graph = _traced(path, file)
    reasons: Counter[str] = Counter()
    for group in graph.groups:
        if group.frozen is not None:
            reasons[group.frozen.text] += group.size
    yield "planning", {
        "units": sum(group.size for group in graph.groups), "prunable": sum(group.size for group in graph.prunable),
        "frozen": dict(reasons), "still": dict(graph.program.interface.still), "fixed": graph.program.interface.fixed,
        "flops": graph.flops, "params": graph.params,
    }  # fmt: skip
    plan = graph.plan(flops=share)
    slim = atograph.slim(graph, plan)
    yield "exporting", {"kept": slim.flops / graph.flops, "kept_params": slim.params / graph.params}
    files = deploy(slim, targets_of(["onnx"]), folder)
    yield "comparing", {"slim_bytes": (folder / "slim.onnx").stat().st_size}
    assert graph.model is not None
    masked = mask(graph.model, plan)
    example = graph.program.interface.example
    assert example is not None
    inputs = Inputs(*(example if graph.program.interface.fixed else repeat_single(example)))
    entries = compare(masked, slim, files, inputs)
    yield "in float64", {
        "holds": all(entry.holds for entry in entries),
        "masked_slim": max(entry.masked_slim for entry in entries),
        "files": max((entry.source.difference for entry in entries if entry.source is not None), default=None),
        "sizes": sum(entry.source is not None for entry in entries),
        "moved": min(entry.moved for entry in entries),
        "faults": [str(fault) for entry in entries for fault in entry.faults][:1],
        "compared": min([fault.compared for entry in entries for fault in entry.faults], default=1.0),
    }  # fmt: skip
    yield "done", {"float64": exactness(masked, slim, inputs)}


def _traced(path: Path, file: OnnxFile) -> atograph.Graph:
    """With pages of one height or another, or the example that is made of the file's shapes.

    A network that goes on until it has read the whole table gets one, and comes to an end.
    """
    loops = any(node.op_type == "Loop" for node in _nodes(file.model.graph))
    for height in (320, 96, 48) if loops else (96, 48):
        pages = _written_pages(file, height)
        try:
            return atograph.trace(path, tuple(pages))
        except atograph.UserError:
            if not pages:
                raise
    return atograph.trace(path)


def _written_pages(file: OnnxFile, high: int) -> list[torch.Tensor]:
    """Pages with text, for a file whose one input is an image; none for others: the file's own example then.

    A detector of text or of faces finds nothing in noise, and what a sigmoid far below zero gives is compared with
    nothing but itself.
    """
    (first, *others) = file.inputs
    if others or first.shape is None or len(first.shape) != 4 or first.shape[1] not in (1, 3):
        return []
    batch, channels, height, width = (
        size if isinstance(size, int) else other
        for size, other in zip(first.shape, (2, 3, high, max(high, 160)), strict=True)
    )
    many = max(batch, 2)  # a file that says 1 takes more as well, or the file's own example is taken
    pages = [_page(width, height, index, table=high > 160) for index in range(many)]
    return [torch.stack(pages)[:, None].expand(-1, channels, -1, -1).contiguous()]


def _page(width: int, height: int, index: int, *, table: bool) -> torch.Tensor:
    """A page of text, in a table of four rows or not, [height, width] from -1 to 1."""
    page = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(page)
    side, above = (height // 4, 14) if table else (24, 4)
    for at in range(8, height, side) if table else ():
        draw.line((8, at, width - 8, at), fill=0, width=2)
        draw.line((at, 8, at, height - 8), fill=0, width=2)
    for line in range(0, height, side):
        words = f"Page {index + 1}, line {line // side + 1}: 0123 abc xyz"
        draw.text((4 + 9 * index, line + above), words, fill=0)
    return torch.from_numpy(np.asarray(page, np.float32) / 127.5 - 1)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of those within, without constants."""
    for node in graph.node:
        if node.op_type != "Constant":
            yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


if __name__ == "__main__":
    main()
