"""``atograph verify``: the certificate of a run, again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from atograph.cli.runner import spec_of_run, tell_of_missing

if TYPE_CHECKING:
    from atograph.report.declared import DeclaredProof
    from atograph.spec.example_inputs import Inputs
    from atograph.spec.spec import Spec
    from atograph.terminal.console import Console

EXIT_DIFFERENT = 1


def verify(
    run: Path,
    *,
    spec: str | None,
    data: Path | None,
    trust_spec: bool,
    seed: int,
    targets: list[str] | None,
    console: Console,
) -> None:
    """Put the dense network together, compare, and print the table."""
    source = spec_of_run(run, spec, data, trust_spec, console)

    from atograph.process.stages import stage
    from atograph.run.verify import not_checked, targets_of_run, verify_run
    from atograph.targets.table import classes_of
    from atograph.terminal.tables import certificate_table

    names = targets or targets_of_run(run)
    for row in classes_of(names):
        tell_of_missing(run, row.file, console)
    with stage("making the model"):
        model = source.model()
    proofs: list[DeclaredProof] = []
    entries = verify_run(
        run, model, seed=seed, real=_real(source), targets=targets, say=console.say, declared=proofs.append
    )
    for proof in proofs:
        console.say(f"before: {proof}")
    console.table(certificate_table(entries))
    if others := not_checked(run, names):
        console.say(
            f"not checked: {', '.join(others)} (only the files of its targets in float32 are; `export` measures others "
            "as it writes them)"
        )
    faults = {fault.title: fault for _name, entry in reversed(entries) for fault in entry.faults}
    for fault in faults.values():
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
