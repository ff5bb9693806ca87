"""Random networks and random plans: what has to hold for every one of them.

``make fuzz N=10000`` tries more than the tests do, with other seeds each time: SEED=... repeats one of these runs.
"""

from __future__ import annotations

import copy
import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from growing import (
    EXAMPLES,
    FUNCTIONS,
    KNOTS,
    MANY,
    ROWS,
    SEED,
    Composed,
    Grown,
    Regional,
    Stateful,
    compositions,
    networks,
    regional,
    streams,
)
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from reached import every, expected, rows_of
from read_back import check_read_back
from torch import Tensor

import atograph
from atograph.capture import capture
from atograph.inspection import overview
from atograph.inspection.chain import causes
from atograph.onnx.export import export_onnx
from atograph.ort.model import OnnxModel
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.ir.run import ProgramModule
from atograph.passes.pipeline.pipeline import ANALYSE, Pipeline
from atograph.passes.plan.plan import Plan
from atograph.proof.certificate import TOLERANCE
from atograph.proof.flop_count import count_flops
from atograph.values.batch_size import batch_sizes, with_batch
from atograph.values.resized import around, resized
from benchmarks.exact import Outcome, as_double, compare, difference, perturb

pytestmark = [
    pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter"),
    pytest.mark.filterwarnings("ignore:index_reduce"),
]

Example = tuple[Grown, tuple[Tensor, ...]]


@pytest.fixture(scope="module")
def reached(request: pytest.FixtureRequest) -> Iterator[set[str]]:
    """Rows of the op table that networks went through; the others are told at the end of a long run."""
    found: set[str] = set()
    yield found
    missed = sorted(expected() - found)
    _tell(request.config, f"{len(found)} rows of the op table reached at random, {len(missed)} not: {' '.join(missed)}")


@pytest.fixture(scope="module")
def refused(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """How often what was refused on the way to ONNX Runtime, told at the end of a long run."""
    found: Counter[str] = Counter()
    yield found
    _tell(request.config, *(f"{count} × {what}" for what, count in found.most_common()))


@pytest.fixture(scope="module")
def dynamic(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """How often how many of the sizes asked for are dynamic, told at the end of a long run."""
    found: Counter[str] = Counter()
    yield found
    _tell(request.config, *(f"{count} × {what}" for what, count in found.most_common()))


@seed(SEED)
@MANY
@given(networks(), st.integers(0, 2**16), st.sampled_from([0.02, 0.2, 0.5, 0.8]))
def test_masked_is_slim(reached: set[str], example: Example, number: int, keep: float) -> None:
    reached |= rows_of(check(example, number, keep).program)


@pytest.mark.long
@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 3, 10))
@given(networks(), st.integers(0, 2**16))
def test_branches_that_are_gone(example: Example, number: int) -> None:
    """Masked is slim, and costs what is predicted, where groups lose all of their units."""
    check(example, number, 0.5, depth=True)


@pytest.mark.parametrize("row", every(ROWS), ids=lambda row: row[1])
@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 100, 1))
@given(st.data(), st.integers(0, 2**16))
def test_a_network_with_this_op(row: tuple[int, str], data: st.DataObject, number: int) -> None:
    """Each row of the op table occurs in networks that are random otherwise."""
    graph = check(data.draw(networks(2, row)), number, 0.5)
    assert row[1] in rows_of(graph.program)


@pytest.mark.parametrize("knot", every(KNOTS), ids=lambda knot: knot[1])
@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 75, 1))
@given(st.data(), st.integers(0, 2**16))
def test_a_network_with_this_knot(knot: tuple[int, str], data: st.DataObject, number: int) -> None:
    check(data.draw(networks(2, knot)), number, 0.5)


@pytest.mark.long
@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 8, 10))
@given(compositions(), st.integers(0, 2**16), st.sampled_from([0.02, 0.2, 0.5, 0.8]), st.booleans())
def test_compositions(example: tuple[Composed, tuple[Tensor, ...]], number: int, keep: float, depth: bool) -> None:
    """Masked is slim, and so is the slim module, where there is one."""
    model, inputs = example
    slim = compare_or_fail(model, inputs, number, keep, depth=depth).slim
    if slim.module is not None:
        wide = [x.double() for x in inputs]
        with torch.no_grad():
            assert difference(_listed(slim(*wide)), _listed(slim.module(*wide))) <= 1e-9, model


