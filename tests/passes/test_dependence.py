"""What is read of a part of a tensor depends on that part: a token beside patches needs the layers that mix them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import atograph
from atograph.passes.analysis.dependence import bits_of
from atograph.passes.errors import UserError
from atograph.proof.flop_count import count_flops
from benchmarks.exact import compare_plan, perturb


class Layer(nn.Module):
    """Attention among tokens, and an MLP of each."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (part(y).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.dropout(self.up(self.norm2(x)).relu(), training=self.training))


READ: dict[str, Callable[[Tensor], Tensor]] = {
    "select": lambda x: x[:, 0],
    "slice": lambda x: x[:, :1].squeeze(1),
    "narrow": lambda x: x.narrow(1, 0, 1).flatten(1),
    "split": lambda x: x.split([1, x.shape[1] - 1], 1)[0].flatten(1),
    "transposed": lambda x: x.transpose(1, 2)[..., 0],
    "two slices": lambda x: x[:, :2][:, 0],
    "a list of indices": lambda x: x[:, [0]].flatten(1),
    "gathered": lambda x: x.gather(1, torch.zeros(x.shape[0], 1, 8, dtype=torch.long)).flatten(1),
    "every sixth": lambda x: x[:, ::6].flatten(1),
    "turned round": lambda x: x.flip(1)[:, -1],
    "padded": lambda x: F.pad(x, (0, 0, 1, 0))[:, 1],
    "of a row": lambda x: x.reshape(x.shape[0], -1)[:, :8],
}


class Tokens(nn.Module):
    """Patches and a token in front of them, which is all that is read in the end."""

    def __init__(self, read: Callable[[Tensor], Tensor], layers: int = 2) -> None:
        super().__init__()
        self.embed, self.head, self.read = nn.Linear(6, 8), nn.Linear(8, 3), read
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 6, 8))
        self.layers = nn.ModuleList(Layer() for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(self.read(x))


def traced(model: nn.Module) -> atograph.Graph:
    torch.manual_seed(0)
    perturb(model.eval())
    return atograph.trace(model.double(), torch.randn(2, 5, 6, dtype=torch.float64))


def groups(graph: atograph.Graph, *names: str) -> list[str]:
    """The groups whose units these layers make alone."""
    makers = {group.name: {each for each, _dim in group.makers} for group in graph.groups}
    layers = [{f"{name}.weight", f"{name}.bias"} for name in names]
    return [group for group, made in makers.items() if made in layers]


@pytest.mark.parametrize("how", READ)
def test_a_token_keeps_one_of_the_layers_that_mix(how: str) -> None:
    graph = traced(Tokens(READ[how]))
    assert all(graph.groups.why_not_without([name]) is None for name in groups(graph, "layers.0.v", "layers.1.v"))
    with pytest.raises(UserError, match=r"at once: .*no longer depend on x"):
        graph.plan(kept=dict.fromkeys(groups(graph, "layers.0.v", "layers.1.v"), ()))
    mlps = groups(graph, "layers.0.up", "layers.1.up")
    emptied = graph.plan(kept=dict.fromkeys([*mlps, *groups(graph, "layers.0.v")], ()))
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    found = compare_plan(graph, emptied, ((x,), {}))
    assert found.difference < 1e-9 and found.alive > 1e-3
    assert found.slim.flops == count_flops(found.slim, x[:1])


@pytest.mark.parametrize("how", ["mean of all", "another one", "the last"])
def test_what_reads_patches_needs_no_layer_that_mixes(how: str) -> None:
    read = {"mean of all": lambda x: x.mean(1), "another one": lambda x: x[:, 2], "the last": lambda x: x[:, -1]}[how]
    graph = traced(Tokens(read))
    names = groups(graph, *(f"layers.{layer}.{part}" for layer in (0, 1) for part in ("v", "up")))
    assert len(names) == 4
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    found = compare_plan(graph, graph.plan(kept=dict.fromkeys(names, ())), ((x,), {}))
    assert found.difference < 1e-9 and found.alive > 1e-3
    assert found.slim.flops == count_flops(found.slim, x[:1])


def test_what_only_random_ops_that_are_off_would_need_is_not_counted() -> None:
    """Attention maps that go through an op that may draw: torch keeps such an op, though nobody reads it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
            self.mix, self.head = nn.Linear(5, 5), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.mix((self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1))
            maps = F.dropout(maps, 0.3, training=self.training)
            return self.head((x + self.o(maps @ self.v(x))).mean(1))

    torch.manual_seed(0)
    model = Net().eval().double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    graph = atograph.trace(model, x)
    slim = atograph.slim(graph, graph.plan(kept=dict.fromkeys(groups(graph, "v"), ())))
    assert slim.flops == count_flops(slim, x[:1])
    assert not {"q.weight", "k.weight", "mix.weight"} & slim.program.state_dict.keys()


def test_runs_of_a_cat() -> None:
    """Two tokens of one input, patches of another: each run tells."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 8)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            z = torch.cat([self.a(x), self.b(y), self.a(x)], 1).relu()
            return z[:, 1], z[:, 1:3].flatten(1), z.flip(1)[:, 0]

    graph = atograph.trace(Net().eval(), (torch.randn(2, 2, 4), torch.randn(2, 3, 4)))
    branches = graph.groups.branches
    outputs = list(graph.program.output_node.args[0])  # type: ignore[arg-type]
    x, y = branches.inputs.values()
    found = [bits_of(branches.dependent[node]) for node in outputs]  # type: ignore[index]
    assert found == [x, x | y, x | y], "what is turned round is not told apart"
