"""The certificate: masked dense network = slim program = the file of each target, on real inputs, at two sizes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import nn

from atograph.capture.model_state import current_state
from atograph.capture.time_limit import within_limit
from atograph.graph.from_model import trace_as
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.decisions import DecidesOtherwise
from atograph.passes.ir.outputs import OutputPath
from atograph.passes.plan.plan import Plan
from atograph.passes.torch_private import pytree
from atograph.proof.forms import Forms, largest
from atograph.proof.source_file import LABEL, SourceFile, source_file
from atograph.proof.ways_taken import inputs_by_ways
from atograph.report.run import Comparison
from atograph.slimming.slim import Slim
from atograph.slimming.slim import slim as make_slim
from atograph.spec.example_inputs import Inputs
from atograph.targets.base import Target
from atograph.targets.deployed import Deployed
from atograph.values.batch_size import batch_sizes, with_batch
from atograph.values.difference import TOLERANCES, tolerance
from atograph.values.eval_mode import copy_of, eval_mode
from atograph.values.resized import around, resized
from atograph.values.structures import copied, tensors_of

TOLERANCE = TOLERANCES[torch.float32]
"""Largest relative difference between float32 programs that sum in another order."""

STEPS = 8
"""Calls in a row, each with the state of the last one, that are compared where there is state."""


def certify(masked: nn.Module, slim: Slim, files: Sequence[Deployed], inputs: Inputs) -> list[Comparison]:
    """Compare all forms (`compare`), and insist on it.

    Raises:
        UserError: the masked network gives NaN, by which nothing is proved; or it may decide otherwise than the slim
            program, whose checks were dropped.
        InternalError: a difference is above the tolerance.
    """
    if not gives_numbers(masked, inputs, slim.left_out):
        raise UserError(
            "the trained network gives NaN for the example inputs, so nothing can be proved.",
            hint="Look for values that are too large in the weights or in the data.",
        )
    entries = compare(masked, slim, files, inputs)
    interface = slim.passes_program.interface
    for entry in entries:
        if interface.decided and not interface.checked and entry.masked_slim > entry.tolerance:
            raise UserError(
                f"the certificate failed at a {entry.at}: masked and slim differ by {entry.masked_slim:.1e} "
                f"(relative). The model decides by values ({interface.decided[0]}, ...), and checks of that were "
                "dropped.",
                hint="With checks=keep it says which decision is another one.",
            )
        if not entry.holds:
            raise _failure(entry, {file.target.name: file.target for file in files})
    return entries


def _failure(entry: Comparison, targets: Mapping[str, Target]) -> InternalError:
    """What is apart, and whose bug it is: that of the package of the first target whose file is."""
    parts = [f"masked and slim differ by {entry.masked_slim:.1e}"]
    for name, each in entry.targets.items():
        own = f" (of {each.tolerance:.0e})" if each.tolerance != entry.tolerance else ""
        parts.append(f"slim and {targets[name].title} by {each.difference:.1e}{own}")
    if entry.source is not None and not entry.source.holds:
        parts.append(f"the {LABEL} and the slim file by {entry.source.difference:.1e}")
    text = f"the certificate failed at a {entry.at}: {', '.join(parts)}"
    wrong = [targets[name] for name, each in entry.targets.items() if not each.holds]
    ours = entry.masked_slim > entry.tolerance or not wrong
    culprit = "atograph" if ours else type(wrong[0]).__module__.partition(".")[0]
    return InternalError(f"{text}, allowed are {entry.tolerance:.0e} (relative).", culprit)


def gives_numbers(model: nn.Module, inputs: Inputs, left_out: Collection[OutputPath] = ()) -> bool:
    """Whether no output for these inputs is NaN, of those that are not left out."""
    args, kwargs = copied(inputs.example)
    with eval_mode(model), torch.no_grad(), within_limit(model, "a call of the model"):
        values = tensors_of(model(*args, **kwargs), left_out)
        return not any(bool(torch.isnan(value).any()) for value in values)


def compare(masked: nn.Module, slim: Slim, files: Sequence[Deployed], inputs: Inputs) -> list[Comparison]:
    """All forms at a batch of one and at the batch of ``inputs`` (only there, if the program takes no other), and with
    its other dynamic sizes below and above those of ``inputs``; where there is state, in several calls in a row, too;
    where there are branches that these inputs do not take, with others, made of them, that do (`proof.ways_taken`).

    A model that came from an ONNX file is run as that file, too, with the plan's zeros in it: the slim file is compared
    with that. Where slim and a target differ, the masked dense network is exported to that target and run there, too:
    what the target gets wrong of that is its own mistake, and only the values that it gets right count.

    Args:
        masked: the dense network on the CPU with the plan's zeroing sets at zero.
        slim: what was made of it.
        files: of the slim program, each in its target.
        inputs: real ones, a batch of two or more.
    """
    with source_file(masked, files) as source:
        return _compared(masked, slim, files, inputs, source)


def _compared(
    masked: nn.Module, slim: Slim, files: Sequence[Deployed], inputs: Inputs, source: SourceFile | None
) -> list[Comparison]:
    revived = _revived(masked, slim.plan)
    entries = []
    interface, given = slim.passes_program.interface, inputs.example
    most = [file.most for file in files if file.most is not None]
    *smaller, own = sorted({min([size, *most]) for size in batch_sizes(inputs, slim.passes_program)})
    calls = [*((size, {}) for size in smaller), *((own, sizes) for sizes in around(interface)), (own, {})]
    for batch, sizes in calls:
        resized_inputs = with_batch(resized(given, interface, sizes), batch, interface)
        form = Forms(masked, revived, slim, files, resized_inputs, source)
        try:
            form.call_masked()
        except Exception:
            if batch == own and not sizes:
                raise
            continue  # statistics of a single sample, say: no size for this model
        if (batch != own or sizes) and not interface.checked and form.decides_otherwise():
            continue
        try:
            entries.append(form.compared(batch, sizes))
        except DecidesOtherwise:
            if batch == own and not sizes:
                raise  # else a part of the inputs decides otherwise than the whole, and the program refuses it
    if slim.state:  # at the sizes of the example, which came last
        entries += [entry for entry in [_in_a_row(form, entries[-1])] if entry.steps > 1]
    for words, made, new in inputs_by_ways(
        slim.passes_program, with_batch(given, own, interface), lambda each: slim.state.inputs(slim.state.started(each))
    ):
        if words:
            form = Forms(masked, revived, slim, files, made, source)
            try:
                form.call_masked()
            except Exception:  # the model takes no such values
                continue
            entries.append(form.compared(own, {}))
        entries[-1] = entries[-1].model_copy(update={"made": words, "branches": sorted(new)})
    return entries


def _in_a_row(forms: Forms, first: Comparison) -> Comparison:
    """The largest differences in several calls, each with the state that the last one has returned; one call is done.

    There are fewer than `STEPS` where the program takes no state of the length that comes out, or the model none.
    """
    entry, steps = first, 1
    while steps < STEPS and forms.go_on():
        steps += 1
        entry = _worse(entry, forms.compared(first.batch, {}))
    return entry.model_copy(update={"steps": steps})


def _worse(one: Comparison, other: Comparison) -> Comparison:
    """The larger difference of each, and the larger movement."""
    targets = {
        name: max(one.targets[name], other.targets[name], key=lambda each: each.difference) for name in one.targets
    }
    sources = [each.source for each in (one, other) if each.source is not None]
    return one.model_copy(update={
        "masked_slim": max(one.masked_slim, other.masked_slim), "targets": targets,
        "source": max(sources, key=lambda each: each.difference, default=None),
        "tolerance": max(one.tolerance, other.tolerance), "moved": max(one.moved, other.moved),
    })  # fmt: skip


def exactness(masked: nn.Module, slim: Slim, inputs: Inputs) -> float | None:
    """The largest relative difference between masked and slim in float64; None for a model that only runs in float32.

    A program that was captured in float32 says so where it makes tensors (the first state of a recurrent layer), and
    holds numbers of that type (the smallest one). It is captured and made slim anew then, of the model in float64.

    Raises:
        InternalError: it is above the tolerance of float64; of float32 where the program casts to that.
    """
    double = pytree.tree_map(
        lambda leaf: leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf,
        inputs.example,
    )
    started = slim.state.started(double)
    args, kwargs = copied(started)
    wide = copy_of(masked).double()
    with eval_mode(wide), torch.no_grad():
        try:
            reference = slim.state.outputs(tensors_of(wide(*args, **kwargs), slim.left_out))
        except (RuntimeError, AssertionError):  # the model itself casts to float32 somewhere, or quantises that
            return None
        difference = None
        forms: tuple[Callable[[], Slim], ...] = (lambda: slim, lambda: _anew(wide, slim, Inputs(*started)))
        for form in forms:
            args, kwargs = copied(slim.state.inputs(started))
            try:
                tried = form()
                found = tensors_of(tried.double()(*args, **kwargs))
            except (RuntimeError, UserError):
                continue
            difference = largest(reference, found)
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
    plan = slim.plan
    graph = trace_as(plan, model, *inputs).for_plan(plan)
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


def _revived(masked: nn.Module, plan: Plan) -> nn.Module:
    """The masked network with noise, of the scale of what stayed, where the plan has zeros: if this did not change the
    output, the comparison would show nothing."""
    revived = copy_of(masked)
    parameters = current_state(revived)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, slices in plan.zeroing.items():
            units = plan.mask(name)
            for part in slices:
                parameter = parameters[part.parameter]
                shape = [-1 if d == part.dim else 1 for d in range(parameter.dim())]
                dropped = (part.mask(units) == 0).reshape(shape)
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.is_floating_point() or parameter.is_complex():
                    noise = noise.to(parameter.dtype) * (parameter.std(correction=0) + 1e-3)
                else:  # quantised
                    noise = (noise * (parameter.float().std(correction=0) + 1)).clamp(-127, 127).to(parameter.dtype)
                parameter.copy_(torch.where(dropped, noise, parameter))
    return revived
