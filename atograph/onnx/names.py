"""What the inputs and outputs of an exported program are called, and which of them an ONNX file can hold."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

from torch import fx
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import ConstantArgument, ExportGraphSignature, InputKind, OutputKind, OutputSpec

from atograph.passes.ir.exported.edits import rebuilt
from atograph.passes.ir.outputs import names_of, paths_of
from atograph.passes.torch_private import pytree


def input_names(program: ExportedProgram) -> list[str]:
    """The tensors that the program takes, by the parameters of the model's ``forward``."""
    return [
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and not isinstance(spec.arg, ConstantArgument)
    ]


def output_names(program: ExportedProgram) -> list[str]:
    """One name for each tensor that the program returns.

    ``output`` for a single one; ``output_0``, ``output_1`` in a tuple; ``logits`` and ``hidden_0`` for what a dict or a
    dataclass holds. A name that an input has gets ``_out``.
    """
    specs, spec = _returned(program), program.call_spec.out_spec
    paths = [(str(index),) for index in range(len(specs))] if spec is None else paths_of(spec)
    tensors = [path for path, each in zip(paths, specs, strict=True) if not isinstance(each.arg, ConstantArgument)]
    return names_of(tensors, input_names(program))


def _returned(program: ExportedProgram) -> list[OutputSpec]:
    return [spec for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]


def without_constants(program: ExportedProgram) -> ExportedProgram:
    """The same program without what it returns that is no tensor: numbers, text and None. ONNX has no word for them.

    Without example inputs either: torch.onnx would call it with checks of them, which trip over what is not there.
    """
    specs = program.graph_signature.output_specs
    stays = [not isinstance(spec.arg, ConstantArgument) for spec in specs]
    if all(stays):
        return rebuilt(program, example_inputs=None)
    graph = deepcopy(program.graph)
    output = graph.output_node()
    output.args = (tuple(value for value, kept in zip(output.args[0], stays, strict=True) if kept),)
    signature = ExportGraphSignature(
        program.graph_signature.input_specs, [spec for spec, kept in zip(specs, stays, strict=True) if kept]
    )
    return rebuilt(
        program,
        root=fx.GraphModule(program.graph_module, graph),
        graph=graph,
        graph_signature=signature,
        module_call_graph=[_returning(sum(stays), entry) for entry in program.module_call_graph[:1]],
        example_inputs=None,
    )


def _returning(count: int, entry: ModuleCallEntry) -> ModuleCallEntry:
    """The same call with a flat tuple of values."""
    assert entry.signature is not None
    return replace(entry, signature=replace(entry.signature, out_spec=pytree.tree_structure((0,) * count), outputs=[]))


def with_constants(program: ExportedProgram, tensors: Sequence[object]) -> object:
    """What the program returns, from the tensors among it."""
    found = iter(tensors)
    leaves = [spec.arg.value if isinstance(spec.arg, ConstantArgument) else next(found) for spec in _returned(program)]
    spec = program.call_spec.out_spec
    return leaves if spec is None else pytree.tree_unflatten(leaves, spec)