@pytest.mark.long
@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 4, 10))
@given(networks() | compositions(), st.integers(0, 2**16))
def test_any_size(dynamic: Counter[str], example: tuple[Grown | Composed, tuple[Tensor, ...]], number: int) -> None:
    """With lengths, heights and widths dynamic where they can be, program is model, and slim is masked, at others."""
    model, inputs = example
    perturb(model)
    wide_model, wide = copy.deepcopy(model).double().eval(), as_double((inputs, {}))
    texts = [
        f"{leaf}:{dim}=d{leaf}_{dim}"
        for leaf, x in enumerate(inputs)
        for dim in range(2 if x.dim() == 4 else 1, x.dim())
        if x.shape[dim] > 1
    ]
    graph = atograph.trace(wide_model, *wide, dynamic=texts)
    dynamic[f"networks with {len(graph.program.interface.dynamic)} of {len(texts)} sizes dynamic"] += 1
    program, interface = ProgramModule(graph.program), graph.program.interface
    plan = graph.plan(random=number, keep=0.5)
    slim, masked = atograph.slim(graph, plan), atograph.mask(wide_model, plan)
    with torch.no_grad():
        for sizes in ({}, *around(interface)):
            args, _ = resized(wide, interface, sizes)
            try:
                whole, reference = _listed(wide_model(*args)), _listed(masked(*args))
            except Exception:  # the network takes no such size
                continue
            assert difference(whole, _listed(program(*args))) <= 1e-9, (model, sizes)
            assert difference(reference, _listed(slim(*args))) <= 1e-9, (model, sizes)


@pytest.mark.long
@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 8, 10))
@given(networks() | compositions() | streams(), st.integers(0, 2**16))
def test_the_text_is_read_back(example: tuple[Any, ...], number: int) -> None:
    """A program, with other sizes dynamic and with state, and the slim one: each is what its text says, read again."""
    model, inputs, *state = example
    args = (inputs, *state) if state else inputs
    texts = [
        f"{leaf}:{dim}=d{leaf}_{dim}"
        for leaf, x in enumerate(inputs)
        for dim in range(2 if x.dim() == 4 else 1, x.dim())
        if x.shape[dim] > 1 and number % 3 == 0 and not state
    ]
    graph = atograph.trace(model, args, dynamic=texts, state={"1": "state"} if state else None)
    check_read_back(capture(model, args, dynamic=texts), *args)
    slim = atograph.slim(graph, graph.plan(random=number, keep=0.5, depth=number % 2 == 0))
    if not slim.passes_program.facts:  # where nothing goes it is the traced one, whose text tells of the groups as well
        check_read_back(slim.passes_program, *(() if state else args))


@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 5, 10))
@given(streams(), st.integers(0, 2**16), st.booleans())
def test_state_goes_along(
    example: tuple[Stateful, tuple[Tensor, ...], tuple[Tensor, ...]], number: int, depth: bool
) -> None:
    """Call by call, each with what the call before has left, slim is masked, and so is its state where units stay."""
    model, inputs, state = example
    model.double()
    perturb(model, number)
    (wide, first), _ = as_double(((inputs, state), {}))
    graph = atograph.trace(model, (wide, first), state={"1": "state"})
    plan = graph.plan(random=number, depth=depth)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    (_, cut), _ = slim.cut_state(wide, first)
    torch.manual_seed(number)
    with torch.no_grad():
        for _ in range(4):
            fresh = tuple(torch.randn_like(x) for x in wide)
            (reference, first), (found, cut) = masked(fresh, first), slim(fresh, cut)
            assert difference(_listed(reference), _listed(found)) <= 1e-9, model
            (_, expected_cut), _ = slim.cut_state(fresh, first)
            assert difference(expected_cut, cut) <= 1e-9, model


