"""All forms of one slim network, called with the same inputs, or in a row, and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

import torch
from torch import nn

from atograph.files.writing import scratch
from atograph.ort.model import OnnxModel
from atograph.ort.of_one import TELLING, settled
from atograph.passes.errors import InternalError
from atograph.passes.ir.interface import Example
from atograph.process.stages import stage
from atograph.proof.source_file import LABEL, SourceFile
from atograph.report.run import Comparison, InTarget, RuntimeFault
from atograph.slimming.slim import Slim
from atograph.targets.base import Target
from atograph.targets.deployed import Deployed, dense_file, export, load
from atograph.values.difference import differences, largest_difference, tolerance
from atograph.values.eval_mode import eval_mode
from atograph.values.structures import copied, tensors_of


class Forms:
    """The masked dense network, the slim program and its files, each with the inputs of its next call.

    Where there is state, the first one is zero at the units that go, and every form carries its own from then on.

    Args:
        masked: the dense network with the plan's zeroing sets at zero.
        revived: the same with noise there.
        slim: what was made of it.
        files: of the slim program.
        inputs: of the first call of the dense network.
        source: the ONNX file that the dense network came from, with its zeros.
    """

    def __init__(
        self,
        masked: nn.Module,
        revived: nn.Module,
        slim: Slim,
        files: Sequence[Deployed],
        inputs: Example,
        source: SourceFile | None = None,
    ) -> None:
        self._source = source
        self.slim, self._masked, self._revived, self._files = slim, masked, revived, files
        self.dense_inputs = self._revived_inputs = slim.state.started(inputs)
        self._inputs = slim.state.inputs(self.dense_inputs)
        self._file_inputs = {file.target.name: self._inputs for file in files}
        self._dense_outputs: list[torch.Tensor] = []
        self.outputs: list[torch.Tensor] = []
        self._others: dict[str, list[torch.Tensor]] = {}

    @property
    def masked(self) -> list[torch.Tensor]:
        """What the masked network has given, cut to what the slim program gives."""
        return self.slim.state.outputs(self._dense_outputs)

    def call_masked(self) -> None:
        """Call the masked network, before the others."""
        self._dense_outputs = self._called(self._masked, self.dense_inputs)

    def decides_otherwise(self) -> bool:
        """Whether the model's code goes another way with these inputs than with the example."""
        args, kwargs = copied(self.dense_inputs)
        with torch.no_grad():
            return self.slim.decides_otherwise(self._masked, *args, **kwargs)

    def go_on(self) -> bool:
        """Go to the next call, with the state that the last one has returned, and call the masked network; whether it,
        and the program, take that state."""
        state = self.slim.state
        following = state.following(self.dense_inputs, self._dense_outputs)
        args, kwargs = state.inputs(following)
        if self.slim.why_not(*args, **kwargs):
            return False
        self.dense_inputs = following
        try:
            self.call_masked()
        except Exception:
            return False
        self._inputs = state.following(self._inputs, self.outputs)
        self._revived_inputs = state.following(self._revived_inputs, self._others.pop(""))
        for name, tensors in self._others.items():
            self._file_inputs[name] = state.following(self._file_inputs[name], tensors)
        return True

    def compared(self, batch: int, sizes: Mapping[str, int]) -> Comparison:
        """Call all other forms, and compare."""
        args, kwargs = copied(self._inputs)
        reference = self.masked
        with torch.no_grad():
            self.outputs = tensors_of(self.slim(*args, **kwargs))
        allowed = tolerance([*reference, *self.slim.passes_program.state.values()], finest=torch.float32)
        masked_slim = largest(reference, self.outputs)
        excused = masked_slim <= allowed
        targets = {file.target.name: self._in_target(file, allowed, excused=excused) for file in self._files}
        self._others[""] = self._called(self._revived, self._revived_inputs)
        return Comparison(
            batch=batch,
            sizes=dict(sizes),
            masked_slim=masked_slim,
            targets=targets,
            source=self._of_source(allowed),
            tolerance=allowed,
            moved=largest(reference, self.slim.state.outputs(self._others[""])),
        )

    def _called(self, model: nn.Module, inputs: Example) -> list[torch.Tensor]:
        args, kwargs = copied(inputs)
        with eval_mode(model), torch.no_grad():
            return tensors_of(model(*args, **kwargs), self.slim.left_out)

    def _in_target(self, file: Deployed, allowed: float, *, excused: bool) -> InTarget:
        """The slim program against the file of a target.

        Args:
            file: in its target.
            allowed: the difference up to which two values are the same, unless the target has its own.
            excused: whether what the target gets wrong of the dense network does not count.
        """
        target = file.target
        allowed = allowed if target.tolerance is None else target.tolerance
        args, kwargs = copied(self._file_inputs[target.name])
        values: Sequence[torch.Tensor] = tensors_of(file(*args, **kwargs))
        self._others[target.name] = [*values]
        values = self._settled(file, self.outputs, values)
        difference, fault = largest_difference(self.outputs, values), None
        if excused and not difference <= allowed and _same_shapes(self.outputs, values):
            difference, fault = self._without_faults(file, values, allowed)
        return InTarget(label=target.label, difference=difference, tolerance=allowed, fault=fault)

    def _of_source(self, allowed: float) -> InTarget | None:
        """The file that the dense network came from against the file of the slim one, both in ONNX Runtime.

        None where there is none, or it does not take these sizes. Where ONNX Runtime is wrong of the dense one, the
        values count that it is right of.
        """
        target = next((file.target for file in self._files if isinstance(file.run, OnnxModel)), None)
        made = None if self._source is None or target is None else self._source(self.dense_inputs)
        if made is None or target is None:
            return None
        expected = self.slim.state.outputs(tensors_of(made, self.slim.left_out))
        graph = self.slim.passes_program.graph
        values = settled(graph, expected, self._others[target.name], least=TELLING)
        difference, fault = largest_difference(expected, values), None
        if not difference <= allowed and _same_shapes(self.masked, expected) and _same_shapes(expected, values):
            dense = settled(graph, self.masked, expected, least=TELLING)
            whole, of_dense = difference, largest_difference(self.masked, dense)
            pairs = [differences(one, other) <= allowed for one, other in zip(self.masked, dense, strict=True)]
            apart = [differences(one, other) for one, other in zip(expected, values, strict=True)]
            right = torch.cat(pairs)
            counted = torch.cat(apart)[right]
            difference = float(counted.max()) if counted.numel() else 0.0
            fault = RuntimeFault(
                title=target.title,
                dense=of_dense if isfinite(of_dense) else None,
                slim=whole if isfinite(whole) else None,
                compared=float(right.double().mean()),
            )
        return InTarget(label=LABEL, difference=difference, tolerance=allowed, fault=fault)

    def _without_faults(
        self, file: Deployed, values: Sequence[torch.Tensor], allowed: float
    ) -> tuple[float, RuntimeFault | None]:
        """How far the slim program and its file are apart where the target is right of the dense network.

        Args:
            file: in its target.
            values: what the file gives.
            allowed: the difference up to which two values are the same.

        Returns:
            That, and what the target is not right about.
        """
        target, whole = file.target, largest_difference(self.outputs, values)
        dense = self._settled(file, self.masked, self._dense(target))
        of_dense = largest_difference(self.masked, dense)
        if of_dense <= allowed or not _same_shapes(self.masked, dense):
            return whole, None
        right = torch.cat([differences(one, other) <= allowed for one, other in zip(self.masked, dense, strict=True)])
        apart = torch.cat([differences(one, other) for one, other in zip(self.outputs, values, strict=True)])[right]
        fault = RuntimeFault(
            title=target.title,
            dense=of_dense if isfinite(of_dense) else None,
            slim=whole if isfinite(whole) else None,
            compared=float(right.double().mean()),
        )
        return float(apart.max()) if apart.numel() else 0.0, fault

    def _settled(
        self, file: Deployed, references: Sequence[torch.Tensor], values: Sequence[torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        """Values of a file as they are compared (`ort.of_one`)."""
        of_runtime = isinstance(file.run, OnnxModel)
        graph = self.slim.passes_program.graph
        return settled(graph, references, values, least=TELLING) if of_runtime else values

    def _dense(self, target: Target) -> list[torch.Tensor]:
        """What a target computes of the masked dense network.

        Raises:
            UserError: it cannot be exported, or the target cannot run it.
        """
        program = self.slim.dense_program()
        with stage(f"comparing the dense model with {target.title}"), scratch() as aside:
            path = export(target, program, dense_file(target, aside))
            args, kwargs = copied(self.dense_inputs)
            return self.slim.state.outputs(tensors_of(load(target, path, program)(*args, **kwargs)))


def largest(reference: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
    """The largest relative difference between what two forms of a network give.

    Raises:
        InternalError: they give something else altogether.
    """
    if not _same_shapes(reference, outputs):
        raise InternalError("two forms of the network give outputs of different number or shape.")
    return largest_difference(reference, outputs)


def _same_shapes(reference: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> bool:
    return [each.shape for each in reference] == [each.shape for each in outputs]
