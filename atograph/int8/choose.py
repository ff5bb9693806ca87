"""The file in int8 that is worth having: schemes are tried in order, measured, and what is no gain is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from torch.export import ExportedProgram

from atograph.int8.deployments import Deployment, deployment_of
from atograph.int8.measure import Arrays, Pace, apart, pace
from atograph.int8.quantise import in_int8, to_int8
from atograph.int8.schemes import Scheme, kind_of, schemes_for
from atograph.passes.errors import UserError
from atograph.sessions.feed import Feed

FARTHEST = 0.2
"""How far outputs may be from those in float32 (`measure.apart`): a fifth, 14 dB."""

ALIKE = 0.05
"""How far apart two runtimes may be that read the same file."""


@dataclass(frozen=True)
class Measured:
    """One file in int8, and what is known of it.

    Attributes:
        path: the file.
        scheme: how it was quantised.
        kind: what the network is made of.
        errors: runtime → how far its outputs are from those of the float32 file there, on data that it was not
            calibrated with where there is enough of it; infinite where it does not run the file.
        between: how far the outputs of the second runtime are from those of the first; None where there is one.
        pace: in the runtime that it is for; None for one that is not here.
        faults: why it is no gain; nothing where it is one.
    """

    path: Path
    scheme: Scheme
    kind: str
    errors: dict[str, float] = field(default_factory=dict)
    between: float | None = None
    pace: Pace | None = None
    faults: tuple[str, ...] = ()

    @property
    def alike(self) -> bool:
        """Whether the runtimes that read it compute the same, as far as they are here."""
        return self.between is None or self.between <= ALIKE

    def __str__(self) -> str:
        if not self.errors:
            return self.scheme.name
        errors = ", ".join(
            f"{error:.1%} in {runtime}" if error < inf else f"nothing that compares in {runtime}"
            for runtime, error in self.errors.items()
        )
        time = "not timed here" if self.pace is None else str(self.pace)
        return f"{self.scheme.name}: {time}; outputs off by {errors}"


def choose(
    whole: Path,
    folder: Path,
    program: ExportedProgram,
    calibration: Sequence[Feed],
    call: Feed,
    *,
    target: str = "onnx",
    even_if_worse: bool = False,
    seconds: float = 2.0,
) -> Measured:
    """Quantise a file by each scheme for a target and its kind of network, until one is a gain that all read alike.

    Args:
        whole: the ONNX file in float32.
        folder: where the files in int8 are written.
        program: what it was exported from.
        calibration: batches of data, one at least; of several, the last is kept for measuring.
        call: the inputs that are timed: one sample.
        target: a row of `DEPLOYMENTS`.
        even_if_worse: give the first of them where none is a gain, if anything of it is in int8.
        seconds: for each timing.

    Returns:
        The first gain whose outputs are within `ALIKE` of each other in the runtimes that read it; else the first gain.

    Raises:
        UserError: none is faster than float32 and within `FARTHEST` of it.
    """
    goal, kind = deployment_of(target), kind_of(whole)
    *known, last = calibration
    tried: list[Measured] = []
    for number, scheme in enumerate(schemes_for(target, kind)):
        path = to_int8(whole, folder / str(number) / whole.name, scheme, known or [last])
        found = _measured(whole, path, scheme, kind, program, goal, last, call, seconds)
        if found.alike and not found.faults:
            return found
        tried.append(found)
    for found in tried:
        if not found.faults:
            return found
    made = [each for each in tried if each.errors]
    if even_if_worse and made:
        return made[0]
    listed = "; ".join(f"{each} ({' and '.join(each.faults)})" for each in tried)
    raise UserError(
        f"int8 is no gain for this {kind} network with {goal.title}: {listed}. No file was written.",
        hint="Deploy the file in float32"
        + ("; --even-if-worse (even_if_worse=True) writes the one in int8 all the same." if made else "."),
    )


def _measured(
    whole: Path, path: Path, scheme: Scheme, kind: str, program: ExportedProgram, goal: Deployment, data: Feed,
    call: Feed, seconds: float,
) -> Measured:  # fmt: skip
    if in_int8(path) <= in_int8(whole):
        return Measured(path, scheme, kind, faults=("leaves every op in float32",))
    outputs, error = _outputs(goal, whole, path, program, data)
    errors, between = {goal.measured_in: error}, None
    for other in () if scheme.dynamic else goal.read_by:  # dynamic ones are for one runtime
        try:
            there, errors[other.measured_in] = _outputs(other, whole, path, program, data)
            between = apart(outputs, there)
        except UserError:  # it cannot run the file
            errors[other.measured_in] = between = inf
    taken = None
    if goal.timed:
        taken = pace(goal.load(whole, program, 1), goal.load(path, program, 1), call, seconds=seconds)
    faults = []
    if not error <= FARTHEST:
        faults.append(f"more than {FARTHEST:.0%} off")
    if taken is not None and taken.slower:
        faults.append("slower")
    return Measured(path, scheme, kind, errors, between, taken, tuple(faults))


def _outputs(place: Deployment, whole: Path, path: Path, program: ExportedProgram, data: Feed) -> tuple[Arrays, float]:
    """What a file in int8 gives in a runtime, and how far that is from what the one in float32 gives there."""
    before, after = (place.load(each, program, 0).run(data) for each in (whole, path))
    return after, apart(before, after)
