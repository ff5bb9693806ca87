"""The certificate: masked dense network = slim program = the file of each target, on real inputs, at two sizes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import nn

from atograph.capture.time_limit import within_limit
from atograph.files.writing import scratch
from atograph.graph import trace
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.outputs import OutputPath
from atograph.passes.plan.plan import Plan
from atograph.passes.torch_private import pytree
from atograph.process.stages import stage
from atograph.report.run import Comparison, InTarget, RuntimeFault
from atograph.slimming.slim import Slim
from atograph.slimming.slim import slim as make_slim
from atograph.spec.example_inputs import Inputs
from atograph.targets.base import Target
from atograph.targets.deployed import Deployed, dense_file, export, load
from atograph.values.batch_size import batch_sizes, with_batch
from atograph.values.difference import TOLERANCES, differences, largest_difference, tolerance
from atograph.values.eval_mode import copy_of, eval_mode
from atograph.values.resized import around, resized
from atograph.values.structures import tensors_of

TOLERANCE = TOLERANCES[torch.float32]
"""Largest relative difference between float32 programs that sum in another order."""


def certify(masked: nn.Module, slim: Slim, files: Sequence[Deployed], inputs: Inputs) -> list[Comparison]:
    """Compare all forms (`compare`), and insist on it.

    Raises:
        UserError: the masked network gives NaN, by which nothing is proved.
        InternalError: a difference is above the tolerance.
    """
    if not gives_numbers(masked, inputs, slim.left_out):
        raise UserError(
            "the trained network gives NaN for the example inputs, so nothing can be proved.",
            hint="Look for values that are too large in the weights or in the data.",
        )
    entries = compare(masked, slim, files, inputs)
    for entry in entries:
        if not entry.holds:
            raise _failure(entry, {file.target.name: file.target for file in files})
    return entries


def _failure(entry: Comparison, targets: Mapping[str, Target]) -> InternalError:
    """What is apart, and whose bug it is: that of the package of the first target whose file is."""
    parts = [f"masked and slim differ by {entry.masked_slim:.1e}"]
    for name, each in entry.targets.items():
        own = f" (of {each.tolerance:.0e})" if each.tolerance != entry.tolerance else ""
        parts.append(f"slim and {targets[name].title} by {each.difference:.1e}{own}")
    text = f"the certificate failed at a {entry.at}: {', '.join(parts)}"
    wrong = [targets[name] for name, each in entry.targets.items() if not each.holds]
    ours = entry.masked_slim > entry.tolerance or not wrong
    culprit = "atograph" if ours else type(wrong[0]).__module__.partition(".")[0]
    return InternalError(f"{text}, allowed are {entry.tolerance:.0e} (relative).", culprit)


def gives_numbers(model: nn.Module, inputs: Inputs, left_out: Collection[OutputPath] = ()) -> bool:
    """Whether no output for these inputs is NaN, of those that are not left out."""
    with eval_mode(model), torch.no_grad(), within_limit(model, "a call of the model"):
        values = tensors_of(model(*inputs.args, **inputs.kwargs), left_out)
        return not any(bool(torch.isnan(value).any()) for value in values)


def compare(masked: nn.Module, slim: Slim, files: Sequence[Deployed], inputs: Inputs) -> list[Comparison]:
    """All forms at a batch of one and at the batch of ``inputs`` (only there, if the program takes no other), and with
    its other dynamic sizes below and above those of ``inputs``.

    Where slim and a target differ, the masked dense network is exported to that target and run there, too: what the
    target gets wrong of that is its own mistake, and only the values that it gets right count.

    Args:
        masked: the dense network on the CPU with the plan's zeroing sets at zero.
        slim: what was made of it.
        files: of the slim program, each in its target.
        inputs: real ones, a batch of two or more.
    """
    revived = _revived(masked, slim.plan)
    entries = []
    interface, given = slim.passes_program.interface, tuple(inputs)
    *smaller, own = batch_sizes(inputs, slim.passes_program)
    calls = [*((size, {}) for size in smaller), *((own, sizes) for sizes in around(interface)), (own, {})]
    for batch, sizes in calls:
        args, kwargs = with_batch(resized(given, interface, sizes), batch)
        with eval_mode(masked), eval_mode(revived), torch.no_grad():
            try:
                reference = tensors_of(masked(*args, **kwargs), slim.left_out)
            except Exception:
                if batch == own and not sizes:
                    raise
                continue  # statistics of a single sample, say: no size for this model
            outputs = tensors_of(slim(*args, **kwargs))
            allowed = tolerance([*reference, *slim.passes_program.state.values()], finest=torch.float32)
            masked_slim = _largest(reference, outputs)
            forms = _Forms(slim, Inputs(args, kwargs), reference, outputs)
            entry = Comparison(
                batch=batch,
                sizes=sizes,
                masked_slim=masked_slim,
                targets={
                    file.target.name: forms.in_target(file, allowed, excused=masked_slim <= allowed) for file in files
                },
                tolerance=allowed,
                moved=_largest(reference, tensors_of(revived(*args, **kwargs), slim.left_out)),
            )
        entries.append(entry)
    return entries


@dataclass(frozen=True)
class _Forms:
    """What the masked and the slim network give for some inputs."""

    slim: Slim
    inputs: Inputs
    masked: Sequence[torch.Tensor]
    outputs: Sequence[torch.Tensor]

    def in_target(self, file: Deployed, allowed: float, *, excused: bool) -> InTarget:
        """The slim program against the file of a target.

        Args:
            file: in its target.
            allowed: the difference up to which two values are the same, unless the target has its own.
            excused: whether what the target gets wrong of the dense network does not count.
        """
        target = file.target
        allowed = allowed if target.tolerance is None else target.tolerance
        values = tensors_of(file(*self.inputs.args, **self.inputs.kwargs))
        difference, fault = largest_difference(self.outputs, values), None
        if excused and not difference <= allowed and _same_shapes(self.outputs, values):
            difference, fault = self._without_faults(target, values, allowed)
        return InTarget(label=target.label, difference=difference, tolerance=allowed, fault=fault)

    def _without_faults(
        self, target: Target, values: Sequence[torch.Tensor], allowed: float
    ) -> tuple[float, RuntimeFault | None]:
        """How far the slim program and its file are apart where the target is right of the dense network.

        Args:
            target: that of the file.
            values: what the file gives.
            allowed: the difference up to which two values are the same.

        Returns:
            That, and what the target is not right about.
        """
        whole, dense = largest_difference(self.outputs, values), self._dense(target)
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

    def _dense(self, target: Target) -> list[torch.Tensor]:
        """What a target computes of the masked dense network.

        Raises:
            UserError: it cannot be exported, or the target cannot run it.
        """
        program = self.slim.dense_program()
        with stage(f"comparing the dense model with {target.title}"), scratch() as aside:
            path = export(target, program, dense_file(target, aside))
            return tensors_of(load(target, path, program)(*self.inputs.args, **self.inputs.kwargs))


def exactness(masked: nn.Module, slim: Slim, inputs: Inputs) -> float | None:
    """The largest relative difference between masked and slim in float64; None for a model that only runs in float32.

    A program that was captured in float32 says so where it makes tensors (the first state of a recurrent layer), and
    holds numbers of that type (the smallest one). It is captured and made slim anew then, of the model in float64.

    Raises:
        InternalError: it is above the tolerance of float64; of float32 where the program casts to that.
    """
    double = pytree.tree_map(
        lambda leaf: leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf,
        tuple(inputs),
    )
    args, kwargs = double
    wide = copy_of(masked).double()
    with eval_mode(wide), torch.no_grad():
        try:
            reference = tensors_of(wide(*args, **kwargs), slim.left_out)
        except RuntimeError:  # the model itself casts to float32 somewhere
            return None
        difference = None
        forms: tuple[Callable[[], Slim], ...] = (lambda: slim, lambda: _anew(wide, slim, Inputs(args, kwargs)))
        for form in forms:
            try:
                tried = form()
                found = tensors_of(tried.double()(*args, **kwargs))
            except (RuntimeError, UserError):
                continue
            difference = _largest(reference, found)
            if difference <= tolerance([*reference, *found], finest=torch.float32 if _casts(tried) else torch.float64):
                return difference
    if difference is not None:
        raise InternalError(f"in float64 the masked and the slim network differ by {difference:.1e} (relative).")
    return None


def _anew(model: nn.Module, slim: Slim, inputs: Inputs) -> Slim:
    """The same slimming of a model in another type.

    Raises:
        UserError: it is captured as other ops, so that it would prove nothing of this one.
    """
    graph = trace(model, *inputs, dynamic=slim.plan.dynamic, outputs=slim.plan.outputs).for_plan(slim.plan)
    made = make_slim(graph, slim.plan)
    if _ops(made) != _ops(slim):
        raise UserError("the model in float64 is another program.")
    return made


def _ops(slim: Slim) -> list[object]:
    return [node.target for node in slim.passes_program.graph.nodes if node.op == "call_function"]


def _casts(slim: Slim) -> bool:
    """Whether the program casts to a narrower float by itself, so that float64 inputs do not stay so."""
    narrow = (torch.float32, torch.float16, torch.bfloat16)
    return any(
        value in narrow
        for node in slim.passes_program.graph.nodes
        for value in [*node.args, *node.kwargs.values()]
        if isinstance(value, torch.dtype)
    )


def _largest(reference: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
    if not _same_shapes(reference, outputs):
        raise InternalError("two forms of the network give outputs of different number or shape.")
    return largest_difference(reference, outputs)


def _same_shapes(reference: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> bool:
    return [each.shape for each in reference] == [each.shape for each in outputs]


def _revived(masked: nn.Module, plan: Plan) -> nn.Module:
    """The masked network with noise, of the scale of what stayed, where the plan has zeros: if this did not change the
    output, the comparison would show nothing."""
    revived = copy_of(masked)
    parameters = dict(revived.named_parameters(remove_duplicate=False))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, slices in plan.zeroing.items():
            units = plan.mask(name)
            for part in slices:
                parameter = parameters[part.parameter]
                shape = [-1 if d == part.dim else 1 for d in range(parameter.dim())]
                dropped = (part.mask(units) == 0).reshape(shape)
                scale = parameter.std(correction=0) + 1e-3
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
                parameter.copy_(torch.where(dropped, noise * scale, parameter))
    return revived
