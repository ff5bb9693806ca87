"""A configuration with fewer layers, where whole layers of a slim transformers model compute nothing any more.

The module keeps its list of layers and their names, which it shares with the slim program. What is saved is a model
without them: of a smaller number of layers, under the names that it has then.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import nn

from atograph.repair.config import Shapes, fit_config, follow_config, made_with, shapes_of, shapes_with
from atograph.repair.config_fields import changed, fields_of, set_field
from atograph.repair.saving import SAVING, Gone, SavedShorter, refuse_saving


def save_without_layers(
    dense: nn.Module, module: nn.Module, held: Collection[str], same: Callable[[nn.Module], bool], emptied: str
) -> tuple[str, ...]:
    """Have ``save_pretrained`` write a slim module without the layers that compute nothing, or else refuse.

    Args:
        dense: the dense model.
        module: the slim one, whose ``save_pretrained`` and ``push_to_hub`` are replaced.
        held: the names of the slim program's weights.
        same: whether a model computes what the slim one does.
        emptied: the groups without units, in words.

    Returns:
        In words, what was set.
    """
    gone = _gone(dense, held)
    no_layer = f"branches are gone with all units of {emptied}, which no configuration can say; whole layers it can"
    fitted = _fit(dense, module, gone, same) if gone else no_layer
    refuse_saving(dense, module, fitted if isinstance(fitted, str) else "the whole model is what can be saved")
    if isinstance(fitted, str):
        return ()
    words, config, fields = fitted
    for field, value in fields.items():
        set_field(module.config, field, value)
    before = fields_of(dense.config)
    changes = {name: value for name, value in fields_of(config).items() if value != before.get(name)}
    changes = {name: value for name, value in changes.items() if name not in fields}
    vars(module).update({name: SavedShorter(module, name, changes, gone) for name in SAVING})
    layers = ", ".join(f"{path}.{place}" for path, places in gone.items() for place in places)
    return (*words, f"saved without {layers}, which compute nothing: {_counts(dense, config)}")


def _fit(
    dense: nn.Module, module: nn.Module, gone: Gone, same: Callable[[nn.Module], bool]
) -> tuple[tuple[str, ...], object, dict[str, int]] | str:
    """The configuration of a model without layers, with what was set in the others; or why there is none."""
    config = _shorter_config(dense, gone)
    if config is None:
        return f"{', '.join(gone)} has fewer layers, and no number of the configuration counts them"
    shorter = _without(module, gone, copy.deepcopy(config))
    fit = fit_config(_without(dense, gone, config), shorter, same)
    if isinstance(fit, str):
        return fit
    with torch.device("meta"):  # its layers know their new numbers, which those of the module must not get
        numbered = made_with(type(dense), config, {})
    return follow_config(numbered, shorter, fit), shorter.config, fit.fields


def _gone(dense: nn.Module, held: Collection[str]) -> Gone:
    """The layers of lists all of whose weights are gone."""
    gone: dict[str, tuple[int, ...]] = {}
    for path, layers in dense.named_modules():
        if isinstance(layers, nn.ModuleList) and path and not any(path.startswith(f"{each}.") for each in gone):
            places = tuple(place for place, layer in enumerate(layers) if _is_gone(layer, f"{path}.{place}.", held))
            if places and len(places) < len(layers):
                gone[path] = places
    return gone


def _is_gone(layer: nn.Module, path: str, held: Collection[str]) -> bool:
    names = [path + name for name, _value in layer.named_parameters(remove_duplicate=False)]
    return bool(names) and not any(name in held for name in names)


def _shorter_config(dense: nn.Module, gone: Gone) -> object:
    """The dense model's configuration with as many layers as are left; None where no field of it counts them.

    Fields that list something for each layer (``layer_types``) lose the entries of those that are gone.
    """
    config = getattr(dense, "config", None)
    for path, places in gone.items():
        count = len(dense.get_submodule(path))  # type: ignore[arg-type]
        left = [f"{path}.{place}" for place in range(count - len(places))]
        tries = (_with_count(config, field, count, places) for field in _fields(config, count))
        config = next((each for each in tries if _layers(dense, each, path) == left), None)
        if config is None:
            return None
    return config


def fewer_of_each(model: nn.Module, left: int = 2) -> Any:
    """The configuration of a model that has some layers of each list only: as much as shows what a layer is."""
    config: Any = model.config
    dense = shapes_of(model)
    for path, layers in model.named_modules():
        if not isinstance(layers, nn.ModuleList) or len(layers) <= left:
            continue
        for field in _fields(config, len(layers)):
            tried = _with_count(config, field, len(layers), range(left, len(layers)))
            made = shapes_with(type(model), tried, {})
            if made is not None and made.items() < dense.items() and not _has(made, f"{path}.{left}."):
                config = tried
                break
    return config


def _has(shapes: Shapes, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


def _fields(config: Any, count: int) -> Iterator[str]:
    """The fields that may count the layers, those first whose names say so."""
    numbers = {} if config is None else fields_of(config)
    fields = [name for name, value in numbers.items() if type(value) is int and value == count]
    return iter(sorted(fields, key=lambda name: "layers" not in name))


def _with_count(config: object, field: str, count: int, places: Collection[int]) -> object:
    left: dict[str, object] = {field: count - len(places)}
    beside = field.rpartition(".")[0]  # lists in another part of the configuration are of other layers
    for name, value in fields_of(config).items():
        part, _dot, own = name.rpartition(".")
        if part == beside and "layer" in own and isinstance(value, (list, tuple)) and len(value) == count:
            left[name] = type(value)(each for place, each in enumerate(value) if place not in places)
    return changed(config, left)


def _layers(dense: nn.Module, config: object, path: str) -> list[str]:
    """The layers of one list in a model that is made from a configuration."""
    shapes = shapes_with(type(dense), config, {}) or {}
    found = (re.match(rf"{re.escape(path)}\.\d+(?=\.)", name) for name in shapes)
    return list(dict.fromkeys(match[0] for match in found if match))


def _without(model: nn.Module, gone: Gone, config: Any) -> nn.Module:
    """A model without some of its layers and with another configuration, which shares all else with it; not to run."""
    shorter = _shallow(model)
    shorter.config = config
    for path, places in gone.items():
        part, (*outer, last) = shorter, path.split(".")
        for name in outer:
            part._modules[name] = _shallow(part.get_submodule(name))
            part = part.get_submodule(name)
        layers = part.get_submodule(last)
        assert isinstance(layers, nn.ModuleList)
        part._modules[last] = nn.ModuleList(layer for place, layer in enumerate(layers) if place not in places)
    return shorter


def _shallow(module: nn.Module) -> nn.Module:
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied


def _counts(dense: nn.Module, config: object) -> str:
    """The numbers of layers that a configuration says otherwise than the dense model's."""
    before = fields_of(dense.config)
    return ", ".join(
        f"config.{name}: {before[name]} → {value}"
        for name, value in fields_of(config).items()
        if type(value) is int and value != before.get(name)
    )
