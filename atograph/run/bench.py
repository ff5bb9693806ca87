"""How much faster a slim model is in ONNX Runtime than its dense one, and which layers hold it back."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from pathlib import Path

from torch import nn

from atograph.files.plan_file import read_plan
from atograph.files.writing import scratch
from atograph.graph import trace_as
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
from atograph.spec.example_inputs import Inputs
from atograph.values.batch_size import batch_sizes, with_batch


def bench_run(
    folder: str | Path,
    model: nn.Module,
    *,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    seconds: float = 2.0,
) -> Bench:
    """Time a run's ``slim.onnx`` beside its dense model, exported the same way, in turns.

    Args:
        folder: of the run.
        model: the dense model; its weights may be any.
        batches: samples per call; a model that takes one batch size only is measured at that.
        threads: threads within an op; 0 leaves the choice to ONNX Runtime.
        seconds: time for each measurement.

    Raises:
        UserError: the folder is no run of this model.
    """
    place = Path(folder)
    plan = read_plan(place / "plan.json")
    with scratch() as aside:
        with stage("loading the run"):
            loaded = load_run(place)
            program, cut = loaded.program, example_of(loaded.program, place)
            inputs = whole_example_of(program, plan, place)
            slim_path = ProgramModel(place, program).onnx_file(aside)
            made_by = OnnxModel(slim_path, program).plan
        check_takes(model, inputs, place)
        graph = trace_as(plan, model.cpu().eval(), *inputs).for_plan(plan)
        plan.check(graph.groups)
        check_same_plan(place, plan, {pt2_file.NAME: loaded.plan, slim_path.name: made_by})
        interface = graph.program.interface
        if interface.fixed and interface.batch is None:
            batches = batch_sizes(inputs, graph.program)
        with stage("exporting the dense model"):
            dense_program = to_exported(graph.program)
            dense_path = export_onnx(dense_program, aside / "dense.onnx")

        def of_batch(size: int) -> list[Inputs]:
            return [Inputs(*with_batch(each.example, size, interface)) for each in (inputs, cut)]

        with stage("measuring"):
            latencies = []
            for count in threads:
                dense = OnnxModel(dense_path, dense_program, threads=count)
                slim = OnnxModel(slim_path, program, threads=count)
                latencies += [
                    measure_latency(dense, slim, *of_batch(size), batch=size, seconds=seconds) for size in batches
                ]
            whole, narrow = of_batch(batches[0])
            before = profile(dense_path, dense.feed(*whole.args, **whole.kwargs), threads=threads[0])
            after = profile(slim_path, slim.feed(*narrow.args, **narrow.kwargs), threads=threads[0])
    share = float(graph.cost.flops(plan.counts)) / graph.flops
    changed = [count for name, count in plan.counts.items() if count < plan.sizes[name]]
    return Bench(share, latencies, _side_by_side(before, after, share), gcd(*changed))


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
