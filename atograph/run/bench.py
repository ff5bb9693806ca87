"""How much faster a slim model is than its dense one, in each runtime; in ONNX Runtime, which layers hold it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import gcd
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from atograph.declared.smaller import as_declared
from atograph.files.plan_file import read_plan
from atograph.files.writing import scratch
from atograph.graph.from_model import trace_as
from atograph.latency.measure import measure_latency
from atograph.latency.profile import Layer, profile
from atograph.onnx.export import export_onnx
from atograph.ort.model import OnnxModel
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.process.stages import stage
from atograph.program import pt2_file
from atograph.program.load import example_of, load_run, whole_example_of
from atograph.program.model import ProgramModel
from atograph.report.bench import Bench, LayerPair
from atograph.report.same_run import check_same_plan, check_takes
from atograph.run.verify import targets_of_run
from atograph.sessions.file_model import FileModel
from atograph.spec.example_inputs import Inputs
from atograph.targets.base import Target
from atograph.targets.deployed import dense_file, export, export_untrusted, load_untrusted
from atograph.targets.onnx_runtime import OnnxRuntime
from atograph.targets.table import targets_of, timed_target
from atograph.values.batch_size import batch_sizes, with_batch


def bench_run(
    folder: str | Path,
    model: nn.Module,
    *,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    targets: Sequence[str] | None = None,
    seconds: float = 2.0,
) -> Bench:
    """Time a run's ``slim.onnx`` beside its dense model, exported the same way, in turns; then those of other targets.

    Args:
        folder: of the run.
        model: the dense model; its weights may be any.
        batches: samples per call; a model that takes one batch size only is measured at that.
        threads: threads within an op; 0 leaves the choice to ONNX Runtime.
        targets: where to time it beside ONNX Runtime; None: where the run's targets are timed.
        seconds: time for each measurement.

    Raises:
        UserError: the folder is no run of this model; or a target that is named is not timed.
    """
    place = Path(folder)
    others = _others(place, targets)
    plan = read_plan(place / "plan.json")
    with scratch() as aside:
        with stage("loading the run"):
            loaded = load_run(place)
            program, cut = loaded.program, example_of(loaded.program, place)
            inputs = whole_example_of(program, plan, place)
            slim_path = ProgramModel(place, program).onnx_file(aside)
            made_by = OnnxModel(slim_path, program).plan
            files = {target: _slim_file(target, ProgramModel(place, program), place, aside) for target in others}
        model = as_declared(model, plan)
        check_takes(model, inputs, place)
        graph = trace_as(plan, model.cpu().eval(), *inputs).for_plan(plan)
        plan.check(graph.groups)
        check_same_plan(place, plan, {pt2_file.NAME: loaded.plan, slim_path.name: made_by, **_plans(files, program)})
        interface = graph.program.interface
        if interface.fixed and interface.batch is None:
            batches = batch_sizes(inputs, graph.program)
        with stage("exporting the dense model"):
            dense_program = to_exported(graph.program)
            dense_path = export_onnx(dense_program, aside / "dense.onnx")
            pairs: dict[Target, tuple[Path, Path]] = {OnnxRuntime(): (dense_path, slim_path)}
            for target, path in files.items():
                pairs[target] = export(target, dense_program, dense_file(target, aside)), path

        def of_batch(size: int) -> list[Inputs]:
            return [Inputs(*with_batch(each.example, size, interface)) for each in (inputs, cut)]

        with stage("measuring"):
            latencies = []
            for (target, (whole_path, cut_path)), count in product(pairs.items(), threads):
                dense = _timed(target, whole_path, dense_program, count)
                slim = _timed(target, cut_path, program, count)
                latencies += [
                    measure_latency(dense, slim, *of_batch(size), batch=size, seconds=seconds) for size in batches
                ]
            whole, narrow = of_batch(batches[0])
            dense, slim = OnnxModel(dense_path, dense_program), OnnxModel(slim_path, program)
            before = profile(dense_path, dense.feed(*whole.args, **whole.kwargs), threads=threads[0])
            after = profile(slim_path, slim.feed(*narrow.args, **narrow.kwargs), threads=threads[0])
    share = float(graph.cost.flops(plan.counts)) / graph.flops
    changed = [count for name, count in plan.counts.items() if count < plan.sizes[name]]
    return Bench(share, latencies, _side_by_side(before, after, share), gcd(*changed))


def _others(place: Path, names: Sequence[str] | None) -> list[Target]:
    """The targets to time beside ONNX Runtime.

    Raises:
        UserError: one that is named is not timed.
    """
    rows = targets_of(targets_of_run(place) if names is None else names)
    for name in names or ():
        timed_target(name)
    return [row for row in rows if row.name != OnnxRuntime.name and row.is_timed]


def _slim_file(target: Target, own: ProgramModel, place: Path, aside: Path) -> Path:
    """The run's file for a target; where there is none, one made aside."""
    path = place / target.file
    return path if path.is_file() else export_untrusted(target, own, aside / target.file)


def _plans(files: Mapping[Target, Path], program: ExportedProgram) -> dict[str, str | None]:
    """By which plans files of the run were made; nothing of those that were made aside, which do not say."""
    plans = {path.name: load_untrusted(target, path, program).plan for target, path in files.items()}
    return {name: plan for name, plan in plans.items() if plan is not None}


def _timed(target: Target, path: Path, program: ExportedProgram, threads: int) -> FileModel:
    made = target.timed(path, program, threads)
    assert made is not None
    return made


def _side_by_side(dense: Sequence[Layer], slim: Sequence[Layer], share: float) -> list[LayerPair]:
    """By name: kernels of a layer may be fused in one model only, and are called otherwise then."""
    pairs = []
    kinds = {layer.name or layer.title: layer for layer in (*slim, *dense)}
    for key, kind in kinds.items():
        sides = [[layer for layer in side if key in (layer.name, layer.title)] for side in (dense, slim)]
        before, after = (sum(layer.ms for layer in side) for side in sides)
        flops, left = (sum(layer.flops for layer in side) for side in sides)
        pairs.append(
            LayerPair(kind.title, kind.op, before, after, left / flops if flops else None, after - share * before)
        )
    return pairs
