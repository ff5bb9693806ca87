"""Batches that tell a quantiser what activations look like: checked against what the model takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atograph.ort.model import OnnxModel
from atograph.passes.errors import UserError
from atograph.sessions.session import FileInput
from atograph.spec.example_inputs import inputs_of_batch

if TYPE_CHECKING:
    from atograph.sessions.feed import Feed

_HINT = "Calibrate with data of the kind that the run was made with: its own file, or --spec."


def calibration_batches(model: OnnxModel, batches: Iterable[object]) -> Iterator[Feed]:
    """The inputs in training batches as ONNX Runtime takes them: arrays by name.

    Raises:
        UserError: a batch does not hold what the model takes.
    """
    for number, batch in enumerate(batches, 1):
        where = f"batch {number} of the training data"
        inputs = inputs_of_batch(batch, where=where)
        try:
            feed = model.feed(*inputs.args, **inputs.kwargs)
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"the model takes {_listed(model)}, and the batch holds {inputs}.", where=where, hint=_HINT
            ) from error
        for value in model.inputs:
            given = feed.get(value.name)
            if given is None or not _fits(given, value):
                found = "nothing" if given is None else f"{given.dtype}{list(given.shape)}"
                raise UserError(
                    f"the model takes {_text(value)}, and the batch holds {found} for it.", where=where, hint=_HINT
                )
        yield feed


def _fits(given: NDArray[np.generic], value: FileInput) -> bool:
    sizes = zip(value.shape, given.shape, strict=False)
    return (
        given.dtype.name == value.type
        and len(given.shape) == len(value.shape)
        and all(wanted == size for wanted, size in sizes if isinstance(wanted, int))
    )


def _text(value: FileInput) -> str:
    return f"{value.name} as {value.type}[{', '.join(str(n) for n in value.shape)}]"


def _listed(model: OnnxModel) -> str:
    return ", ".join(_text(value) for value in model.inputs)
