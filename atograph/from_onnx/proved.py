"""The proof of an import: a program against ONNX Runtime on the file that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx
import torch

from atograph.files.writing import scratch
from atograph.from_onnx.file import OnnxFile
from atograph.from_onnx.network import OnnxNetwork, network_of
from atograph.from_onnx.op import Op
from atograph.from_onnx.table import Value
from atograph.from_onnx.taken import without_branches
from atograph.ort.session import OnnxSession
from atograph.passes.errors import InternalError
from atograph.passes.ir.run import ProgramModule
from atograph.values.difference import largest_difference, tolerance

OF_ONE = {"Sigmoid", "Softmax", "HardSigmoid", "Tanh", "Erf"}
"""Ops whose kernels in ONNX Runtime are right to the rounding of one, however small the value is."""


def check_same(program: ProgramModule, network: OnnxNetwork, inputs: Mapping[str, torch.Tensor]) -> None:
    """Run file and program on the same inputs; where they are apart, look at each node with ONNX Runtime's own inputs.

    Small differences grow on the way through a network, and a sigmoid far from zero is right in ONNX Runtime to the
    rounding of one only: if all nodes compute the same, so do file and program.

    Args:
        program: of the file.
        network: it was captured of.
        inputs: by the names of the file's inputs.

    Raises:
        UserError: ONNX Runtime cannot run the file.
        InternalError: they are not the same; names the first node that is not.
    """
    file = network.file
    expected = _run(OnnxSession(file.path), inputs)
    with torch.no_grad():
        found = program(*(inputs[value.name] for value in file.inputs))
    made = [found[value.name].detach().cpu() for value in file.outputs]
    difference = largest_difference(expected, made)
    if difference <= tolerance([*expected, *program.tensors().values()], finest=torch.float32):
        return
    at = _node_apart(network, inputs)
    if at or not _alike(expected, made):
        raise InternalError(
            f"{file.path}: what was imported and the file differ by {difference:.1e} (relative) in torch and in ONNX "
            f"Runtime{f', first at {at}' if at else ''}.", "atograph",
        )  # fmt: skip


def _run(session: OnnxSession, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    return [torch.from_numpy(each) for each in session.run({n: t.detach().cpu().numpy() for n, t in inputs.items()})]


def _alike(expected: list[torch.Tensor], made: list[torch.Tensor]) -> bool:
    """Whether tensors have the same shapes, and are finite in the same places: more than rounding is apart if not.

    What ONNX Runtime gives as zero, a sigmoid far below it, is infinitely far from any other number.
    """
    return all(
        one.shape == other.shape and torch.equal(torch.isfinite(one), torch.isfinite(other))
        for one, other in zip(expected, made, strict=True)
    )


def _node_apart(network: OnnxNetwork, inputs: Mapping[str, torch.Tensor]) -> str:
    """The first node that gives something else than in ONNX Runtime, of the values that it gets there; in the branches
    that are taken, too."""
    with scratch() as aside:
        path = aside / "values.onnx"
        with torch.no_grad():
            network.by_name(inputs)
        plain = replace(network.file, model=without_branches(network.file.model, network))
        network = network_of(plain)
        model = _giving(plain)
        names = [value.name for value in model.graph.output]
        onnx.save(model, str(path))
        session = OnnxSession(path, plain=True)
        theirs = dict(zip(names, _run(session, inputs), strict=True))
    wrong, loose = list[str](), set[str]()  # what is right to the rounding of one, and is not seen there

    def seen(op: Op, name: str, value: Value) -> Value:
        of_one = op.kind in OF_ONE or not loose.isdisjoint(op.inputs)
        if not isinstance(value, torch.Tensor) or name not in theirs:
            loose.update([name] if of_one else [])
            return value
        reference = theirs[name]
        if reference.shape != value.shape or not _close(reference, value, of_one=of_one):
            wrong.append(op.place)
        return reference

    with torch.no_grad():
        network.compute([inputs[name] for name in network.inputs], {}, seen)
    return wrong[0] if wrong else ""


def _giving(file: OnnxFile) -> onnx.ModelProto:
    """The same file that gives all values of its nodes, as far as it can be told what tensors they are.

    A file may list values that none of its nodes gives, as quantisers leave them behind.
    """
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    made = {name for node in model.graph.node for name in node.output} - {value.name for value in model.graph.output}
    known = [each for each in inferred if each.type.tensor_type.HasField("shape") and each.name in made]
    model.graph.output.extend(known)
    return model


def _close(reference: torch.Tensor, value: torch.Tensor, *, of_one: bool) -> bool:
    """Whether all of a tensor is within the rounding of its largest value, or of one."""
    finite = torch.isfinite(reference)
    if not torch.equal(finite, torch.isfinite(value)):
        return False
    one, other = (torch.where(finite, each, 0).double() for each in (reference, value))
    if not one.numel():
        return True
    scale = max(float(one.abs().max()), float(of_one))
    return float((one - other).abs().max()) <= tolerance([reference], finest=torch.float32) * scale
