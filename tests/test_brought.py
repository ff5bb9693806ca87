"""What others bring by the tables: names that are reserved, costs that are none, and their own exceptions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import TwoConvs, blobs
from torch import Tensor

import atograph
from atograph.integrations.own_loop import AutoTrainOnce
from atograph.passes import Budget, CostModel, Criterion
from atograph.passes.budgets.budget import BUDGETS, budget
from atograph.passes.criteria.criterion import criterion
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.errors import InternalError, UserError
from atograph.targets import Target
from atograph.targets.deployed import export, load
from atograph.train.ato.pruner import Pruner
from atograph.train.methods.ato import AutoTrainOnceMethod
from atograph.train.methods.method import Method, method
from atograph.train.settings import TrainSettings, settings_of
from atograph.train.settings.method_table import METHODS

HERE = __name__
DATA = blobs(4)


@pytest.fixture(autouse=True)
def own_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (BUDGETS, CRITERIA, METHODS):
        list(table)
        monkeypatch.setattr(table, "_loaders", dict(table._loaders))
        monkeypatch.setattr(table, "_homes", dict(table._homes))


def traced() -> atograph.Graph:
    torch.manual_seed(0)
    return atograph.trace(TwoConvs(), torch.randn(2, 1, 8, 8))


def energy(cost: Callable[[Budget, Mapping[str, Any]], Any], name: str = "energy") -> type[Budget]:
    fields = {"name": name, "title": "energy", "unit": "pJ", "help": "Share of it.", "cost": cost, "__module__": HERE}
    return type("Energy", (Budget,), fields)


def flops(row: Budget, counts: Mapping[str, Any]) -> Any:
    return row.program.fact(CostModel).flops(counts)


def spread(row: Budget, counts: Mapping[str, Any]) -> Any:
    """Above zero, and larger the fewer units there are."""
    return 2.0 + sum(1.0 / (1.0 + counts.get(group, 16)) for group in ("g0", "g3"))


def best_in_the_middle(row: Budget, counts: Mapping[str, Any]) -> Any:
    return 10.0 - abs(sum(counts.values()) / 2 - 4) if counts else 10.0


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (spread, r"falls where counts rise: it is 2\.\d+ with 1 of g\d, and 2\.\d+ with \d of g\d. .* never fall"),
        (lambda row, counts: flops(row, {}) * 2 - flops(row, counts), "falls where counts rise"),
        (best_in_the_middle, "falls where counts rise"),
        (lambda row, counts: 1.0 + sum(counts.values()), r"all of them, and 1 where none is mentioned. A group that"),
        (lambda row, counts: None, "is None for the dense model. It is a number, 0 or more"),
        (lambda row, counts: math.nan, "is nan for the dense model"),
        (lambda row, counts: -flops(row, counts), "is -[0-9]+ for the dense model"),
        (lambda row, counts: "much", "is 'much' for the dense model"),
    ],
)
def test_a_cost_by_which_no_plan_can_be_chosen(cost: Any, message: str) -> None:
    budget(energy(cost))
    with pytest.raises(UserError, match=rf"^{HERE}:Energy: the cost of the budget 'energy' .*{message}"):
        traced().plan(energy=0.5)


def test_such_a_budget_is_refused_before_a_training() -> None:
    budget(energy(spread))
    model = TwoConvs()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(UserError, match="falls where counts rise"):
        atograph.compress(model, DATA, energy=0.5, epochs=2, device="cpu")
    assert all(map(torch.equal, before, model.parameters()))


def detached(row: Budget, counts: Mapping[str, Any]) -> Any:
    return torch.as_tensor(flops(row, counts)).detach()


def rounded(row: Budget, counts: Mapping[str, Any]) -> Any:
    return math.ceil(flops(row, counts))


@pytest.mark.long
@pytest.mark.parametrize(("cost", "what"), [(detached, "a tensor without a gradient"), (rounded, r"\d+")])
def test_a_cost_without_a_gradient(cost: Any, what: str) -> None:
    budget(energy(cost))
    assert traced().plan(energy=0.5).counts
    train = {"flops": 0.6, "energy": 0.6, "epochs": 1, "device": "cpu"}
    wrong = rf"^{HERE}:Energy: the cost of the budget 'energy' gives the controller no gradient: .* it is {what}\."
    with pytest.raises(UserError, match=rf"{wrong} .*method=\"progressive\""):
        atograph.compress(TwoConvs(), DATA, method="ato", **train)
    for other in ("magnitude", "progressive"):
        result = atograph.compress(TwoConvs(), DATA, method=other, **train)
        assert all(each.reached <= 0.6 for each in result.report.budgets)


def test_a_cost_that_no_group_changes_needs_none() -> None:
    budget(energy(lambda row, counts: 5))
    result = atograph.compress(TwoConvs(), DATA, flops=0.6, energy=1.0, epochs=1, device="cpu")
    assert result.report.float64 is not None and result.report.float64 < 1e-9


FUNCTIONS = (
    atograph.Graph.plan, atograph.Graph.scores, atograph.Graph.plan_from_scores, atograph.compress, AutoTrainOnce
)  # fmt: skip


def test_every_name_that_a_budget_would_hide_is_reserved() -> None:
    names = {name for function in FUNCTIONS for name in inspect.signature(function).parameters}
    names -= {"flops", "budgets", "settings"}  # the first is one, the others take them
    assert (names | TrainSettings.model_fields.keys()) <= BUDGETS._reserved
    assert set(METHODS) | {"none"} == CRITERIA._reserved


class Nothing(Criterion):
    """For these tests."""

    def importance(self) -> Tensor:
        """All alike."""
        return torch.ones(self.units.total)


class Mine(AutoTrainOnceMethod):
    """For these tests."""


@pytest.mark.parametrize("name", ["by", "kept", "targets", "lr", "steps"])
def test_a_budget_called_as_an_argument_is(name: str) -> None:
    with pytest.raises(UserError, match=f"a budget cannot be called '{name}': .* Call it something else"):
        budget(energy(flops, name))


@pytest.mark.parametrize(
    ("register", "base", "name", "message"),
    [
        (criterion, Nothing, "none", "a criterion cannot be called 'none'"),
        (criterion, Nothing, "ato", "a criterion cannot be called 'ato'"),
        (criterion, Nothing, "at-once", "a criterion cannot be called 'at-once'"),
        (criterion, Nothing, "mine", "a criterion cannot be called 'mine': a method has it"),
        (method, Mine, "lamp", "a method cannot be called 'lamp': a criterion has it"),
    ],
)
def test_a_method_and_a_criterion_of_one_name(register: Any, base: type, name: str, message: str) -> None:
    method(type("Mine", (Mine,), {"name": "mine"}))
    with pytest.raises(UserError, match=message):
        register(type("Other", (base,), {"name": name}))


def test_a_name_of_an_entry_point_is_refused_where_it_is_asked_for() -> None:
    BUDGETS._loaders["by"], BUDGETS._homes["by"] = (lambda: energy(flops, "by")), "elsewhere:Energy"
    with pytest.raises(UserError, match=r"^elsewhere:Energy: a budget cannot be called 'by'"):
        BUDGETS.get("by")


def broken(*_args: Any, **_kwargs: Any) -> Any:
    return {}["g7"]


def told(call: str, what: str, kind: str) -> str:
    line = broken.__code__.co_firstlineno + 1
    return rf"^{HERE}:{line}: {call}\(\) of the {what} raised KeyError: 'g7'. It is code of {HERE}:{kind}\.$"


def cost(row: Budget, counts: Mapping[str, Any]) -> Any:
    return broken()


def test_an_exception_in_a_cost() -> None:
    budget(energy(cost))
    with pytest.raises(UserError, match=told("cost", "budget 'energy'", "Energy")) as caught:
        traced().plan(energy=0.5)
    assert isinstance(caught.value.__cause__, KeyError)


class Broken(Nothing):
    """It has a mistake."""

    name = "broken"

    def importance(self) -> Tensor:
        """Nothing."""
        return broken()


class Blind(Nothing):
    """Another one has."""

    name = "blind"
    needs = frozenset({"gradients"})

    def observe(self, values: Mapping[str, Tensor]) -> None:
        """Nothing."""
        broken()


class BrokenBelow(Broken):
    """It inherits it."""

    name = "broken-below"


@pytest.mark.parametrize(("kind", "call"), [(Broken, "importance"), (BrokenBelow, "importance"), (Blind, "observe")])
def test_an_exception_in_a_criterion(kind: type[Criterion], call: str) -> None:
    with pytest.raises(UserError, match=told(call, f"criterion '{kind.name}'", kind.__name__)):
        traced().plan(flops=0.5, by=kind, data=DATA)
    criterion(kind)
    with pytest.raises(UserError, match=told(call, f"criterion '{kind.name}'", kind.__name__)):
        atograph.compress(TwoConvs(), DATA, flops=0.5, prior=kind.name, epochs=1, device="cpu")


class BrokenPruner(Pruner[Any]):
    """The hook of a method that has a mistake."""

    def after_step(self, t: float, lr: float) -> None:
        """Nothing."""
        broken()


@pytest.mark.parametrize(
    ("hook", "call", "what", "kind"),
    [
        (lambda self, run, graph, shrink: BrokenPruner(run, graph, shrink), "after_step", "hook 'BrokenPruner'",
         "BrokenPruner"),
        (broken, "broken", "method 'mine'", "Mine"),
    ],
)  # fmt: skip
def test_an_exception_in_a_hook(hook: Any, call: str, what: str, kind: str) -> None:
    method(type("Mine", (Method,), {"name": "mine", "help": "fails", "hook": hook, "__module__": HERE}))
    with pytest.raises(UserError, match=told(call, what, kind)):
        atograph.compress(TwoConvs(), DATA, flops=0.5, method="mine", epochs=1, device="cpu")


class Text(Target):
    """A target with mistakes."""

    name, title, file = "text", "Text", "slim.txt"

    def export(self, program: Any, path: Path, metadata: Mapping[str, str]) -> None:
        """Nothing."""
        broken()

    def load(self, path: Path, program: Any) -> Callable[..., Any]:
        """Nothing."""
        return broken


def test_an_exception_in_a_target(tmp_path: Path) -> None:
    program: Any = None
    line = rf"The target 'text' is of {HERE}:Text \({HERE}:{broken.__code__.co_firstlineno + 1}\)"
    with pytest.raises(UserError, match=rf"^Text cannot export this model: KeyError: 'g7'. {line}"):
        export(Text(), program, tmp_path / "slim.txt")
    with pytest.raises(UserError, match=rf"^Text cannot run this model: KeyError: 'g7'. {line}"):
        load(Text(), tmp_path / "slim.txt", program)()


def test_errors_of_ours_pass_as_they_are() -> None:
    def refuses(row: Budget, counts: Mapping[str, Any]) -> Any:
        raise InternalError("an invariant.")

    budget(energy(refuses))
    with pytest.raises(InternalError, match="an invariant"):
        traced().plan(energy=0.5)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"include": {"flops", "epochs"}}, {"flops": 0.3, "epochs": 3}),
        ({"include": {"params"}}, {"params": 0.4}),
        ({"include": {"epochs"}}, {"epochs": 3}),
        ({"exclude_unset": True}, {"flops": 0.3, "params": 0.4, "epochs": 3}),
        ({"exclude_unset": True, "exclude": {"params"}}, {"flops": 0.3, "epochs": 3}),
        ({"exclude_defaults": True, "exclude": {"budgets"}}, {"epochs": 3}),
    ],
)
def test_a_part_of_the_settings(part: dict[str, Any], expected: dict[str, Any]) -> None:
    settings = TrainSettings(flops=0.3, params=0.4, epochs=3)
    dumped = settings.model_dump(**part)
    assert dumped == expected
    assert settings_of(dumped).model_dump(include=set(expected)) == expected


@pytest.mark.parametrize(
    "pairs", ["g0+g1", [("g0", "g1", "g2")], [("g0",)], ["g0=g1"], [0], 3, None, [(0, 1)], {"g0": "g1"}]
)
def test_what_is_no_pair_of_groups(pairs: Any) -> None:
    with pytest.raises(UserError, match=r"coupled in pairs of names, and .* is none. Write them as \[\(\"g0\", \"g4"):
        traced().coupled(pairs)
