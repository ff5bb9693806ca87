"""The certificate of a finished run, again: the dense network is put together from its code and the slim weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from atograph.declared.again import certify_again
from atograph.declared.smaller import as_declared
from atograph.declared.token_inputs import after_changes
from atograph.files.mismatch import misfits
from atograph.files.plan_file import read_plan
from atograph.files.writing import scratch
from atograph.graph.from_model import trace_as
from atograph.graph.graph import Graph
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.passes.rewrite.kept import Kept
from atograph.passes.torch_private import pytree
from atograph.process.stages import stage
from atograph.program import pt2_file
from atograph.program.attributes import attributes_of
from atograph.program.load import (
    WEIGHTS,
    check_weights_beside,
    example_of,
    load_run,
    load_safetensors,
    state_of,
    whole_example_of,
)
from atograph.program.model import ProgramModel
from atograph.proof.certificate import TOLERANCE, compare
from atograph.report.applied import load_report
from atograph.report.declared import DeclaredProof
from atograph.report.run import Comparison, Report
from atograph.report.same_run import HINT, check_same_plan, check_takes
from atograph.slimming.masking import zero_
from atograph.slimming.slim import Slim, slim
from atograph.spec.example_inputs import Inputs, check_accepts
from atograph.targets.base import Target
from atograph.targets.deployed import Deployed, check_unasked, export_untrusted, load_untrusted
from atograph.targets.table import DEFAULT, TARGETS, classes_of, targets_of
from atograph.values.attributes import Attributes
from atograph.values.batch_size import with_batch
from atograph.values.difference import relative_difference
from atograph.values.structures import tensors_of

FRESH_BATCH = 3
"""Samples of the random inputs."""

WITHOUT_REAL = (
    "real inputs are left out: the batches of data have another form than the inputs of this model with state, so the "
    "example inputs and random ones are compared."
)


def verify_run(
    folder: str | Path,
    model: nn.Module,
    *,
    seed: int = 0,
    real: Inputs | None = None,
    targets: Sequence[str] | None = None,
    say: Callable[[str], object] = warnings.warn,
    declared: Callable[[DeclaredProof], object] = lambda _proof: None,
) -> list[tuple[str, Comparison]]:
    """Compare the masked dense network, the slim program and its file for each target, on inputs old and new.

    Args:
        folder: of a run, or of ``atograph apply`` with files of ``atograph export``.
        model: the dense model, with any weights; it gets those of the run, zeros where the plan removes a unit, and
            keeps its own in what else is removed, which touches nothing.
        seed: of the random inputs: normal, with the example inputs' mean and standard deviation; whole numbers are
            drawn from theirs.
        real: inputs of more batches than the one that the run was traced with; None: there are none.
        targets: by name: their files may be loaded by what may run code in them. None: those of the run
            (`targets_of_run`), whose files may not.
        say: told of what is left out.
        declared: told of each declared change, the last one first: it is proved again beside the dense model, which has
            the run's weights of what is left, and its own of what is gone.

    Returns:
        What the inputs are, and what came out for them; whether it holds is for the caller to say.

    Raises:
        UserError: the folder is no run of this model, or its files do not belong together; or loading the file of a
            target may run code that is in it.
    """
    with scratch() as aside:
        return _verify(Path(folder), aside, model, seed, real, targets, say, declared)


def targets_of_run(folder: Path) -> tuple[str, ...]:
    """The targets of a run, by its report; those of a run that names none, where that does not say.

    Raises:
        UserError: there is no report, or a target of the run is not known here.
    """
    report = load_report(folder)
    names = tuple(report.targets if isinstance(report, Report) else ()) or DEFAULT
    unknown = next((name for name in names if name not in TARGETS), None)
    if unknown is not None:
        raise UserError(
            f"this run is for the target {unknown!r}, which is not known here.",
            where=str(folder),
            hint=f"Install the package that has it, name a SPEC that does, or say what to compare: --target "
            f"{next((name for name in names if name in TARGETS), DEFAULT[0])}. Known targets: {', '.join(TARGETS)}.",
        )
    return names


def not_checked(folder: Path, names: Sequence[str]) -> list[str]:
    """Names of files in a run's folder that look like a target's and that a comparison of some targets leaves out."""
    suffixes = {Path(row.file).suffix for row in _known()}
    checked = {pt2_file.NAME, *(row.file for row in classes_of(names))}
    return sorted(path.name for path in folder.iterdir() if path.suffix in suffixes and path.name not in checked)


def _known() -> Iterator[type[Target]]:
    """The targets that load; those of other packages that do not are told where they are asked for."""
    for name in TARGETS:
        with suppress(UserError):
            yield TARGETS.get(name)


def _deployed(own: ProgramModel, place: Path, aside: Path, names: Sequence[str] | None) -> Iterator[Deployed]:
    """The files in a folder, loaded; one that is not there is made aside."""
    for target in targets_of(targets_of_run(place) if names is None else names):
        path = place / target.file
        if names is None:
            check_unasked(target, path)
        if not path.is_file():
            path = aside / target.file
            export_untrusted(target, own, path)
        yield load_untrusted(target, path, own.program)


def _verify(
    place: Path,
    aside: Path,
    model: nn.Module,
    seed: int,
    real: Inputs | None,
    targets: Sequence[str] | None,
    say: Callable[[str], object],
    declared: Callable[[DeclaredProof], object],
) -> list[tuple[str, Comparison]]:
    plan = read_plan(place / "plan.json")
    with stage("loading the run"):
        loaded = load_run(place)
        program = loaded.program
        inputs = whole_example_of(program, plan, place)
        own = ProgramModel(place, program)
        files = list(_deployed(own, place, aside, targets))
    dense, model = model, as_declared(model, plan)
    check_takes(model, inputs, place)
    if real is not None:
        real = _with_constants(after_changes(dense, () if dense is model else plan.declared, real), inputs)
    if (
        real is not None
        and plan.state
        and (len(real.args), real.kwargs.keys()) != (len(inputs.args), inputs.kwargs.keys())
    ):
        real = None  # the user's loss makes the first state
        say(WITHOUT_REAL)
    if real is not None:
        check_accepts(model, real, where="the data of the SPEC")
    Attributes(model).put(attributes_of(getattr(load_report(place), "numbers", {}), place))
    graph = trace_as(plan, model.cpu().eval(), *inputs).for_plan(plan)
    plan.check(graph.groups)
    check_same_plan(place, plan, {pt2_file.NAME: loaded.plan} | {file.target.file: file.plan for file in files})
    if not loaded.weights_outside:
        _check_weights(place / WEIGHTS, program, graph)
    check_weights_beside(place, loaded)
    widen_(graph, plan, state_of(program))
    zero_(model, plan)
    with stage("proving"):
        for proof in certify_again(dense, model, plan.declared, inputs) if dense is not model else ():
            declared(proof)
    if plan.declared and dense is model:
        gone = ", ".join(map(str, plan.declared))
        say(f"that the model keeps {gone} is not proved again: it is given without the others.")
    slimmed = slim(graph, plan)
    _check_program(own, slimmed, place)
    fresh = _like(inputs, seed)
    interface = graph.program.interface
    if not interface.fixed or interface.batch is not None:
        fresh = Inputs(*with_batch(fresh, FRESH_BATCH, interface))
    cases = {"example inputs": inputs, "random inputs": fresh, **({} if real is None else {"real inputs": real})}
    with stage("proving"):
        return [
            (f"{what}, {entry.at}", entry)
            for what, given in cases.items()
            for entry in compare(model, slimmed, files, given)
        ]


def _with_constants(real: Inputs, example: Inputs) -> Inputs:
    """Inputs of data, with what a run's example gives the model beside its tensors: ``use_cache=False``, say."""
    constants = {name: value for name, value in example.kwargs.items() if not [*tensors_of(value)]}
    return Inputs(real.args, {**constants, **real.kwargs})


