"""The user's own `nn.Module` made slim.

Its tensors are cut (`tensors`), and its code is repaired where it keeps a width of the dense model: the attributes
that hold it are found and set (`observe.traced_ints`, `calls.search`), and where none does, single calls are corrected
(`calls.corrections`). What each call has to become is read off the dense and the slim program (`calls.needs`); all
that the module computes is compared with what the program does (`observe.samples`, `checks`).
"""

from atograph.repair.module import NotRepaired, Repaired, slim_module
from atograph.repair.observe.problem import Problem

__all__ = ["NotRepaired", "Problem", "Repaired", "slim_module"]
