"""The command line. Nothing heavy is imported before a command runs: ``atograph --help`` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from atograph.cli.options import (
    GROUPING,
    CaptureLimit,
    CodeOfRun,
    Commands,
    Data,
    InFiles,
    Json,
    Page,
    Run,
    Spec,
    Targets,
    Trained,
    TrustSpec,
)
from atograph.cli.runner import Killed, on_polite_kills, running
from atograph.cli.settings_options import TakesSettings, takes_settings
from atograph.terminal.streams import open_streams

app = typer.Typer(
    name="atograph",
    cls=Commands,
    help="Make PyTorch networks physically smaller, and prove that they still compute the same.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command(cls=TakesSettings, short_help="Train, prune, prove and export.")
@takes_settings(budgets=True)
def compress(
    spec: Spec,
    settings: Any,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/NAME unless given.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    data: Data = None,
    capture_limit: CaptureLimit = None,
    init: Annotated[Path | None, typer.Option(help="Initial weights: .safetensors, or .pt of plain tensors.")] = None,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A plan.json, or a run's folder: train towards it, in place of a budget."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other training setting; repeatable."),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Also train the dense network the same way, to compare.")
    ] = False,
    target: Targets = None,
    opset: Annotated[int | None, typer.Option(help="ONNX opset of the export.")] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write curves for TensorBoard there, while it trains.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the closing table only.")] = False,
) -> None:
    """Train the model of SPEC so that a part becomes zero, remove it, prove that nothing changed, export.

    SPEC is a file or module that defines model() and train_data(), an iterable of batches. It may define
    val_data(), example_inputs(), loss(model, batch), metric(model, batch), optimizer(params), outputs, a list of
    those that the deployment reads, dynamic, the sizes that are free besides the batch, and state, outputs that become
    inputs of the next call.

    The run's folder holds slim.onnx, slim.pt2, slim.safetensors, plan.json, report.json,
    report.html and log.csv.
    """
    from atograph.cli import compress as command_compress

    with running(quiet=quiet, limit=capture_limit) as console:
        command_compress.compress(
            spec, out=out, force=force, resume=resume, data=data, init=init, plan=plan, given=settings,
            assignments=set_ or [], baseline=baseline, targets=target, opset=opset, tensorboard=tensorboard,
            console=console,
        )  # fmt: skip


@app.command(short_help="Run a pipeline of passes and print the program.")
@takes_settings("outputs", "dynamic", "state", "batch")
def opt(
    settings: Any,
    spec: Annotated[
        str | None, typer.Argument(metavar="SPEC", help="A SPEC, a program (.pt2, .onnx, .txt), or a run's folder.")
    ] = None,
    passes: Annotated[str | None, typer.Option(help='Such as "infer-axes,find-groups,slim{plan=plan.json}".')] = None,
    list_passes: Annotated[bool, typer.Option("--list-passes", help="All passes with their options.")] = False,
    print_after_all: Annotated[bool, typer.Option("--print-after-all", help="Print after every pass.")] = False,
    print_before: Annotated[list[str] | None, typer.Option(metavar="PASS", help="Print before this pass.")] = None,
    print_after: Annotated[list[str] | None, typer.Option(metavar="PASS", help="Print after this pass.")] = None,
    print_changed: Annotated[bool, typer.Option("--print-changed", help="What each pass changes, as a diff.")] = False,
    time_passes: Annotated[bool, typer.Option("--time-passes", help="How long each pass takes.")] = False,
    verify_each: Annotated[
        str | None, typer.Option(metavar="numeric", help="Run the example before and after each rewrite, and compare.")
    ] = None,
    bisect: Annotated[bool, typer.Option("--bisect", help="Find the first wrong pass.")] = False,
    run_reproducer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run what an internal error has left.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights by their names: .safetensors, or .pt of plain tensors.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write it there instead of printing it: .pt2, .onnx, or the text.")
    ] = None,
    data: Data = None,
    capture_limit: CaptureLimit = None,
) -> None:
    """Capture the model of SPEC, or read a program, run a pipeline of passes over it, and print its textual form."""
    from atograph.cli import opt as command_opt

    with running(limit=capture_limit) as console:
        shown = command_opt.Shown(
            before=print_before or (), after=None if print_after_all else print_after or (), changed=print_changed,
            times=time_passes, numeric=command_opt.is_numeric(verify_each), bisect=bisect,
        )  # fmt: skip
        if list_passes:
            command_opt.list_passes()
        elif run_reproducer is not None:
            command_opt.reproduce(run_reproducer, spec, shown, data=data, console=console)
        else:
            command_opt.opt(
                spec, passes=passes, shown=shown, out=out, data=data, weights=weights, given=settings, console=console
            )


@app.command(short_help="Show what hangs together, what can go, what cannot and why.")
@takes_settings(*GROUPING)
def inspect(
    spec: Spec,
    settings: Any,
    group: Annotated[
        str | None, typer.Option(metavar="NAME", help="All of one group: g3, or of the layer that makes its units.")
    ] = None,
    why: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Why a parameter or module can, or cannot, be pruned."),
    ] = None,
    format: Annotated[
        str, typer.Option("--format", help="text, json, dot, svg, graphml, html or model-explorer.")
    ] = "text",
    sort: Annotated[str, typer.Option(help="model (as it stands there), units, params or flops.")] = "model",
    expand: Annotated[bool, typer.Option("--expand", help="Do not fold repeated blocks.")] = False,
    plan: Annotated[Path | None, typer.Option(help="Also show how much this plan.json keeps.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write it there instead of printing it.")] = None,
    data: Data = None,
    capture_limit: CaptureLimit = None,
) -> None:
    """Trace the model of SPEC and show its groups: nothing is trained or changed, and weights are not needed.

    SPEC is a file or module that defines model() and example_inputs(); a program: model.pt2 of torch.export.save, or
    the folder of a run; or a model of an installed package: timm:resnet50, torchvision:resnet18, or transformers: and a
    folder with a config.json.
    """
    from atograph.cli import inspect as command_inspect

    with running(limit=capture_limit) as console:
        command_inspect.inspect(
            spec, group=group, why=why, format=format, sort=sort, expand=expand, plan=plan, out=out, data=data,
            given=settings, console=console,
        )  # fmt: skip


@app.command(short_help="Show how much the loss depends on the width of each group.")
@takes_settings(*GROUPING, "seed")
def sensitivity(
    spec: Spec,
    settings: Any,
    by: Annotated[
        str, typer.Option(metavar="NAME", help="The criterion whose lowest scores go first within a group.")
    ] = "taylor",
    batches: Annotated[int, typer.Option(help="Batches of train_data() over which the loss is averaged.")] = 4,
    flops: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Also choose widths within this share of the FLOPs, or several: 0.5,0.3."),
    ] = None,
    init: Trained = None,
    weights: InFiles = None,
    json: Json = None,
    html: Page = None,
    data: Data = None,
    capture_limit: CaptureLimit = None,
) -> None:
    """Cut one group of the model of SPEC to several widths at a time, forward only, and show how the loss rises.

    SPEC is a file or module that defines model() and train_data(), and loss(model, batch) unless it is cross-entropy.
    Curves of weights that are not trained say little: model() loads trained ones, or --init does. With --flops they
    become widths: those at which they rise least in all, beside those that the criterion alone would choose.
    """
    from atograph.cli import sensitivity as command_sensitivity

    with running(limit=capture_limit) as console:
        command_sensitivity.sensitivity(
            spec, by=by, batches=batches, flops=flops, init=init, weights=weights, json=json, html=html, data=data,
            given=settings, console=console,
        )  # fmt: skip


@app.command(short_help="Show what one-shot plans at several budgets cost and are worth.")
@takes_settings(*GROUPING, "round_to", "metric_mode", "seed")
def sweep(
    spec: Spec,
    settings: Any,
    flops: Annotated[str, typer.Option(metavar="SHARES", help="Shares of the FLOPs to keep.")] = "0.9,0.7,0.5,0.3",
    method: Annotated[str, typer.Option(metavar="NAMES", help="Criteria: magnitude, taylor, ...")] = "magnitude,taylor",
    latency: Annotated[
        bool, typer.Option("--latency", help="Also time the dense network and all slim ones in turns.")
    ] = False,
    latency_target: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where: onnx, or another target that is timed.")
    ] = None,
    batches: Annotated[
        int, typer.Option(help="Batches of train_data() that criteria look at, where they look at any.")
    ] = 4,
    init: Trained = None,
    weights: InFiles = None,
    json: Json = None,
    html: Page = None,
    plans: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write each plan there, for `compress --plan` and `apply`.")
    ] = None,
    data: Data = None,
    capture_limit: CaptureLimit = None,
) -> None:
    """Prune the model of SPEC at once to several budgets by several criteria, and measure each network as it is.

    SPEC is a file or module that defines model() with trained weights (or --init), val_data() and metric(model, batch)
    unless it is top-1, and train_data() where a criterion looks at gradients or activations. Nothing is trained. Ctrl-C
    shows what there is until then.
    """
    from atograph.cli import sweep as command_sweep

    with running(limit=capture_limit) as console:
        command_sweep.sweep(
            spec, flops=flops, method=method, latency=latency, latency_target=latency_target, batches=batches,
            init=init, weights=weights, json=json, html=html, plans=plans, data=data, given=settings, console=console,
        )  # fmt: skip


@app.command(short_help="Slim a checkpoint by a plan, without loading it.")
def apply(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="The plan.json of a run, or a file of `sweep --plans`.")],
    spec: Spec,
    out: Annotated[Path, typer.Option(help="Folder for the slim weights.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Dense weights: a .safetensors file, an index of shards, or their folder. A program has its own."
        ),
    ] = None,
    shard_size: Annotated[str, typer.Option(help="The most that one file of weights holds.")] = "5GB",
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there.")] = False,
    data: Data = None,
    capture_limit: CaptureLimit = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Cut what PLAN drops out of a checkpoint, one tensor at a time: the weights never have to fit in memory.

    SPEC is a file or module that defines model() and example_inputs(), whose model is made without weights; or a
    program (model.pt2), whose own weights are cut where none are named.

    The folder holds model.safetensors (or shards and their index), slim.pt2 (the slim program, without its weights),
    plan.json and report.json.
    """
    from atograph.cli import apply as command_apply

    with running(quiet=quiet, limit=capture_limit) as console:
        command_apply.apply(
            plan, spec, weights=weights, out=out, shard_size=shard_size, force=force, data=data, console=console
        )