@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 75, 1))
@given(regional(), st.integers(0, 2**16))
def test_regions(refused: Counter[str], example: tuple[Regional, tuple[Tensor, ...]], number: int) -> None:
    """Networks with control flow: the program is what Python computes, and slim is masked, for other batches too.

    What is refused, torch.export refuses itself.
    """
    model, inputs = example
    model.double()
    perturb(model, number)
    (x,), _ = as_double((inputs, {}))
    model.write(False)
    torch._dynamo.reset()
    try:
        graph = atograph.trace(model, x)
    except atograph.UserError as error:
        with pytest.raises(Exception):  # noqa: B017  (any of torch's)
            torch.export.export(model, (x,), strict=False)
        refused[error.message] += 1
        return
    plan = graph.plan(random=number, keep=0.5)
    slim, program = atograph.slim(graph, plan), ProgramModule(graph.program)
    model.write(True)
    masked = atograph.mask(model, plan)
    with torch.no_grad():
        for given_x in (x, -x) if graph.program.interface.fixed else (x, -x, x[[0, 1, 1, 0, 1]] * 2):
            assert difference([model(given_x)], _listed(program(given_x))) <= 1e-9, model
            assert difference([masked(given_x)], _listed(slim(given_x))) <= 1e-9, model


@pytest.mark.parametrize("name", [*FUNCTIONS][:: 1 if "FUZZ_N" in os.environ else 12])  # all of them: half a minute
def test_each_function_of_compositions(name: str) -> None:
    torch.manual_seed(SEED)
    compare_or_fail(Composed([[name]]), (torch.randn(2, 3, 6, 6),), SEED, 0.5)


def compare_or_fail(
    model: Grown | Composed, inputs: tuple[Tensor, ...], number: int, keep: float, *, depth: bool = False
) -> Outcome:
    """Masked and slim held against each other; the model is told where they differ."""
    how = {"random": number, "depth": True} if depth else {}
    found = compare(model, inputs, seed=number, keep=keep, **how)
    assert found.difference <= 1e-9, (found.difference, model)
    return found


def test_every_rule_is_reached() -> None:
    """The rows above are those of the op table; what is missing has a reason."""
    assert {name for _rank, name in every(ROWS)} == expected()


def check(example: Example, number: int, keep: float, *, depth: bool = False) -> atograph.Graph:
    """Masked is slim in float64, for other batches, too; FLOPs are as predicted, and the plan survives its file."""
    model, inputs = example
    found = compare_or_fail(model, inputs, number, keep, depth=depth)
    assert Plan.from_json(found.plan.to_json()) == found.plan
    assert found.slim.flops == found.graph.cost.flops(found.plan.counts)
    assert found.slim.params == found.graph.cost.params(found.plan.counts)
    wide = as_double((inputs, {}))
    args, _ = with_batch(wide, batch_sizes(wide, found.graph.program)[0])  # one sample, unless two were fixed
    assert count_flops(found.slim.as_module(), *args) == found.slim.flops
    if not found.graph.program.interface.fixed:
        args, _ = with_batch(wide, 5)
        with torch.no_grad():
            masked = _listed(atograph.mask(model, found.plan)(*args))
            assert difference(masked, _listed(found.slim(*args))) <= 1e-9
    return found.graph


@pytest.mark.long
@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 8, 10))
@given(networks(), st.integers(0, 2**16))
def test_what_is_not_read_freezes_nothing(example: Example, number: int) -> None:
    """A network that returns all its values besides, and is read as before, has the same groups, and is exact."""
    model, inputs = example
    own = atograph.trace(model.double(), *as_double((inputs, {})))
    showing = Showing(model.parts, model.steps, model.outputs).eval()
    chosen = ["0"] if len(model.outputs) == 1 else [f"0.{index}" for index in range(len(model.outputs))]
    found = compare(showing, inputs, seed=number, outputs=chosen)
    assert found.difference <= 1e-9, (found.difference, model)
    assert [str(group) for group in found.graph.groups] == [str(group) for group in own.groups]


class Showing(Grown):
    """A network that also returns what it computes on the way."""

    def forward(self, *inputs: Tensor) -> Any:
        values = self.values(inputs)
        return self.chosen(values), values


