"""A model of two parts has a configuration of each inside its own: their numbers say widths as well."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from test_repair_config import Config, Model
from torch import Tensor, nn

import atograph
from atograph.repair.config_fields import changed, fields_of
from atograph.repair.fewer_layers import fewer_of_each


class Both(Config):
    def __init__(self, text_config: Config, vision_config: Config) -> None:
        self.text_config, self.vision_config, self.shared, self.labels = text_config, vision_config, 3, {"a": 1}


class Pair(nn.Module):
    config_class = Both

    def __init__(self, config: Both) -> None:
        super().__init__()
        self.config = config
        self.text, self.vision = Model(config.text_config), Model(config.vision_config)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.text(x) * self.vision(y)


def pair() -> tuple[Pair, atograph.Graph]:
    torch.manual_seed(0)
    model = Pair(Both(Config(inner=24), Config(inner=16, layers=3))).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    graph = atograph.trace(model, (torch.randn(2, 6, 5), torch.randn(2, 6, 5)))
    return model, graph.steered(uniform=True, only=["*.up"])


def test_fields_have_paths() -> None:
    config = Both(Config(inner=24), Config())
    assert fields_of(config)["text_config.inner"] == 24 and fields_of(config)["labels"] == {"a": 1}
    other = changed(config, {"text_config.inner": 8, "shared": 4})
    assert (other.text_config.inner, other.vision_config.inner, other.shared) == (8, 16, 4)
    assert (config.text_config.inner, config.shared) == (24, 3)


def test_numbers_of_each_part_say_its_widths() -> None:
    torch.manual_seed(0)
    model, graph = pair()
    kinds = [
        {name.partition(".")[0] for name, _dim in graph.groups[kind.groups[0]].members} for kind in graph.groups.kinds
    ]
    assert sorted(map(sorted, kinds)) == [["text"], ["vision"]]
    slim = atograph.slim(graph, graph.plan(0.9))
    module: Any = slim.module
    said = {name: value for name, value in fields_of(module.config).items() if value != fields_of(model.config)[name]}
    assert said and said.keys() <= {"text_config.inner", "vision_config.inner"}
    again = Pair(deepcopy(module.config))
    again.load_state_dict(module.state_dict())
    inputs = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(4, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(again.double().eval()(*inputs), atograph.mask(model, slim.plan).double()(*inputs))
    assert all(
        f"config.{name}: {fields_of(model.config)[name]} → {value}" in slim.repairs for name, value in said.items()
    )


class Listed(Model):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(self.blocks)


def test_layers_of_one_part_are_counted_there() -> None:
    class Layers(Pair):
        def __init__(self, config: Both) -> None:
            nn.Module.__init__(self)
            self.config = config
            self.text, self.vision = Listed(config.text_config), Listed(config.vision_config)

    text, vision = Config(layers=4), Config(layers=4)
    for each in (text, vision):
        vars(each)["layer_types"] = ["a", "b", "c", "d"]
    vision.layers = 3
    vars(vision)["layer_types"] = ["a", "b", "c"]
    fewer = fewer_of_each(Layers(Both(text, vision)))
    assert [len(each.layer_types) for each in (fewer.text_config, fewer.vision_config)] == [2, 2]
    assert [each.layers for each in (fewer.text_config, fewer.vision_config)] == [2, 2]


def test_a_file_of_a_configuration_gets_them_in_its_parts(tmp_path: Path) -> None:
    model, graph = pair()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"inner": 24, "heads": 4}, "kept": True}))
    applied = atograph.apply_plan(graph, graph.plan(0.9), tmp_path, tmp_path / "slim")
    assert applied.why_no_config == ""
    config = json.loads((tmp_path / "slim" / "config.json").read_text())
    found = atograph.slim(graph, graph.plan(0.9)).module
    assert config["text_config"] == {"inner": found.config.text_config.inner, "heads": 4} and config["kept"] is True
