"""The configuration of a transformers model, where one can express the slim model.

It can if a fresh model made from it has the slim one's shapes and, with its weights, computes the same. A configuration
has one number for all layers, and says nothing of norms that count more than they see, so many plans have none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import inf
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from atograph.process.quiet import quiet
from atograph.repair.config_fields import changed, configurations, field_of, fields_of, set_field

Shapes = Mapping[str, tuple[int, ...]]
"""Of a model's tensors, by name."""

_FILLING = {"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_",
            "xavier_normal_", "zeros_", "ones_", "constant_", "zero_", "fill_"}  # fmt: skip

_Made = dict[frozenset[tuple[str, int]], Shapes | None]
"""Shapes of models by the numbers that they were made with; None where there is no such model."""

_READ_IF_THERE = ("head_dim",)
"""Numbers that models' code reads where a configuration has them, whether its class knows of them or not."""

_PROBE = 2
"""A number that is tried to see what it shapes."""

_ROUNDS = 8
"""How often one field is exchanged at most; each try makes a model without data."""


class Fit(NamedTuple):
    """A configuration of a slim model, and a fresh model that was made from it.

    Attributes:
        fields: what differs from the dense model's configuration.
        fresh: has the slim model's weights, and computes the same.
    """

    fields: dict[str, int]
    fresh: nn.Module


def fit_config(
    dense: nn.Module, module: nn.Module, same: Callable[[nn.Module], bool], ratios: Iterable[Fraction] = ()
) -> Fit | str:
    """The configuration that says all that a slim model is.

    Args:
        dense: the dense model.
        module: the slim one, with a configuration of its own.
        same: whether a model computes what the slim one does.
        ratios: what parts of their units groups keep: numbers that no shape tells alone changed by these.

    Returns:
        The configuration; or in words, why there is none.
    """
    old: Any = getattr(dense, "config", None)
    if configured(dense) is None or not isinstance(getattr(module, "config", None), type(old)):
        return "it is made without a configuration"
    shapes = shapes_of(module)
    if odd := not_as_configured(dense):
        return odd
    if unlike := _unlike_layers(dense, shapes):
        return unlike
    nearest: dict[str, int] | None = None
    for said in dict.fromkeys([(), tuple(left_to_code(type(dense), old).items())]):
        config = changed(old, dict(said))
        tries = _Tries(type(dense), config, shapes)
        for fields in _nearest(_candidates(shapes_of(dense), shapes, config, ratios), tries):
            nearest = fields if nearest is None else nearest
            if tries.distance(fields):
                continue
            fields = {**dict(said), **fields}
            try:
                fresh = made_with(type(dense), old, fields)
                fresh.load_state_dict(module.state_dict())
            except Exception:  # tensors that only code makes, or that no configuration makes twice the same
                continue
            fresh.to(next(module.parameters())).train(module.training)
            if _agree(dense, module, fresh) and same(fresh):
                return Fit(fields, fresh)
    return _misfit(type(dense), old, nearest or {}, shapes)


def configured(model: nn.Module) -> type[nn.Module] | None:
    """The class of a model that is made from its ``config`` and nothing else; None for all others."""
    kind = getattr(type(model), "config_class", None)
    return type(model) if isinstance(kind, type) and isinstance(getattr(model, "config", None), kind) else None


