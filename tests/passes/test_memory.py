"""Peak memory: what the cost model says, against an interpreter that looks at what is alive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import build
from torch import fx, nn

import atograph
from atograph.passes.ir.program import Program


class Watch(fx.Interpreter):
    """It frees each value after its last use, and remembers the most memory that values had at once."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.peak = 0
        self.weights = {node for node, _name in program.state_nodes()}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        values = [value for node, value in [*self.env.items(), (n, result)] if node not in self.weights]
        leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]
        own = {self.env[node].untyped_storage().data_ptr() for node in self.weights if node in self.env}
        found = {leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes() for leaf in leaves}
        self.peak = max(self.peak, sum(size for pointer, size in found.items() if pointer not in own))
        return result


def peak(program: Program, inputs: Any) -> int:
    names = iter(inputs)
    state = {node.name: program.state[name] for node, name in program.state_nodes()}
    given = [state[n.name] if n.name in state else next(names) for n in program.graph.nodes if n.op == "placeholder"]
    watch = Watch(program)
    with torch.no_grad():
        watch.run(*given)
    return watch.peak


@pytest.mark.parametrize("name", ["plain", "residual", "dense", "gated", "grouped"])
def test_peaks_are_those_of_an_interpreter(name: str) -> None:
    model, inputs = build(name)
    graph = atograph.trace(model, inputs)
    one = [inputs[:1].clone()]
    assert graph.cost.bytes() == peak(graph.program, one)
    for seed in range(3):
        plan = graph.plan(random=seed)
        assert graph.cost.bytes(plan.counts) == peak(atograph.slim(graph, plan).passes_program, one)


def test_views_pieces_inputs_and_outputs() -> None:
    class Pieces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> Any:
            y = self.a(x)
            left, right = y.view(-1, 2, 3).unbind(1)
            values, _where = left.max(1)
            return self.b(left * right), y.half(), values

    graph = atograph.trace(Pieces().eval(), torch.randn(2, 4))
    found = peak(graph.program, [torch.randn(1, 4)])
    assert graph.cost.bytes() == found
    soft = graph.cost.bytes({group.name: torch.tensor(float(group.size)) for group in graph.prunable})
    assert float(soft) == found
