"""``atograph verify``: the certificate of a run, again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from atograph.cli.runner import spec_of_run, tell_of_onnx

if TYPE_CHECKING:
    from atograph.spec.example_inputs import Inputs
    from atograph.spec.spec import Spec
    from atograph.terminal.console import Console

EXIT_DIFFERENT = 1


def verify(run: Path, *, spec: str | None, data: Path | None, trust_spec: bool, seed: int, console: Console) -> None:
    """Put the dense network together, compare, and print the table."""
    source = spec_of_run(run, spec, data, trust_spec, console)
    tell_of_onnx(run, console)

    from atograph.process.stages import stage
    from atograph.run.verify import verify_run
    from atograph.terminal.tables import certificate_table

    with stage("making the model"):
        model = source.model()
    entries = verify_run(run, model, seed=seed, real=_real(source))
    console.table(certificate_table(entries))
    fault = next((entry.runtime for _name, entry in entries if entry.runtime is not None), None)
    if fault is not None:
        console.warn(f"{fault}.")
    if not all(entry.holds for _name, entry in entries):
        console.error("the files of this run do not compute the same.")
        raise typer.Exit(EXIT_DIFFERENT)


def _real(spec: Spec) -> Inputs | None:
    """The inputs of a batch, of the validation data where there is some; None where a batch does not tell them."""
    from atograph.passes.errors import UserError
    from atograph.spec.example_inputs import inputs_of_batch

    data = spec.val_data()
    if data is None and hasattr(spec.module, "train_data"):
        data = spec.train_data()
    try:
        return None if data is None else inputs_of_batch(data.first())
    except UserError:
        return None
