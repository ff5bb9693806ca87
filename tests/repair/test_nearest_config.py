"""The configuration of a slim model is looked for among as few models as may be."""

from __future__ import annotations

import copy

import torch
from torch import nn

from atograph.repair import config as looking
from atograph.repair.config import Fit, fit_config


class Config:
    """Widths, and two numbers that shape no tensor: one of them is as large as a width was."""

    def __init__(self) -> None:
        self.width, self.heads, self.head, self.inner, self.reach, self.layers = 32, 4, 16, 128, 128, 3


class Model(nn.Module):
    """Attention by hand, whose shapes tell only the product of two numbers."""

    config_class = Config
    made = 0

    def __init__(self, config: Config) -> None:
        super().__init__()
        Model.made += 1
        self.config = config
        self.query = nn.ModuleList(nn.Linear(config.width, config.heads * config.head) for _ in range(config.layers))
        self.scale = nn.Parameter(torch.ones(config.heads))
        self.inner = nn.Linear(config.width, config.inner)


def test_a_number_that_shapes_no_tensor_stays_and_few_models_are_made() -> None:
    dense, want = Model(Config()), Config()
    want.heads, want.head, want.inner = 2, 8, 64
    slim = Model(want)
    slim.config = copy.deepcopy(dense.config)
    slim.load_state_dict({name: torch.randn_like(value) for name, value in slim.state_dict().items()})
    Model.made = 0
    fit = fit_config(dense, slim, lambda _fresh: True)
    assert isinstance(fit, Fit)
    assert fit.fields == {"heads": 2, "head": 8, "inner": 64}
    assert Model.made < 40  # all numbers in all fields, round after round, would be several times as many
    assert all(map(torch.equal, fit.fresh.state_dict().values(), slim.state_dict().values()))


def test_tensors_without_data_are_given_no_first_values() -> None:
    shapes = looking.shapes_with(Model, Config(), {"inner": 5})
    assert shapes is not None
    assert shapes["inner.weight"] == (5, 32)
    with torch.device("meta"), looking._NothingToFill():
        layer = nn.Linear(2, 3)
    real = nn.Linear(2, 3)
    with looking._NothingToFill():
        nn.init.zeros_(real.weight)
    assert layer.weight.is_meta
    assert not real.weight.any()
