"""State, outputs that become inputs again: its widths go, and a run of calls gives what the masked network gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import atograph
from atograph.passes.errors import UserError
from atograph.proof.certificate import STEPS, certify, exactness
from atograph.spec.example_inputs import Inputs
from atograph.targets.deployed import export, load
from atograph.targets.table import targets_of

STATE_AFTER_ONE = {"1": "state"}
CACHE = {"present": "past"}


class Net(nn.Module):
    """Modules and parameters, and a function of them, an input and a state."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor, state: Any) -> Any:
        return self.function(self, x, state)


class Cached(Net):
    """One that calls its state a past."""

    def forward(self, x: Tensor, past: Any) -> Any:
        return self.function(self, x, past)


def gru() -> nn.Module:
    """Written out: its update is zero where its weights and the state are."""

    def forward(m: Any, x: Tensor, h: Tensor) -> Any:
        (a, b, c), (d, e, f) = m.x(x).chunk(3, -1), m.h(h).chunk(3, -1)
        reset, update = torch.sigmoid(a + d), torch.sigmoid(b + e)
        h = (1 - update) * torch.tanh(c + reset * f) + update * h
        return m.head(h), h

    return Net(forward, x=nn.Linear(5, 24), h=nn.Linear(8, 24), head=nn.Linear(8, 3))


def gru_cell() -> nn.Module:
    def forward(m: Any, x: Tensor, h: Tensor) -> Any:
        h = m.cell(torch.relu(m.into(x)), h)
        return m.head(h), h

    return Net(forward, into=nn.Linear(5, 6), cell=nn.GRUCell(6, 8), head=nn.Linear(8, 3))


def lstm_cell() -> nn.Module:
    def forward(m: Any, x: Tensor, state: Any) -> Any:
        h, c = m.cell(x, state)
        return m.head(h), (h, c)

    return Net(forward, cell=nn.LSTMCell(5, 8), head=nn.Linear(8, 3))


def half_of_a_zero() -> nn.Module:
    """A sigmoid makes 0.5 of a zero: what reads the state has to be zero, and what is in it does not matter."""

    def forward(m: Any, x: Tensor, h: Tensor) -> Any:
        h = torch.sigmoid(m.x(x) + m.h(h))
        return m.head(h), h

    return Net(forward, x=nn.Linear(5, 8), h=nn.Linear(8, 8), head=nn.Linear(8, 3))


def streaming_convolution() -> nn.Module:
    """The last samples wait in a buffer."""

    def forward(m: Any, x: Tensor, buffer: Tensor) -> Any:
        y = torch.cat([buffer, torch.relu(m.into(x))], 2)
        return m.out(m.conv(y)), y[:, :, -4:]

    return Net(forward, into=nn.Conv1d(3, 8, 1), conv=nn.Conv1d(8, 8, 5, groups=8), out=nn.Conv1d(8, 2, 1))


def linear_attention() -> nn.Module:
    """A state of keys × values, which decays: both of its widths may go."""

    def forward(m: Any, x: Tensor, state: Tensor) -> Any:
        q, k, v = torch.relu(m.q(x)), torch.relu(m.k(x)), m.v(x)
        state = 0.9 * state + k.unsqueeze(-1) * v.unsqueeze(-2)
        return m.out((q.unsqueeze(-2) @ state).squeeze(-2)), state

    return Net(forward, q=nn.Linear(5, 6), k=nn.Linear(5, 6), v=nn.Linear(5, 8), out=nn.Linear(8, 3))


def state_space() -> nn.Module:
    """What decays is a parameter of the channel, through an exponential, which makes one of zero."""

    def forward(m: Any, x: Tensor, state: Tensor) -> Any:
        u = F.silu(m.into(x))
        state = torch.exp(-m.decay.exp()) * state + u.unsqueeze(-1) * m.b(x).unsqueeze(-2)
        return m.out((state * m.c(x).unsqueeze(-2)).sum(-1) + m.skip * u), state

    return Net(
        forward, into=nn.Linear(5, 8), b=nn.Linear(5, 4), c=nn.Linear(5, 4), out=nn.Linear(8, 3),
        decay=nn.Parameter(torch.randn(8, 4)), skip=nn.Parameter(torch.randn(8)),
    )  # fmt: skip


