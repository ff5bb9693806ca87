"""ONNX files as programs: read, captured, and proved against ONNX Runtime on the file itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from atograph.capture.to_program import capture
from atograph.from_onnx.body import Source
from atograph.from_onnx.examples import Dims, dims_of, example_for
from atograph.from_onnx.file import OnnxFile, read_onnx
from atograph.from_onnx.masked_file import write_with_weights
from atograph.from_onnx.network import OnnxNetwork, network_of, tried
from atograph.from_onnx.proved import check_same
from atograph.passes.errors import UserError
from atograph.passes.ir.interface import Example
from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule
from atograph.spec.programs import ProgramForm

_OTHER_SIZES = "Of another size it is with inputs of that: --data FILE.npz, or trace(path, inputs)"
_NO_BATCH = "the first dim of its inputs is a number in the file, or no number of samples"


class OnnxProgram(ProgramModule):
    """The program of an ONNX file, which knows the file and where in it each of its weights stands.

    Attributes:
        file: as it was read.
        sources: of its parameters and buffers.
    """

    def __init__(self, program: Program, file: OnnxFile, sources: tuple[Source, ...]) -> None:
        super().__init__(program)
        self.file, self.sources = file, sources

    def write_file(self, path: Path) -> Path:
        """The file again with the weights that this module has now."""
        return write_with_weights(self.file, self.sources, self.tensors(), path)


class Onnx(ProgramForm):
    """An ONNX file of anybody's; reading it runs no code of it."""

    name: ClassVar[str] = ".onnx"
    words: ClassVar[str] = "an ONNX file, of opset 7 or newer"

    @staticmethod
    def read(path: Path, example: Example | None) -> ProgramModule:
        """The program of a file.

        Raises:
            UserError: it has an op or a type that is not known here; or it computes something else here than in ONNX
                Runtime; or it cannot be computed with the inputs.
        """
        network = network_of(read_onnx(path))
        dims = dims_of(network.file.inputs, network.arguments)
        if example is None:
            inputs = example_for(network, dims)
            dims = dims.told_by(inputs)
        else:
            inputs = _by_name(network, *example)
        tried(network, inputs)
        program, dims, inputs = _with_most_sizes(network, inputs, dims, made=example is None)
        if example is None:
            still = {name: f"{why.rstrip('.')}. {_OTHER_SIZES}" for name, why in program.interface.still.items()}
            program.interface = replace(program.interface, still=still)
        if dims.batch is None and program.interface.fixed:
            program.interface = replace(program.interface, fixed=_NO_BATCH)
        program.interface = replace(
            program.interface, called={**network.names, **dims.names_in_file()}, asked=(), reads_training=False,
            about=network.file.about,
        )  # fmt: skip
        made = OnnxProgram(program, network.file, tuple(network.all_sources()))
        made.eval()
        check_same(made, network, inputs)
        return made


def _with_most_sizes(
    network: OnnxNetwork, inputs: dict[str, torch.Tensor], dims: Dims, *, made: bool
) -> tuple[Program, Dims, dict[str, torch.Tensor]]:
    """The program, and the dims and inputs that it was made with: where not all dims can be followed by themselves,
    those that have to be the same are one, or the first is no batch, and inputs that were made up get another length.

    Raises:
        UserError: it cannot be captured at all.
    """
    program, tied = _captured(network, inputs, dims), dims.tied(inputs)
    others = [each for each in (tied, dims.without_batch()) if each != dims] if program.interface.still else []
    for tried_dims in others:
        given = example_for(network, tried_dims) if made and tried_dims.batch != dims.batch else inputs
        other = _captured(network, given, tried_dims)
        if len(other.interface.still) < len(program.interface.still):
            return other, tried_dims, given
    return program, dims, inputs


def _captured(network: OnnxNetwork, inputs: Mapping[str, torch.Tensor], dims: Dims) -> Program:
    """The program with the dynamic dims of the file; where it cannot be followed at other sizes than the example's,
    with none, and why.

    Raises:
        UserError: it cannot be captured at all.
    """
    first: UserError | None = None
    choices: list[tuple[str, ...] | bool] = [*dict.fromkeys((dims.texts(network.arguments), False))]
    if network.unrolled and len(choices) > 1:
        first = UserError(f"{network.unrolled} goes round as often as an input is long.")
        choices = [False]
    for dynamic in choices:
        try:
            program = capture(network, tuple(inputs[name] for name in network.inputs), dynamic=dynamic)
        except UserError as error:
            first = first or error
            continue
        if first is not None:
            still = dict.fromkeys(sorted({*dims.names.values()}), first.message)
            program.interface = replace(program.interface, still=still)
        return program
    assert first is not None
    raise UserError(first.message, where=first.where or str(network.file.path), hint=first.hint) from first


def _by_name(network: OnnxNetwork, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, Any]:
    """Arguments of a call by the names of the file's inputs.

    Raises:
        UserError: they are others, or no tensors.
    """
    own = {argument: name for name, argument in network.arguments.items()}
    first = args[0] if len(args) == 1 and not kwargs else None
    if isinstance(first, Mapping):
        args, kwargs = (), first
    given = dict(zip(network.inputs, args, strict=False)) | {own.get(name, name): each for name, each in kwargs.items()}
    missing = [name for name in network.inputs if not isinstance(given.get(name), torch.Tensor)]
    if missing or len(args) > len(network.inputs) or len(given) > len(network.inputs):
        raise UserError(
            f"it takes {', '.join(network.inputs)}, each a tensor, and the inputs given are "
            f"{', '.join(given) or 'none'}.", where=str(network.file.path),
        )  # fmt: skip
    return {value.name: _cut(given[value.name], value.shape) for value in network.file.inputs}


def _cut(given: torch.Tensor, shape: tuple[int | str | None, ...] | None) -> torch.Tensor:
    """As many samples as the file takes, where it takes a certain number of them."""
    samples = shape[0] if shape and given.dim() == len(shape) else None
    return given[:samples] if isinstance(samples, int) and samples < len(given) else given
