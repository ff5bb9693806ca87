"""What layers count whose calls stand in regions of control flow, where no run of the module's code shows them.

Dynamo follows that code, so nobody sees its calls; the program has their ops, and these read the layers' weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from torch import fx, nn

from atograph.passes.ir.program import Program
from atograph.passes.ir.regions.regions import Regions
from atograph.repair.calls.needs import COUNTS
from atograph.repair.observe.traced_ints import Remembered, Slot, Wish


def counts_in_regions(model: nn.Module, dense: Program, slim: Program) -> Iterator[Wish]:
    """What the numbers in layers of torch have to be that only their calls in regions read.

    Args:
        model: the copy of the dense module that is made slim.
        dense, slim: the program before and after the rewrite.
    """
    before, after = _counts(dense), _counts(slim)
    for name in before.keys() & after.keys():
        if len(before[name]) > 1 or len(after[name]) > 1 or before[name] == after[name]:
            continue
        ((old,), (new,)) = before[name], after[name]
        owner = name.rpartition(".")[0]
        part = model.get_submodule(owner)
        for kind, attribute in COUNTS.items():
            if isinstance(part, kind) and vars(part).get(attribute) == old:
                yield Remembered.in_slot(Slot(owner, part, (attribute,))), new


def _counts(program: Program) -> Mapping[str, set[int]]:
    """Weight → the counts that ops in regions take along with it."""
    regions, names, found = Regions(program.graph, program), program.state_names(), defaultdict[str, set[int]](set)
    for control in regions.controls:
        for node in regions.within(control):
            given = _named(node)
            weight = given.get("weight")
            name = names.get(regions.outside(weight).name) if isinstance(weight, fx.Node) else None
            for attribute in {*COUNTS.values()} & given.keys():
                if name is not None and isinstance(count := given[attribute], int):
                    found[name].add(count)
    return found


def _named(node: fx.Node) -> dict[str, object]:
    """The arguments of an op by their names in its schema."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return {}
    names = [argument.name for argument in schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}