def attention(groups: int = 4) -> nn.Module:
    """With a cache of keys and values, of fewer heads than the queries have where ``groups`` is less."""

    def forward(m: Any, ids: Tensor, past: Any) -> Any:
        x = m.embed(ids)
        q, k, v = (f(x).unflatten(-1, (-1, 6)).transpose(1, 2) for f in (m.q, m.k, m.v))
        k, v = torch.cat([past["k"], k], 2), torch.cat([past["v"], v], 2)
        every = [each.repeat_interleave(4 // groups, 1) if groups < 4 else each for each in (k, v)]
        weights = (q @ every[0].transpose(-1, -2) / 6**0.5).softmax(-1)
        x = x + m.o((weights @ every[1]).transpose(1, 2).flatten(2))
        return {"logits": m.head(x), "present": {"k": k, "v": v}}

    return Cached(
        forward, embed=nn.Embedding(20, 16), q=nn.Linear(16, 24), k=nn.Linear(16, 6 * groups),
        v=nn.Linear(16, 6 * groups), o=nn.Linear(24, 16), head=nn.Linear(16, 20),
    )  # fmt: skip


def cache(heads: int = 4, length: int = 3) -> dict[str, Tensor]:
    return {"k": torch.randn(2, heads, length, 6), "v": torch.randn(2, heads, length, 6)}


LENGTH = {"past['k']": {2: "past"}, "past['v']": {2: "past"}}


@dataclass(frozen=True)
class Case:
    """A network with an example, and how many units of its state there are to go."""

    model: Callable[[], nn.Module]
    args: Callable[[], tuple[Any, ...]]
    state: dict[str, str]
    cut: tuple[tuple[int, ...], ...]
    """The shapes of the state in the slim program where half of everything stays, the batch aside."""
    dynamic: Any = None

    def __str__(self) -> str:
        return self.model.__name__


def vectors(*shape: int) -> Callable[[], tuple[Any, ...]]:
    return lambda: (torch.randn(2, 5), torch.randn(2, *shape))


CASES = [
    Case(gru, vectors(8), STATE_AFTER_ONE, ((4,),)),
    Case(gru_cell, vectors(8), STATE_AFTER_ONE, ((4,),)),
    Case(lstm_cell, lambda: (torch.randn(2, 5), (torch.randn(2, 8), torch.randn(2, 8))), STATE_AFTER_ONE, ((4,), (4,))),
    Case(half_of_a_zero, vectors(8), STATE_AFTER_ONE, ((4,),)),
    Case(streaming_convolution, lambda: (torch.randn(2, 3, 6), torch.randn(2, 8, 4)), STATE_AFTER_ONE, ((4, 4),)),
    Case(linear_attention, vectors(6, 8), STATE_AFTER_ONE, ((3, 4),)),
    Case(state_space, vectors(8, 4), STATE_AFTER_ONE, ((4, 2),)),
    Case(attention, lambda: (torch.randint(0, 20, (2, 1)), cache()), CACHE, ((2, 3, 3),) * 2),
    Case(
        lambda: attention(2), lambda: (torch.randint(0, 20, (2, 1)), cache(2)), CACHE, ((1, 3, 3),) * 2, LENGTH
    ),
]  # fmt: skip


def slimmed(case: Case) -> tuple[nn.Module, tuple[Any, ...], atograph.Slim]:
    """The masked network with parameters that nobody has set to anything neat, its example, and what is made of it."""
    torch.manual_seed(0)
    model, args = case.model().eval(), case.args()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    graph = atograph.trace(model, args, state=case.state, dynamic=case.dynamic)
    plan = graph.plan(random=1)
    return atograph.mask(model, plan), args, atograph.slim(graph, plan)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_of_calls_gives_what_the_masked_network_gives(case: Case, tmp_path: Path) -> None:
    masked, args, slim = slimmed(case)
    files = []
    for target in targets_of(("onnx", "pt2")):
        path = export(target, slim.program, tmp_path / target.file)
        files.append(load(target, path, slim.program))
    entries = certify(masked, slim, files, Inputs(args, {}))
    assert entries[-1].steps == STEPS, "several calls in a row, each with the state of the last one"
    assert min(entry.moved for entry in entries) > 1e-3
    difference = exactness(masked, slim, Inputs(args, {}))
    assert difference is not None
    assert difference < 1e-9
    state = slim.passes_program.interface.state_pairs
    shapes = [tuple(node.meta["val"].shape[1:]) for node in slim.passes_program.input_nodes() if node.name in state]
    assert tuple(map(tuple, shapes)) == case.cut
    assert slim.why_no_module == ""


def test_the_first_state_has_to_be_zero_where_units_go_unless_nothing_reads_it() -> None:
    """What `zero.prove` takes for granted of a state, and what not."""
    for make, holds in ((gru, False), (half_of_a_zero, True)):
        masked, args, slim = slimmed(Case(make, vectors(8), STATE_AFTER_ONE, ()))
        cut_args, _ = slim.cut_state(*args)
        with torch.no_grad():
            same = torch.allclose(masked(*args)[0], slim(*cut_args)[0], atol=1e-5)
        assert same == holds, make.__name__


def test_what_is_returned_beside_the_state_freezes_it() -> None:
    """The same tensor is an output of its own as well, of which the world outside expects all units."""

    def forward(m: Any, x: Tensor, h: Tensor) -> Any:
        h = torch.tanh(m.x(x) + m.h(h))
        return h, h

    model = Net(forward, x=nn.Linear(5, 8), h=nn.Linear(8, 8)).eval()
    args = (torch.randn(2, 5), torch.zeros(2, 8))
    assert not atograph.trace(model, args, state=STATE_AFTER_ONE).prunable
    beside = atograph.trace(model, args, state=STATE_AFTER_ONE, outputs=["1"])
    assert [group.size for group in beside.prunable] == [8]


def test_without_state_nothing_of_it_goes() -> None:
    graph = atograph.trace(gru().eval(), (torch.randn(2, 5), torch.zeros(2, 8)))
    assert not graph.prunable


def test_the_state_is_returned_whatever_outputs_are_read() -> None:
    model, args = lstm_cell().eval(), (torch.randn(2, 5), (torch.zeros(2, 8), torch.zeros(2, 8)))
    graph = atograph.trace(model, args, state=STATE_AFTER_ONE, outputs=["0"])
    assert graph.groups.outputs == () and graph.plan(random=0).state == ("1=state",)

    def with_another(m: Any, x: Tensor, h: Tensor) -> Any:
        h = torch.tanh(m.x(x) + m.h(h))
        return {"y": m.head(h), "aux": m.aux(h), "h": h}

    model = Net(with_another, x=nn.Linear(5, 8), h=nn.Linear(8, 8), head=nn.Linear(8, 2), aux=nn.Linear(8, 6)).eval()
    graph = atograph.trace(model, (torch.randn(2, 5), torch.zeros(2, 8)), state={"h": "state"}, outputs=["y"])
    assert graph.groups.outputs == ("y", "h")
    plan = graph.plan(random=0)
    again = atograph.trace(
        model, (torch.randn(2, 5), torch.zeros(2, 8)), state=plan.state, outputs=plan.outputs
    ).for_plan(plan)
    slim = atograph.slim(again, plan)
    x, h = torch.randn(3, 5), torch.zeros(3, 8)
    cut_args, _ = slim.cut_state(x, h)
    torch.testing.assert_close(atograph.mask(model, plan)(x, h)["y"], slim(*cut_args)["y"])
    assert slim(*cut_args)["h"].shape == (3, 4)


def test_a_plan_with_state_is_plain_data_and_fits_the_same_state_only() -> None:
    model, args = gru().eval(), (torch.randn(2, 5), torch.zeros(2, 8))
    graph = atograph.trace(model, args, state=STATE_AFTER_ONE)
    plan = atograph.Plan.from_json(graph.plan(random=0).to_json())
    assert plan == graph.plan(random=0)
    without = atograph.trace(model, args)
    with pytest.raises(UserError, match="with the state 1=state, and here it is none"):
        atograph.slim(without, plan)
    atograph.slim(without.for_plan(plan), plan)


def test_a_length_that_grows_is_dynamic_by_itself() -> None:
    args = (torch.randint(0, 20, (2, 1)), cache(length=5))
    graph = atograph.trace(attention().eval(), args, state=CACHE)
    assert [(size.name, len(size.places)) for size in graph.program.interface.dynamic] == [("past_sequence", 2)]
    fixed = atograph.trace(attention().eval(), args, state=CACHE, dynamic=False)
    assert any("State that becomes past_k and past_v comes back in another size" in note for note in fixed.notes)


class Padded(nn.Module):
    """With a mask over what is past and what is new."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = attention()

    def forward(self, ids: Tensor, mask: Tensor, past: Any) -> Any:
        m = self.attention
        x = m.embed(ids)
        q, k, v = (f(x).unflatten(-1, (-1, 6)).transpose(1, 2) for f in (m.q, m.k, m.v))
        k, v = torch.cat([past["k"], k], 2), torch.cat([past["v"], v], 2)
        scores = (q @ k.transpose(-1, -2)).masked_fill(~mask[:, None, None].bool(), -1e9)
        x = x + m.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return {"logits": m.head(x), "present": {"k": k, "v": v}}


@pytest.mark.parametrize("new", [1, 3])
def test_what_is_as_long_as_past_and_new_goes_along(new: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    mask = torch.ones(2, 5 + new, dtype=torch.long)
    mask[0, :2] = 0
    args = (torch.randint(0, 20, (2, new)), mask, cache(length=5))
    model, dynamic = Padded().eval(), {"ids": {1: "sequence"}} if new > 1 else None
    graph = atograph.trace(model, args, state=CACHE, dynamic=dynamic)
    sums = {size.name: (size.parts, size.plus) for size in graph.program.interface.dynamic}
    whole = (("past_sequence", "sequence"), 0) if new > 1 else (("past_sequence",), 1)
    assert sums["total_sequence"] == whole
    slim = atograph.slim(graph, graph.plan(random=0))
    (target,) = targets_of(("onnx",))
    file = load(target, export(target, slim.program, tmp_path / target.file), slim.program)
    entries = certify(atograph.mask(model, slim.plan), slim, [file], Inputs(args, {}))
    assert entries[-1].steps == STEPS
    cut, _ = slim.cut_state(args[0], mask[:, 1:], args[2])
    with pytest.raises(UserError, match=r"mask of total_sequence = .*, and the other inputs make it"):
        slim(*cut)


REFUSED = {
    "ranks": ({"0": "state"}, "the output output_0 is float32 of the shape .*, and the input state, which it is to"),
    "no output": ({"7": "state"}, "the model has no output '7'"),
    "no input": ({"1": "past"}, "state names the input 'past', and the example inputs are x, state"),
    "counts": ({"2": "state"}, "the output 2, which is 2 tensors, with the input state, which is one tensor"),
    "twice": (["1=state", "3=state"], "state names the output output_3 or the input state twice"),
    "form": (["state"], "does not say which output becomes which input"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_state_is_refused_by_name(what: str) -> None:
    def forward(m: Any, x: Tensor, h: Tensor) -> Any:
        h = torch.tanh(m.x(x) + m.h(h))
        return m.head(h).sum(1), h, (h, h), h

    model = Net(forward, x=nn.Linear(5, 8), h=nn.Linear(8, 8), head=nn.Linear(8, 3)).eval()
    state, text = REFUSED[what]
    with pytest.raises(UserError, match=text):
        atograph.trace(model, (torch.randn(2, 5), torch.zeros(2, 8)), state=state)


def test_state_grows_along_one_dim_at_most() -> None:
    model = nn.Conv2d(3, 3, 3, stride=2).eval()
    with pytest.raises(UserError, match=r"\[s0, 3, 3, 3\].*\[s0, 3, 8, 8\].*grow along one dim"):
        atograph.trace(model, torch.randn(2, 3, 8, 8), state={"output": "input"})
