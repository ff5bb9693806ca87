"""The certificate: masked dense network = slim program = ONNX Runtime, on real inputs, at two batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

import torch
from torch import nn

from atograph.capture.time_limit import within_limit
from atograph.capture.to_program import batch_sizes, with_batch
from atograph.files.writing import scratch
from atograph.graph import trace
from atograph.onnx.export import export_onnx
from atograph.ort.model import OnnxModel
from atograph.passes.errors import InternalError, UserError
from atograph.passes.plan.plan import Plan
from atograph.passes.torch_private import pytree
from atograph.process.stages import stage
from atograph.report.run import Comparison, RuntimeFault
from atograph.slimming.slim import Slim
from atograph.slimming.slim import slim as make_slim
from atograph.spec.example_inputs import Inputs
from atograph.values.difference import TOLERANCES, differences, relative_difference, tolerance
from atograph.values.eval_mode import copy_of, eval_mode
from atograph.values.structures import tensors_of

TOLERANCE = TOLERANCES[torch.float32]
"""Largest relative difference between float32 programs that sum in another order."""


def certify(masked: nn.Module, slim: Slim, onnx_model: nn.Module, inputs: Inputs) -> list[Comparison]:
    """Compare the three forms (`compare`), and insist on it.

    Raises:
        UserError: the masked network gives NaN, by which nothing is proved.
        InternalError: a difference is above the tolerance.
    """
    if not gives_numbers(masked, inputs):
        raise UserError(
            "the trained network gives NaN for the example inputs, so nothing can be proved.",
            hint="Look for values that are too large in the weights or in the data.",
        )
    entries = compare(masked, slim, onnx_model, inputs)
    for entry in entries:
        if not entry.holds:
            raise InternalError(
                f"the certificate failed at a batch of {entry.batch}: masked and slim differ by "
                f"{entry.masked_slim:.1e}, slim and ONNX Runtime by {entry.slim_onnx:.1e}, allowed are "
                f"{entry.tolerance:.0e} (relative)."
            )
    return entries


def gives_numbers(model: nn.Module, inputs: Inputs) -> bool:
    """Whether no output for these inputs is NaN."""
    with eval_mode(model), torch.no_grad(), within_limit(model, "a call of the model"):
        return not any(bool(torch.isnan(value).any()) for value in tensors_of(model(*inputs.args, **inputs.kwargs)))


def compare(masked: nn.Module, slim: Slim, onnx_model: nn.Module, inputs: Inputs) -> list[Comparison]:
    """The three forms at a batch of one and at the batch of ``inputs`` (only there, if the program takes no other).

    Where slim and ONNX Runtime differ, the masked dense network is exported and run, too: what ONNX Runtime gets wrong
    of that is its own mistake, and only the values that it gets right count.

    Args:
        masked: the dense network on the CPU with the plan's zeroing sets at zero.
        slim: what was made of it.
        onnx_model: the exported file.
        inputs: real ones, a batch of two or more.
    """
    revived = _revived(masked, slim.plan)
    entries = []
    *smaller, own = batch_sizes(inputs, slim.passes_program)
    for size in (*smaller, own):
        args, kwargs = with_batch(tuple(inputs), size)
        with eval_mode(masked), eval_mode(revived), torch.no_grad():
            try:
                reference = tensors_of(masked(*args, **kwargs))
            except Exception:
                if size == own:
                    raise
                continue  # statistics of a single sample, say: no batch for this model
            found = tensors_of(slim(*args, **kwargs))
            in_runtime = tensors_of(onnx_model(*args, **kwargs))
            allowed = tolerance([*reference, *slim.passes_program.state.values()], finest=torch.float32)
            masked_slim, slim_onnx, fault = _largest(reference, found), _largest(found, in_runtime), None
            if masked_slim <= allowed and not slim_onnx <= allowed:
                dense = _in_runtime(slim, Inputs(args, kwargs))
                slim_onnx, fault = _without_faults(reference, dense, found, in_runtime, allowed)
            entry = Comparison(
                batch=size,
                masked_slim=masked_slim,
                slim_onnx=slim_onnx,
                tolerance=allowed,
                runtime=fault,
                moved=_largest(reference, tensors_of(revived(*args, **kwargs))),
            )
        entries.append(entry)
    return entries


def _in_runtime(slim: Slim, inputs: Inputs) -> list[torch.Tensor]:
    """What ONNX Runtime computes of the masked dense network.

    Raises:
        UserError: it cannot be exported, or ONNX Runtime cannot run it.
    """
    program = slim.dense_program()
    with stage("comparing the dense model with ONNX Runtime"), scratch() as aside:
        file = OnnxModel(export_onnx(program, aside / "dense.onnx"), program)
        return tensors_of(file(*inputs.args, **inputs.kwargs))


def _without_faults(
    reference: Sequence[torch.Tensor],
    dense: Sequence[torch.Tensor],
    found: Sequence[torch.Tensor],
    in_runtime: Sequence[torch.Tensor],
    allowed: float,
) -> tuple[float, RuntimeFault | None]:
    """How far slim and ONNX Runtime are apart where it is right of the dense network, and what it is not right about.

    Args:
        reference, dense: the masked network in PyTorch and in ONNX Runtime.
        found, in_runtime: the slim one.
        allowed: the difference up to which two values are the same.
    """
    whole, of_dense = _largest(found, in_runtime), _largest(reference, dense)
    if of_dense <= allowed:
        return whole, None
    right = torch.cat([differences(one, other) <= allowed for one, other in zip(reference, dense, strict=True)])
    apart = torch.cat([differences(one, other) for one, other in zip(found, in_runtime, strict=True)])[right]
    fault = RuntimeFault(
        dense=of_dense if isfinite(of_dense) else None,
        slim=whole if isfinite(whole) else None,
        compared=float(right.double().mean()),
    )
    return float(apart.max()) if apart.numel() else 0.0, fault


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
            reference = tensors_of(wide(*args, **kwargs))
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
    graph = trace(model, inputs.args, inputs.kwargs).for_plan(slim.plan)
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


def _largest(reference: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    if len(reference) != len(found) or any(a.shape != b.shape for a, b in zip(reference, found, strict=True)):
        raise InternalError("two forms of the network give outputs of different number or shape.")
    return max((relative_difference(a, b) for a, b in zip(reference, found, strict=True)), default=0.0)


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
