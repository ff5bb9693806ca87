"""What a program's path and data stand for, as a SPEC: functions that give the model, its example inputs, its data."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from atograph.spec.example_inputs import Inputs, as_inputs
from atograph.spec.program_data import EXAMPLES, Arrays, of_arrays, of_python
from atograph.spec.programs import read_program

if TYPE_CHECKING:
    from atograph.passes.ir.interface import Example
    from atograph.passes.ir.run import ProgramModule


def program_spec(path: Path, data: Path | None = None) -> tuple[ModuleType, str]:
    """What a program's path names, as a module that a SPEC could be, and a short name.

    Args:
        path: of the program.
        data: arrays or a Python file (`program_data`); the example inputs are of them then.

    Raises:
        UserError: as `read_program`; or the data cannot be read, or is not what the program takes.
    """
    arrays = Arrays(data) if data is not None and data.suffix.lower() == ".npz" else None
    functions = of_python(data) if data is not None and arrays is None else {}
    given: Example | None = None if arrays is None else ((), {**arrays.part(0, EXAMPLES)})
    if "example_inputs" in functions:
        given = as_inputs(functions["example_inputs"](), where=f"{data}: example_inputs()").example
    read: list[ProgramModule] = [read_program(path, given)]

    def model() -> ProgramModule:
        """A fresh module each time."""
        return read.pop() if read else read_program(path, given)

    interface = read[0].program.interface
    example = interface.example
    assert example is not None
    inputs = Inputs(*example)
    made = ModuleType(str(path))
    vars(made).update(functions if arrays is None else of_arrays(arrays, interface))
    vars(made).update(model=model, example_inputs=lambda: inputs)
    return made, path.resolve().name.removesuffix(path.suffix)
