"""Random networks for property tests: a Hypothesis strategy that grows small valid models step by step.

A network is a list of steps; each reads values that were made before it, and makes one or more.
"""

from growing.composed import Composed, compositions
from growing.effort import EXAMPLES, MANY, SEED
from growing.functions import FUNCTIONS
from growing.grow import networks
from growing.knots import KNOTS
from growing.network import Grown
from growing.regional import Regional, regional
from growing.rows import ROWS
from growing.stateful import Stateful, streams

__all__ = [
    "EXAMPLES",
    "FUNCTIONS",
    "KNOTS",
    "MANY",
    "ROWS",
    "SEED",
    "Composed",
    "Grown",
    "Regional",
    "Stateful",
    "compositions",
    "networks",
    "regional",
    "streams",
]