@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 5, 10))
@given(networks(), st.integers(0, 2**16))
def test_a_slim_model_has_the_groups_that_are_left(example: Example, number: int) -> None:
    """Analysed again, it has the same groups: of the same parameters, as many units as were kept, prunable or not.

    It is the slim program that is analysed: traced from a module, the orders of its shuffles would be buffers, which
    might hold anything.

    Each group keeps two units at least here. A single one would be a dimension of size 1, which is no group any more
    and broadcasts: it may let go of what was tied to it.
    """
    model, inputs = example
    graph = atograph.trace(model.double(), *as_double((inputs, {})))
    chance = random.Random(number)
    kept = {
        group.name: sorted(chance.sample(range(group.size), chance.randint(min(2, group.size), group.size)))
        for group in graph.prunable
    }
    slim = atograph.slim(graph, graph.plan(kept=kept))
    again = atograph.Graph(Pipeline.parse(ANALYSE).run(slim.passes_program), None)
    left = [
        (group.members, len(kept.get(group.name, range(group.size))), group.frozen is None) for group in graph.groups
    ]
    assert sorted((group.members, group.size, group.frozen is None) for group in again.groups) == sorted(left)
    assert (again.flops, again.params) == (slim.flops, slim.params)


@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 40, 1))
@given(networks(4), st.integers(0, 2**16))
def test_onnx_runtime_agrees(
    refused: Counter[str], tmp_path_factory: pytest.TempPathFactory, example: Example, number: int
) -> None:
    """The slim file gives what the slim program gives, as near as float32 is to float64.

    What torch.onnx or ONNX Runtime refuses is refused of the dense model, too, and for the same op.
    """
    model, inputs = example
    folder = tmp_path_factory.mktemp("onnx")
    graph = atograph.trace(model, inputs)
    slim = atograph.slim(graph, graph.plan(random=number))
    forms = {"slim": slim.program, "dense": to_exported(graph.program)}

    def in_runtime(which: str) -> OnnxModel:
        return OnnxModel(export_onnx(forms[which], folder / f"{which}.onnx"), forms[which])

    try:
        exported = in_runtime("slim")
    except atograph.UserError as error:
        with pytest.raises(atograph.UserError) as dense:
            in_runtime("dense")
        assert error.message == dense.value.message
        refused[error.message] += 1
        return
    with torch.no_grad():
        single, found = _listed(slim(*inputs)), _listed(exported(*inputs))
        wide = as_double((inputs, {}))
        double = _listed(atograph.slim(atograph.trace(model.double(), *wide), slim.plan)(*wide[0]))
    allowed = max(TOLERANCE, 10 * difference(double, [x.double() for x in single]))  # float32 itself may be as far off
    assert difference(single, found) <= allowed, model


@pytest.mark.long
@seed(SEED)
@settings(MANY, max_examples=max(EXAMPLES // 5, 10))
@given(networks(), st.integers(0, 2**16))
def test_what_is_shown_is_so(example: Example, number: int) -> None:
    """What hangs on a group is gone without it, each group has its causes, and coupled groups are exact, too."""
    model, inputs = example
    graph = atograph.trace(model, inputs)
    shown = overview(graph)
    for group in shown.groups:
        (member, *_) = group.members
        assert any(
            cause.group is not None and cause.group.name == group.name for cause in causes(graph, member.parameter)
        )
        if group.prunable:
            saved = graph.flops - graph.cost.flops({group.name: 0})
            assert group.flops == saved if group.whole is None else group.flops <= saved == group.whole.flops
    pairs = [(a.name, b.name) for a in graph.prunable for b in graph.prunable if a is not b and a.size == b.size]
    if pairs:
        pair = random.Random(number).choice(pairs)
        try:
            graph.coupled([pair])
        except atograph.UserError as error:  # both along one dimension, which would multiply itself
            assert "cannot be coupled" in str(error)
            return
        model.double()
        inputs = tuple(x.double() for x in inputs)
        coupled = atograph.trace(model, inputs).coupled([pair])
        plan = coupled.plan(random=number)
        masked, slim = atograph.mask(model, plan), atograph.slim(coupled, plan)
        with torch.no_grad():
            for a, b in zip(_listed(masked(*inputs)), _listed(slim(*inputs)), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def _listed(found: object) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)  # type: ignore[return-value]


def _tell(config: pytest.Config, *lines: str) -> None:
    if "FUZZ_N" in os.environ:
        with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print("", *lines, sep="\n")
