"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

_COMPRESS = "atograph compress SPEC --flops 0.5"
_INSTEAD = {
    **dict.fromkeys(("prune", "optimize", "slim", "shrink", "train", "finetune"), _COMPRESS),
    **dict.fromkeys(("quantize", "quantise", "int8"), "atograph export RUN --int8, of a run that `compress` has made"),
    "convert": "atograph export RUN, of a run that `compress` has made",
}
"""Commands of other tools → what to type here."""


class Commands(TyperGroup):
    """The commands: who types one of another tool hears what it is called here."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments begin with."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            if args and args[0] in _INSTEAD and hasattr(error, "message"):
                error.message = f"No such command '{args[0]}'. It is: {_INSTEAD[args[0]]}"
            raise


Spec = Annotated[
    str,
    typer.Argument(
        metavar="SPEC", help="model.py, package.module, either:factory, timm:NAME, model.pt2, a run's folder."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Handed to each function of SPEC that has a parameter `data`."),
]
TrustSpec = Annotated[
    bool, typer.Option("--trust-spec", help="Run the code that the run's report names, and read the data it names.")
]
CaptureLimit = Annotated[
    float | None,
    typer.Option("--capture-limit", metavar="SECONDS", help="Give up if capturing the model takes longer."),
]
Trained = Annotated[Path | None, typer.Option("--init", help="Trained weights: .safetensors, or .pt of plain tensors.")]
InFiles = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Trained weights that stay in their files: a .safetensors file, an index of shards, or their folder.",
    ),
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write it there as JSON.")]
Page = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it there as a page.")]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="What the slim model is exported to and proved in: onnx (unless given), openvino, executorch, pt2, or "
        "one of another package. Repeatable.",
    ),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
CodeOfRun = Annotated[str | None, typer.Option("--spec", metavar="SPEC", help="The model's code, as for compress.")]

GROUPING = (
    "freeze_layers", "only", "min_units", "floor", "depth", "drop", "couple", "uniform", "width", "experts",
    "keep_tokens", "outputs", "dynamic", "state", "passes", "batch",
)  # fmt: skip
"""The settings that say what may go, of a model captured how: those of each command that makes groups."""
