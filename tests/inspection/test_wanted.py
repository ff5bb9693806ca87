"""Parts of attention by name, widths and floors of some layers, and globs that couple."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from decoder import Decoder, Sizes, tokens

import atograph
from atograph.passes.analysis.attention import attention_parts
from atograph.passes.errors import UserError
from atograph.passes.plan.least import levels
from atograph.train.settings import settings_of


@functools.cache
def graph() -> atograph.Graph:
    torch.manual_seed(0)
    return atograph.trace(Decoder(Sizes(layers=3)).eval(), tokens())


def up(number: int) -> str:
    return graph().groups.named(f"layers.{number}.up").name


def frozen(**wishes: Any) -> set[str]:
    return {group.name for group in graph().steered(**wishes).groups if group.frozen is not None and group.frozen.wish}


def test_parts_of_attention_can_be_named_wherever_groups_are() -> None:
    parts = attention_parts(graph().program, graph().groups)
    for part in ("heads", "kv_heads", "head_dim", "values"):
        own = {name for name, each in parts.items() if each == part}
        assert frozen(freeze=[f"layers.*:{part}"]) == own
        one = frozen(freeze=[f"layers.0.q:{part}" if part != "values" else f"layers.0.v:{part}"])
        assert len(one) == 1 and one <= own
        assert {group.name for group in graph().steered(only=[f"layers.*:{part}"]).prunable} == own
    with pytest.raises(UserError, match=r"layers.0.up:heads' names nothing: there is no attention in layers.0.up"):
        graph().steered(freeze=["layers.0.up:heads"])
    with pytest.raises(UserError, match=r"layers.0.v has kv_heads, values"):
        graph().steered(freeze=["layers.0.v:head_dim"])
    coupled = graph().steered(couple=["layers.0.v:values=layers.1.v:values"])
    assert len(coupled.groups) == len(graph().groups) - 1


@pytest.mark.parametrize("part", ["heads", "kv_heads", "values"])
def test_attention_goes_by_the_name_of_a_part(part: str) -> None:
    model = Decoder(Sizes(layers=3)).eval()
    traced = atograph.trace(model, tokens())
    parts = attention_parts(traced.program, traced.groups)
    steered = traced.steered(drop=[f"layers.1.{'v' if part == 'values' else 'q' if part == 'heads' else 'k'}:{part}"])
    plan = steered.plan(kept={})
    (emptied,) = plan.emptied
    assert parts[emptied] == part
    slim = atograph.slim(steered, plan)
    assert not any(name.startswith("layers.1.q") for name in slim.program.state_dict)
    torch.testing.assert_close(slim(tokens()), atograph.mask(model, plan)(tokens()))


def test_what_may_not_go_by_the_name_of_a_part() -> None:
    with pytest.raises(UserError, match=r"'layers.0:head_dim' names nothing that may go altogether \(g\d+: "):
        graph().steered(drop=["layers.0:head_dim"])
    with pytest.raises(UserError, match=r"layers.0.up:heads' names nothing: there is no attention in layers.0.up"):
        graph().steered(drop=["layers.0.up:heads"])


@pytest.mark.parametrize(("pairs", "gone"), [
    (["layers.*.up=layers.0.up"], 2),
    (["layers.*.v:values=layers.0.v:values"], 2),
    (["layers.*.up=layers.*.gate"], 0),
])  # fmt: skip
def test_globs_couple(pairs: list[str], gone: int) -> None:
    if not gone:  # the same groups already
        with pytest.raises(UserError):
            graph().steered(couple=[*pairs, "layers.7.*=layers.0.up"])
        return
    coupled = graph().steered(couple=pairs)
    assert len(coupled.groups) == len(graph().groups) - gone
    with pytest.raises(UserError, match="no text for"):
        graph().steered(couple=["layers.*.up=l*yers.0.v:values"])


@pytest.mark.parametrize(("width", "counts"), [
    ("48", {48}), ("50%", {32}), ("0.25", {16}), ("20..24", set(range(20, 25))), ("..8", set(range(1, 9))),
    ("0.9..", set(range(58, 65))),
])  # fmt: skip
@pytest.mark.parametrize("uniform", [False, True])
def test_how_wide_layers_are(width: str, counts: set[int], uniform: bool) -> None:
    steered = graph().steered(width=[f"layers.*.up={width}"], uniform=uniform)
    generator = torch.Generator().manual_seed(1)
    scores = {group.name: torch.rand(group.size, generator=generator) for group in steered.prunable}
    for plan in (
        steered.plan_from_scores(scores, flops=0.8, floor=0), steered.plan_from_scores(scores, flops=1.0, floor=0),
        steered.plan(random=0, keep=0.4), steered.plan(random=0, keep=0.99),
    ):  # fmt: skip
        found = {plan.counts[up(number)] for number in range(3)}
        assert found <= counts
        assert not uniform or len(found) == 1
    assert {*levels(steered.groups, [up(0)])} <= counts


def test_all_units_by_max_and_one_layer_alone() -> None:
    assert frozen(width=["layers.1.up=max"]) == {up(1)}
    assert graph().steered(width=["layers.2.down=8..16"]).groups.named("embed").most == 16  # the one that it makes
    plan = graph().steered(width=["layers.1.up=40", "layers.1.up=10"]).plan(0.9)
    assert plan.counts[up(1)] == 10 and plan.counts[up(0)] != 10


@pytest.mark.parametrize(("width", "said"), [
    ("layers.0.up", "a width is NAME=WIDTH"), ("layers.0.up=", "a width is NAME=WIDTH"),
    ("layers.0.up=65", "has 64 units"), ("layers.0.up=0", "has 64 units"), ("layers.0.up=9..3", "has 64 units"),
    ("layers.0.up=many", "neither a number of units nor a share"), ("layers.9.up=3", "no parameter, module or group"),
])  # fmt: skip
def test_what_is_no_width_is_refused(width: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        graph().steered(width=[width])


def test_a_floor_of_some_layers() -> None:
    settings = settings_of({"flops": 0.5, "floor": "0.1,backbone.c2=0.5", "width": ("a=3",)})
    assert (settings.floor, settings.width) == (0.1, ("backbone.c2=0.5..", "a=3"))
    assert settings_of({"floor": "layers.*.up=0.9"}).floor == 0.05
    assert settings_of({"floor": "0,1"}).floor == 0.1
    assert graph().steered(width=["layers.0.up=0.9.."]).groups[up(0)].least == 58
