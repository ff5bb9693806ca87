"""The table of targets: ours, those of other packages (entry points ``atograph.targets``), those of ``@target``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass

from atograph.passes.errors import UserError
from atograph.passes.registry import Registry
from atograph.targets.base import Target

TARGETS = Registry[Target](
    "target",
    "targets",
    group="atograph.targets",
    base="atograph.targets.base:Target",
    ours={
        "executorch": "atograph.targets.executorch:ExecuTorch",
        "onnx": "atograph.targets.onnx_runtime:OnnxRuntime",
        "openvino": "atograph.targets.openvino:OpenVino",
        "pt2": "atograph.targets.pt2:Pt2",
    },
)

target = TARGETS.register
"""Add a subclass of `Target` under its ``name``: a decorator."""

DEFAULT = ("onnx",)
"""The targets of a run that names none."""

_A_RUN = ("plan.json", "report.json", "report.html", "log.csv", "slim.safetensors", "trained.safetensors")
"""Files of a run that are no target's."""


def classes_of(names: Iterable[str]) -> list[type[Target]]:
    """The classes of some targets.

    Raises:
        UserError: there is none of a name; one is named twice; there are none; or two have the same file.
    """
    rows = [TARGETS.get(name) for name in names]
    if not rows:
        raise UserError("a run needs a target.", hint=f"Known targets: {', '.join(TARGETS)}.")
    twice = next((name for name, count in Counter(row.name for row in rows).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"the target {twice!r} is named twice.")
    written: dict[str, str] = dict.fromkeys(_A_RUN, "a run itself")
    for row in rows:
        if row.file in written:
            raise UserError(f"the target {row.name!r} writes {row.file}, as {written[row.file]} does.")
        written[row.file] = f"the target {row.name!r}"
    return rows


def timed_target(name: str) -> Target:
    """A target that latency can be measured in, without options.

    Raises:
        UserError: there is none of that name, or it is not timed.
    """
    (row,) = targets_of([name])
    if not row.is_timed:
        raise UserError(
            f"the target {name!r} is not timed.", hint="A target that is has the method `timed` (write-a-target)."
        )
    return row


def targets_of(names: Iterable[str], options: Mapping[str, object] | None = None) -> list[Target]:
    """Some targets, each with those of the options that it has.

    Args:
        names: of the targets.
        options: by name; those that are None are not given.

    Raises:
        UserError: as `classes_of`; or no target has one of the options.
    """
    rows = classes_of(names)
    chosen = {name: value for name, value in (options or {}).items() if value is not None}
    own = [{field.name for field in fields(row)} if is_dataclass(row) else set[str]() for row in rows]
    unknown = sorted(chosen.keys() - set().union(*own))
    if unknown:
        listed = ", ".join(row.name for row in rows)
        raise UserError(f"{unknown[0]} is no option of the target{'s' * (len(rows) > 1)} {listed}.")
    return [
        row(**{name: value for name, value in chosen.items() if name in known})
        for row, known in zip(rows, own, strict=True)
    ]