def configured_parts(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that are made from a configuration, with their names; the model itself has none."""
    if configured(model) is not None:
        yield path, model
        return
    for name, child in model.named_children():
        yield from configured_parts(child, f"{path}.{name}" if path else name)


def numbers_for(
    kind: type[nn.Module],
    config: object,
    dense: Shapes,
    shapes: Shapes,
    made: _Made | None = None,
    ratios: Iterable[Fraction] = (),
) -> Iterator[dict[str, int]]:
    """Other numbers in a configuration with which a model has some shapes; none where there are none.

    Args:
        kind: of model.
        config: of the model with the shapes ``dense``.
        dense: what it makes.
        shapes: what it should make.
        made: models that were made already, by their numbers; those that are made are added.
        ratios: as for `fit_config`.
    """
    tries = _Tries(kind, config, shapes, made)
    for fields in _nearest(_candidates(dense, shapes, config, ratios), tries):
        if not tries.distance(fields):
            yield fields


def _agree(dense: nn.Module, module: nn.Module, fresh: nn.Module) -> bool:
    """Whether a fresh model has the integers that were repaired, and the factors that were not: weights near zero may
    hide that it attends with another scale."""
    theirs = dict(fresh.named_modules())
    return all(
        value == new
        for name, part, before in in_both(module, dense)
        for attribute, value in vars(part).items()
        for new in [vars(theirs[name]).get(attribute, value) if name in theirs else value]
        if (type(value) is int and value != vars(before).get(attribute, value)) or type(value) is float
    )


def follow_config(dense: nn.Module, module: nn.Module, fit: Fit) -> tuple[str, ...]:
    """Set a slim model's configuration, and what else its modules have derived from it: integers that no call has read.

    Returns:
        In words, what was set.
    """
    old, own = getattr(dense, "config", None), getattr(module, "config", None)
    words = []
    fresh = dict(fit.fresh.named_modules())
    for name, part, before in in_both(module, dense):
        for attribute, value in vars(fresh[name]).items() if type(fresh.get(name)) is type(part) else ():
            now = vars(part).get(attribute)
            if _integers(value) and value != now and now == vars(before).get(attribute):
                vars(part)[attribute] = value
                words.append(f"{name + '.' if name else ''}{attribute}: {now} → {value}")
    for field, value in fit.fields.items():
        set_field(own, field, value)
        words.append(f"config.{field}: {field_of(old, field)} → {value}")
    return tuple(words)


def _integers(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_integers, value))
    return type(value) is int


def in_both(module: nn.Module, dense: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """The parts that a slim module has of the dense one: name, part, and what it was."""
    parts = dict(dense.named_modules())
    return ((name, part, parts[name]) for name, part in module.named_modules() if name in parts)


def shapes_of(module: nn.Module) -> Shapes:
    """Of all tensors that a model saves."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def not_as_configured(model: nn.Module) -> str:
    """What of a dense model its configuration does not make: layers that were exchanged; empty where there is none."""
    shapes, made = shapes_of(model), shapes_with(type(model), vars(model)["config"], {})
    odd = next((name for name in shapes if made is not None and made.get(name) != shapes[name]), "")
    return odd and f"{odd} is not what its configuration makes: adapters are merged before, and layers not exchanged"


def _unlike_layers(dense: nn.Module, shapes: Shapes) -> str:
    """Two layers of one list that were alike and are not any more; empty if there are none.

    A configuration has one number for all layers of a list.
    """
    for path, layers in dense.named_modules():
        first: dict[tuple[str, type[nn.Module], tuple[int, ...]], str] = {}
        for place, layer in enumerate(layers) if isinstance(layers, nn.ModuleList) else ():
            for own, tensor in layer.state_dict().items():
                name = f"{path}.{place}.{own}"
                like = first.setdefault((own, type(layer), tuple(tensor.shape)), name)
                if name in shapes and like in shapes and shapes[name] != shapes[like]:
                    return (
                        f"{like} is {list(shapes[like])} here and {name} {list(shapes[name])}, and a configuration "
                        "has one number for all layers"
                    )
    return ""


def _misfit(kind: type[nn.Module], config: object, fields: Mapping[str, int], shapes: Shapes) -> str:
    """Why a model that is made from the nearest configuration is another one."""
    theirs = shapes_with(kind, config, fields) or {}
    unlike = [name for name in shapes if shapes[name] != theirs.get(name)]
    if not unlike:
        return "with these widths in its configuration, a model computes something else"
    first = unlike[0]
    said = f"{list(theirs[first])} at the nearest configuration" if first in theirs else "in no configuration"
    return f"{first} is {list(shapes[first])} here and {said}" + (
        f"; {len(unlike) - 1} more tensors differ" if len(unlike) > 1 else ""
    )


def _nearest(candidates: Mapping[str, list[int]], tries: _Tries) -> Iterator[dict[str, int]]:
    """Fields for a model near some shapes. Half of the heads may look like half of each, so there are several."""
    shaping = {name: values for name, values in candidates.items() if tries.shaped_by(name, values[0])}
    first = _fitting(shaping, tries)
    yield first
    for left_out in first if not tries.distance(first) else ():
        yield _fitting({name: values for name, values in shaping.items() if name != left_out}, tries)


def _candidates(dense: Shapes, shapes: Shapes, config: object, ratios: Iterable[Fraction] = ()) -> dict[str, list[int]]:
    """Field → the numbers that it may have become, likely ones first: as a width, or as a factor of one, or as units of
    a group did."""
    parts = {ratio for ratio in ratios if ratio != 1}
    became: dict[int, Counter[int]] = defaultdict(Counter)
    for name, shape in dense.items():
        for before, after in zip(shape, shapes.get(name, shape), strict=False):
            if before != after:
                became[before][after] += 1
    found = {}
    for name, value in fields_of(config).items():
        if type(value) is int and value > 1:
            whole = [new for new, _count in became[value].most_common()]
            factors = {value * new // old for old, each in became.items() if old % value == 0 for new in each
                       if value * new % old == 0}  # fmt: skip
            counted = {int(value * ratio) for ratio in parts if (value * ratio).denominator == 1}
            if either := list(dict.fromkeys([*whole, *sorted(factors), *sorted(counted)])):
                found[name] = either
    return found


def _fitting(candidates: Mapping[str, list[int]], tries: _Tries) -> dict[str, int]:
    """The fields for a model near some shapes, by exchanging one after the other while that brings it nearer."""

    def improved(fields: dict[str, int]) -> dict[str, int]:
        for _ in range(_ROUNDS):
            wrong = tries.wrong(fields)
            names = [
                name for name, values in candidates.items()
                if wrong is None or not wrong.isdisjoint(tries.shaped_by(name, values[0]))
            ]  # fmt: skip
            near = [{**fields, name: value} for name in names for value in candidates[name]]
            near += [{other: fields[other] for other in fields if other != name} for name in names if name in fields]
            nearest = min(near, key=tries.distance, default=fields)
            if tries.distance(nearest) >= tries.distance(fields):
                break
            fields = nearest
        return fields

    ends: list[dict[str, int]] = []
    for start in ({}, {name: values[0] for name, values in candidates.items()}):
        ends.append(improved(dict(start)))
        if not tries.distance(ends[-1]):
            break
    return min(ends, key=tries.distance)


class _Tries:
    """Models with other numbers in their configuration, of which the shapes are looked at; each is made once.

    Args:
        kind: of model.
        config: the one to change.
        shapes: what they should be.
        made: those that there are, by their numbers.
    """

    def __init__(self, kind: type[nn.Module], config: object, shapes: Shapes, made: _Made | None = None) -> None:
        self._kind, self._config, self._shapes = kind, config, shapes
        self._made: _Made = {} if made is None else made

    def _shapes_with(self, fields: Mapping[str, int]) -> Shapes | None:
        key = frozenset(fields.items())
        if key not in self._made:
            self._made[key] = shapes_with(self._kind, self._config, fields)
        return self._made[key]

    def wrong(self, fields: Mapping[str, int]) -> frozenset[str] | None:
        """The tensors that have another shape than they should; None if there is no such model."""
        made = self._shapes_with(fields)
        return None if made is None else _unlike(made, self._shapes)

    def distance(self, fields: Mapping[str, int]) -> float:
        """How many they are."""
        wrong = self.wrong(fields)
        return inf if wrong is None else len(wrong)

    def shaped_by(self, field: str, value: int) -> frozenset[str]:
        """The tensors that have another shape with another number in a field; all of them where it alone cannot be."""
        plain, made = self._shapes_with({}), self._shapes_with({field: value})
        return frozenset(self._shapes) if plain is None or made is None else _unlike(made, plain)


def _unlike(ones: Shapes, others: Shapes) -> frozenset[str]:
    return frozenset(name for name in {**ones, **others} if ones.get(name) != others.get(name))


def left_to_code(kind: type[nn.Module], config: object) -> dict[str, int]:
    """Numbers that a configuration does not say, and the model's code takes from others: its inner width where
    ``n_inner`` is None, say. Set, they change nothing; where others change, they keep what was.

    They are found by trying, and are in proportion to what they shape.
    """
    dense = shapes_with(kind, config, {})
    empty = [name for name, value in fields_of(config).items() if value is None]
    unknown = [
        f"{prefix}{name}"
        for prefix, each in configurations(config)
        for name in _READ_IF_THERE
        if not hasattr(each, name)
    ]
    said = {}
    for name in (*empty, *unknown):
        made = shapes_with(kind, config, {name: _PROBE})
        if dense is None or made is None or made == dense or made.keys() != dense.keys():
            continue
        values = {
            Fraction(before * _PROBE, after)
            for tensor in dense
            for before, after in zip(dense[tensor], made[tensor], strict=True)
            if before != after
        }
        value = values.pop()
        if not values and value.denominator == 1 and shapes_with(kind, config, {name: int(value)}) == dense:
            said[name] = int(value)
    return said


def factors_with(kind: type[nn.Module], config: object, fields: Mapping[str, int]) -> Mapping[str, float] | None:
    """The factors that the parts of a model hold (a scale of attention), by name; None if it cannot be made."""
    try:
        model = empty_with(kind, config, fields)
    except Exception:  # numbers that do not go together
        return None
    return {
        f"{name}.{attribute}": value
        for name, part in model.named_modules()
        for attribute, value in vars(part).items()
        if type(value) is float
    }


def shapes_with(kind: type[nn.Module], config: object, fields: Mapping[str, int]) -> Shapes | None:
    """The shapes of a model that is made from a configuration with other numbers; None if it cannot be made."""
    try:
        return shapes_of(empty_with(kind, config, fields))
    except Exception:  # numbers that do not go together
        return None


def empty_with(kind: type[nn.Module], config: object, fields: Mapping[str, object]) -> nn.Module:
    """A model on the meta device that is made from a configuration with other values; raises what its code raises."""
    with torch.device("meta"), _NothingToFill(), quiet("transformers"):  # of numbers that are only tried
        return made_with(kind, config, fields)


class _NothingToFill(TorchFunctionMode):
    """First values are not given to tensors without data: it takes torch longer than to make them."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if getattr(func, "__name__", "") in _FILLING and args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def made_with(kind: type[nn.Module], config: object, fields: Mapping[str, object]) -> nn.Module:
    """A fresh model that is made from a configuration with other numbers."""
    own = changed(config, fields)
    if fields and callable(validate := getattr(own, "validate", None)):
        validate()  # as it is when it is saved
    return kind(own)
