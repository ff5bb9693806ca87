"""``atograph apply``: a plan, a model's code and its dense weights become slim weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from atograph.files.plan_file import read_plan
from atograph.passes.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from atograph.spec.spec import Spec
    from atograph.terminal.console import Console


def apply(
    plan_file: Path,
    text: str,
    *,
    weights: Path | None,
    out: Path,
    shard_size: str,
    force: bool,
    data: Path | None,
    console: Console,
) -> None:
    """Check what was typed before any work, then slice the weights and print what became of them."""
    plan = read_plan(plan_file)

    from atograph.declared.smaller import as_declared
    from atograph.declared.token_inputs import after_changes
    from atograph.declared.tokenizer import OLD_NUMBERS, TOKENS, is_of_tokenizer
    from atograph.files.checkpoint import Checkpoint
    from atograph.files.loaded_from import CONFIG
    from atograph.files.run_folder import RunFolder
    from atograph.files.shards import parse_size
    from atograph.files.writing import scratch
    from atograph.report import numbers
    from atograph.spec.spec import load_spec

    RunFolder(out, force=force)
    parse_size(shard_size)
    if weights is None:
        spec = load_spec(text, data=data)
        if spec.target.kind != "program":
            raise UserError("there are no weights to cut.", where=text, hint="Name a checkpoint: --weights FILE.")
        with scratch() as aside:
            own = _weights_of(spec.model(), aside / "weights.safetensors")
            apply(plan_file, text, weights=own, out=out, shard_size=shard_size, force=force, data=data, console=console)
        return
    checkpoint = Checkpoint.open(weights)
    dense, count = numbers.size(checkpoint.nbytes), len(checkpoint.tensors)
    console.say(f"weights: {dense} in {count} tensors and {_files(len(checkpoint.files))}")

    from atograph.graph.from_model import trace_as
    from atograph.process.stages import stage
    from atograph.run.apply import apply_plan
    from atograph.run.saving.served import saves_itself
    from atograph.spec.source import Source

    console.phase("loading the file")
    spec = load_spec(text, data=data)
    with stage("making the model"):
        model = empty_model(spec, console)
    inputs = spec.inputs()
    if plan.declared:
        inputs = after_changes(model, plan.declared, inputs)
        model = as_declared(model, plan)
        console.say("before: " + ", ".join(map(str, plan.declared)))
    graph = trace_as(plan, model, *inputs).for_plan(plan)
    source = Source.of(spec, out)
    applied = apply_plan(graph, plan, weights, out, shard_size=shard_size, force=force, spec=text, source=source)
    report = applied.report
    console.say(
        f"slim: {numbers.size(report.slim.bytes)} in {_files(len(report.files))}; "
        f"{numbers.percent(report.slim.params / max(1, report.dense.params))} of the parameters, "
        f"{numbers.percent(report.slim.flops / max(1, report.dense.flops))} of the FLOPs"
    )
    if report.left_out:
        names = ", ".join(report.left_out[:3]) + (", ..." if len(report.left_out) > 3 else "")
        console.say(f"left out, because the program does not read them: {names} ({len(report.left_out)} in all)")
    if report.program != "slim.pt2":
        console.warn(f"slim.pt2 was {report.program}.")
    if applied.why_no_config:
        console.say(f"config.json is not written, for it cannot say this plan: {applied.why_no_config}")
    if saves_itself(model) and (out / CONFIG).is_file():
        console.say(f"{type(model).__name__}.from_pretrained loads {out}")
    if tokenizer := [path.name for path in sorted(out.iterdir()) if is_of_tokenizer(path.name) and path.name != TOKENS]:
        console.say(f"tokenizer: {', '.join(tokenizer)}")
    if applied.why_no_tokenizer:
        console.say(f"no tokenizer is written: {applied.why_no_tokenizer}; {OLD_NUMBERS}")
    console.say(f"written to {out}")


def empty_model(spec: Spec, console: Console) -> nn.Module:
    """The model of a SPEC, its parameters on the meta device where its constructor permits that."""
    from atograph.capture.weightless import without_weights
    from atograph.values.user_code import UserCodeError

    try:
        with without_weights():
            return spec.model()
    except UserCodeError as error:
        console.warn(f"the model cannot be made without its weights ({error.__cause__}), so it is made with them.")
    return spec.model()


def _weights_of(model: nn.Module, file: Path) -> Path:
    """The weights of a program, as a checkpoint."""
    from safetensors.torch import save_file

    from atograph.capture.model_state import current_state

    save_file({name: value.detach().clone().contiguous() for name, value in current_state(model).items()}, file)
    return file


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"
