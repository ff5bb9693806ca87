"""One step for each row of the op table, as far as a network in eval mode can be led through it.

A row is the name of an op (of ``aten``, unless it says more) and what uses it: a function of a value ``x`` and of the
step ``p``, which holds weights and layers of its own. Where an op jumps (rounding, comparing), the function moves the
jump away from zero and other numbers that occur often: there masked and slim may differ in their last digit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from growing.network import IMAGE, SEQUENCE, VECTOR
from growing.rows_elementwise import ANY_ROWS
from growing.rows_image import IMAGE_ROWS
from growing.rows_weights import SEQUENCE_ROWS, VECTOR_ROWS

ROWS: dict[int, dict[str, Callable[[Any, Any], Any]]] = {
    0: ANY_ROWS,
    IMAGE: IMAGE_ROWS,
    SEQUENCE: SEQUENCE_ROWS,
    VECTOR: VECTOR_ROWS,
}
"""Rank of the value that is read (0: any) → op → step."""
