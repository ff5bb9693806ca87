"""What an ONNX file says of itself stays with the program, in ``slim.pt2`` as well, and is in every file made of it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from hostile import archive, members
from small_files import network

import atograph
from atograph.passes import UserError, format_program, parse_program
from atograph.program.pt2_file import read_program
from atograph.run.export import export_run


def described(path: Path) -> Path:
    """A file that says all that one can say."""
    model = onnx.load(network(path))
    model.doc_string, model.domain, model.model_version = "Tells cats from dogs.", "org.example", 7
    model.graph.name, model.graph.doc_string = "cats", "A small one."
    model.graph.input[0].doc_string, model.graph.output[0].doc_string = "images", "scores"
    more = model.metadata_props.add()
    more.key, more.value = "слова", '{"0": "кот\nи пёс"}'
    old = model.metadata_props.add()
    old.key, old.value = "atograph.limits", "of another plan"
    onnx.save(model, str(path))
    return path


def check(path: Path) -> None:
    """All of it is there."""
    model = onnx.load(path)
    graph = model.graph
    assert (model.doc_string, model.domain, model.model_version) == ("Tells cats from dogs.", "org.example", 7)
    assert (graph.name, graph.doc_string) == ("cats", "A small one.")
    assert [(value.name, value.doc_string) for value in (*graph.input, *graph.output)] == [
        ("input.1", "images"), ("495", "scores"),
    ]  # fmt: skip
    said = {each.key: each.value for each in model.metadata_props}
    assert (said["author"], said["слова"]) == ("nobody", '{"0": "кот\nи пёс"}')
    assert said["atograph.plan"]
    assert "atograph.limits" not in said


@pytest.mark.long
def test_it_is_in_every_file_that_is_made_of_it(tmp_path: Path) -> None:
    graph = atograph.trace(described(tmp_path / "net.onnx"))
    assert parse_program(format_program(graph.program)).interface.about == graph.program.interface.about
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    check(slim.to_onnx(tmp_path / "slim.onnx"))
    folder = tmp_path / "run"
    atograph.compress(tmp_path / "net.onnx", flops=0.5, method="magnitude", epochs=0, out=folder)
    check(folder / "slim.onnx")
    check(export_run(folder, tmp_path / "again.onnx").path)
    twice = atograph.trace(folder)
    check(atograph.slim(twice, twice.plan(flops=0.7)).to_onnx(tmp_path / "twice.onnx"))


@pytest.mark.parametrize("said", ['{"doc": 3}', '{"version": "7"}', '{"doc": "x", "code": "y"}', "[]", "{"])
def test_what_slim_pt2_says_is_read_without_trust(tmp_path: Path, said: str) -> None:
    graph = atograph.trace(described(tmp_path / "net.onnx"))
    atograph.slim(graph, graph.plan(flops=0.5)).save(tmp_path / "run")
    path = tmp_path / "run" / "slim.pt2"
    path.write_bytes(archive({**members(path), "extra/atograph.about": said.encode()}))
    with pytest.raises(UserError, match=r"atograph\.about"):
        read_program(path)
