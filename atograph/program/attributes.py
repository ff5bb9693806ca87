"""What a training has changed in attributes of the model's modules, in the folder of a run: no weights hold it.

Numbers stand in the report, tensors in a file of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from atograph.program.load import load_safetensors
from atograph.values.attributes import Value

FILE = "attributes.safetensors"


def write_attributes(values: Mapping[str, Value], place: Path) -> None:
    """Write the tensors among values; no file if there are none."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if tensors:
        save_file({name: value.cpu().clone().contiguous() for name, value in tensors.items()}, place / FILE)


def attributes_of(numbers: Mapping[str, bool | int | float], place: Path) -> dict[str, Value]:
    """The numbers of a report, and the tensors beside it.

    Raises:
        UserError: the file is damaged.
    """
    return {**numbers, **(load_safetensors(place / FILE) if (place / FILE).is_file() else {})}