@app.command(short_help="Make the ONNX file of a run again, or another target's.")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, or of `atograph apply`.")],
    out: Annotated[
        Path | None, typer.Option(help="The file; in RUN slim.onnx, slim.fp16.onnx, ... unless given.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to export to: onnx unless given, or any other target.")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX opset of the export.")] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Weights and arithmetic in float16.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Weights and activations in int8, ranges by batches of train_data().")
    ] = False,
    even_if_worse: Annotated[
        bool, typer.Option("--even-if-worse", help="With --int8: keep a file that is slower or far off, too.")
    ] = False,
    external_data: Annotated[
        bool, typer.Option("--external-data", help="Keep the weights in a second file (above 2 GB they always are).")
    ] = False,
    spec: Annotated[str | None, typer.Option(metavar="SPEC", help="For --int8: a file with train_data().")] = None,
    trust_spec: TrustSpec = False,
    data: Data = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Export the slim program of RUN to ONNX or another target, without training and without the model's code.

    With --int8, SPEC is a file or module that defines train_data(), for the ranges of activations; with its val_data()
    and metric(model, batch) the metric before and after is printed. The file is measured beside the one in float32, and
    refused where it is slower or far off. Its target may be onnx, openvino or tensorrt.
    """
    from atograph.cli import export as command_export

    with running(quiet=quiet) as console:
        command_export.export(
            run, out=out, target=target, opset=opset, fp16=fp16, int8=int8, even_if_worse=even_if_worse,
            external_data=external_data, spec=spec, data=data, trust_spec=trust_spec, force=force, console=console,
        )  # fmt: skip


@app.command(short_help="Prove a run again, on fresh inputs.")
def verify(
    run: Run,
    spec: CodeOfRun = None,
    trust_spec: TrustSpec = False,
    data: Data = None,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", metavar="NAME", help="What to compare with, instead of the targets of the run. Repeatable."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the table only.")] = False,
) -> None:
    """Compare the masked dense network, the slim program and the files of its targets; exit with 1 where they differ.

    The dense network is made by SPEC and gets the run's weights; of what was removed, the zeroing sets are zero, and
    the rest is as SPEC makes it, which must not matter. Inputs are those of the run, random ones, and a batch of
    val_data() or train_data() where there is one.
    """
    from atograph.cli import verify as command_verify

    with running(quiet=quiet) as console:
        command_verify.verify(
            run, spec=spec, data=data, trust_spec=trust_spec, seed=seed, targets=target, console=console
        )


@app.command(short_help="Time the slim model beside the dense one.")
def bench(
    run: Run,
    spec: CodeOfRun = None,
    trust_spec: TrustSpec = False,
    data: Data = None,
    batch: Annotated[list[int] | None, typer.Option(help="Samples per call; repeatable. 1 and 8 unless given.")] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(help="Threads within an op; repeatable. 1 unless given; 0: ONNX Runtime's choice."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="NAME",
            help="Where to time it beside ONNX Runtime, instead of the targets of the run that are timed. Repeatable.",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for each measurement.")] = 2.0,
    profile: Annotated[bool, typer.Option("--profile", help="Also print the time of each layer.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print tables and warnings only.")] = False,
) -> None:
    """Run the dense model and slim.onnx of RUN in turns in ONNX Runtime on this machine, and compare their latency.

    With a target such as openvino they are timed there, too.

    The dense model is made by SPEC and exported the same way. Times are medians; the distance between the quartiles is
    beside them. A warning names the layers that waste what the FLOPs promise, if less than half of it is gained.
    """
    from atograph.cli import bench as command_bench

    with running(quiet=quiet) as console:
        command_bench.bench(
            run, spec=spec, data=data, trust_spec=trust_spec, batches=batch or [1, 8],
            threads=threads or [1], targets=target, seconds=seconds, profile=profile, console=console,
        )  # fmt: skip


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"atograph {installed('atograph')}")
        raise typer.Exit()


def main() -> None:
    """The console script: like Ctrl-C, a polite kill unwinds the run, so that nothing half-written stays."""
    open_streams()
    on_polite_kills()
    try:
        app()
    except Killed as kill:
        sys.exit(kill.code)