@torch.no_grad()
def widen_(graph: Graph, plan: Plan, weights: Mapping[str, Tensor]) -> None:
    """Give a dense model the slim weights where its own stay; nothing changes if they do not fit.

    Raises:
        UserError: the plan or the weights are of another model.
    """
    assert graph.model is not None
    kept = Kept.by(plan, graph.program)
    own = graph.program.interface.parameters | graph.program.interface.buffers
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for node, name in graph.program.state_nodes():
        if name not in own or name not in weights:
            continue
        tensor = graph.program.state[name]
        index = torch.arange(tensor.numel()).reshape(tensor.shape)
        flat = kept.slice(index, kept.axes.shape(node))
        if flat.shape != weights[name].shape:
            raise UserError(
                f"slim.pt2 is of another plan: {name} has shape {tuple(weights[name].shape)}, and the plan keeps "
                f"{tuple(flat.shape)} of it."
            )
        parts.append((tensor, flat, weights[name]))
    for tensor, flat, value in parts:
        whole = tensor.detach().flatten()
        whole[flat.flatten()] = value.flatten().to(whole.dtype)
        tensor.copy_(whole.reshape(tensor.shape))


def _check_weights(file: Path, program: ExportedProgram, graph: Graph) -> None:
    """Make sure that a file holds the weights of the program beside it (`load_run`), no more and no fewer."""
    weights, own = load_safetensors(file), state_of(program)
    found = misfits(
        weights,
        own,
        missing=[name for name in program.state_dict if name not in weights],
        unexpected=[name for name in weights if name not in own and name not in graph.program.state],
        sides=(file.name, pt2_file.NAME),
    )
    if found:
        raise UserError(f"the weights do not fit {pt2_file.NAME}: {'; '.join(found)}.", where=str(file), hint=HINT)


def _check_program(own: ProgramModel, slimmed: Slim, folder: Path) -> None:
    """Make sure that slim.pt2 computes what this slim program does."""
    inputs = example_of(own.program, folder)
    found = tensors_of(own(*inputs.args, **inputs.kwargs))
    with torch.no_grad():
        expected = tensors_of(slimmed(*inputs.args, **inputs.kwargs))
    if len(found) != len(expected):
        raise UserError("slim.pt2 does not return what the plan leaves of this model.", where=str(folder))
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape or relative_difference(other, one) > TOLERANCE:
            raise UserError("slim.pt2 does not compute what the plan leaves of this model.", where=str(folder))


def _like(inputs: Inputs, seed: int) -> Inputs:
    """Random inputs of the same shapes and types."""
    random = torch.Generator().manual_seed(seed)

    def fresh(leaf: object) -> object:
        if not isinstance(leaf, Tensor) or not leaf.numel():
            return leaf
        if leaf.is_floating_point():
            spread = leaf.std(correction=0)
            return (torch.randn(leaf.shape, generator=random) * spread + leaf.mean()).to(leaf.dtype)
        chosen = torch.randint(leaf.numel(), (leaf.numel(),), generator=random)
        return leaf.flatten()[chosen].reshape(leaf.shape)

    args, kwargs = pytree.tree_map(fresh, inputs.example)
    return Inputs(args, kwargs)
