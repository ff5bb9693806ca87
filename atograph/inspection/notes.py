"""What one should know of a program: its dynamic sizes and their limits, state, outputs, decisions."""

from __future__ import annotations

from atograph.passes.ir.interface import ways_in_words
from atograph.passes.ir.outputs import left_out_text
from atograph.passes.ir.program import Program
from atograph.passes.ir.randomness import random_ops
from atograph.passes.ir.regions.regions import Regions
from atograph.passes.ir.state import of_one_length
from atograph.passes.rules import name_of
from atograph.passes.torch_private import HigherOrderOperator


def state_line(program: Program) -> str:
    """That state has one length only, and what to do; empty where it has any."""
    lengths = of_one_length(program)
    if not lengths:
        return ""
    names = f"{lengths[0]} and {len(lengths) - 1} more" if len(lengths) > 2 else " and ".join(lengths)
    return (
        f"State that becomes {names} comes back in another size than it is taken in, and only the example's size is "
        "taken, so a second call is not possible. Make that size dynamic, with an example of two or more there, and "
        "name every other input that grows with it (an attention mask)."
    )


_COUNTED = {"cond": "both branches of cond", "while_loop": "one round of while_loop"}
"""Op of control flow → what FLOPs count of it, where the data decide."""


def flops_line(program: Program) -> str:
    """What FLOPs count of control flow; empty where they say what a call takes."""
    regions = Regions(program.graph)
    ops = {node: name_of(node.target) for node in regions.order if isinstance(node.target, HigherOrderOperator)}
    counted = dict.fromkeys(_COUNTED[op] for node, op in ops.items() if node in regions.controls and op in _COUNTED)
    whole = dict.fromkeys(op for node, op in ops.items() if node not in regions.controls)
    told = [f"count {' and '.join(counted)}"] if counted else []
    told += [f"leave {' and '.join(whole)} out"] if whole else []
    return f"FLOPs {', and '.join(told)}: the data decide what a call takes." if told else ""


def notes_of(program: Program) -> list[str]:
    """A sentence each."""
    interface = program.interface
    fixed, drawn = interface.fixed, list(dict.fromkeys(random_ops(program)))
    besides = "Dynamic besides the batch"
    if interface.batch is not None:
        fixed, besides = "", "Dynamic"
    left_out, pairs = left_out_text(interface), interface.state_texts
    return [
        *([f"{besides}: {', '.join(map(str, interface.dynamic))}."] if interface.dynamic else []),
        *(f"{size.name} has limits: {size.why.rstrip('.')}." for size in interface.dynamic if size.why),
        *([f"It takes sizes of which this holds: {ways_in_words(interface.ways)}."] if interface.ways else []),
        *(f"{name} is fixed to the example's size: {why.rstrip('.')}." for name, why in interface.still.items()),
        *([f"State: {', '.join(each.replace('=', ' → ') for each in pairs)}."] if pairs else []),
        *filter(None, [state_line(program)]),
        *([f"Left out of what it returns: {left_out}."] if left_out else []),
        *([f"The batch is fixed to the example's size, because {fixed.rstrip('.')}."] if fixed else []),
        *(each.note for each in interface.decided),
        *filter(None, [flops_line(program)]),
        *([f"In eval mode it draws random numbers: {', '.join(drawn)}."] if drawn else []),
    ]
