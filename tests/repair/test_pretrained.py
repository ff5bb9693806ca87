"""The folder that a run writes for the model's own library: there if its configuration can say the widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from test_repair_config import Config, Model
from torch import nn

import atograph
from atograph.run.saving.served import PRETRAINED


class Library(Model):
    """Writes folders and reads them, as models of transformers do."""

    name_or_path = ""

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir()
        torch.save((vars(self.config), self.state_dict()), folder / "model.pt")

    @classmethod
    def from_pretrained(cls, folder: Path) -> Library:
        sizes, state = torch.load(folder / "model.pt")
        model = cls(Config(**sizes))
        model.load_state_dict(state)
        return model.eval()


class Forgetful(Library):
    """Reads something else than it has written."""

    @classmethod
    def from_pretrained(cls, folder: Path) -> Library:
        model = super().from_pretrained(folder)
        nn.init.zeros_(model.head.bias)
        return model


def compressed(model: nn.Module, out: Path, std: float = 1.0, **steering: Any) -> atograph.Result:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return atograph.compress(
        model, example_inputs=torch.randn(2, 6, 5), method="magnitude", epochs=0, flops=0.8, out=out, **steering
    )


def test_the_library_loads_what_the_run_has_proved(tmp_path: Path) -> None:
    source = tmp_path / "dense"
    source.mkdir()
    (source / "tokenizer.json").write_text("{}")
    (source / "model.index.json").write_text("{}")
    model = Library(Config())
    model.name_or_path = str(source)
    result = compressed(model, tmp_path / "run", uniform=True)
    folder = tmp_path / "run" / PRETRAINED
    again, x = Library.from_pretrained(folder), torch.randn(3, 6, 5)
    torch.testing.assert_close(again(x), result.slim(x))
    assert vars(again.config) != vars(model.config)
    assert {path.name for path in folder.iterdir()} == {"model.pt", "tokenizer.json"}
    assert not any(PRETRAINED in note for note in result.report.notes)
    assert atograph.load(tmp_path / "run")(x).shape == (3, 6, 3)  # the folder is still that of a run


@pytest.mark.parametrize(("kind", "uniform", "why"), [
    (Library, False, "a configuration has one number"),
    (Forgetful, True, "does not come back: head.bias has other values"),
])  # fmt: skip
def test_what_would_not_come_back_is_not_there_and_told(
    kind: type[Library], uniform: bool, why: str, tmp_path: Path
) -> None:
    result = compressed(kind(Config()), tmp_path / "run", uniform=uniform)
    assert not (tmp_path / "run" / PRETRAINED).exists()
    (note,) = (note for note in result.report.notes if PRETRAINED in note)
    assert note.startswith(f"no pretrained folder for {kind.__name__}.from_pretrained: ") and why in note


class Insists(Library):
    """Its code insists on a width, so it does not come back slim."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.blocks[0].up.out_features != 16:
            raise ValueError("sixteen")
        return super().forward(x)


def test_a_run_without_a_slim_module_says_that_it_has_no_folder(tmp_path: Path) -> None:
    result = compressed(Insists(Config()), tmp_path / "run")
    assert result.slim.module is None
    (note,) = (note for note in result.report.notes if PRETRAINED in note)
    assert note == f"no pretrained folder for Insists.from_pretrained: {result.slim.why_no_module}"


def test_other_models_have_none(tmp_path: Path) -> None:
    result = compressed(Model(Config()), tmp_path / "run")
    assert not (tmp_path / "run" / PRETRAINED).exists() and not result.report.notes


class Wrapped(nn.Module):
    """A model of a library with a head of one's own."""

    def __init__(self, *bodies: nn.Module) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)
        self.head = nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(sum(body(x) for body in self.bodies))
        return y


def test_of_a_wrapped_model_the_part_is_written(tmp_path: Path) -> None:
    model = Wrapped(Library(Config()))
    result = compressed(model, tmp_path / "run", std=0.3, uniform=True)
    assert any(repair.startswith("bodies.0.config.inner: 16 → ") for repair in result.slim.repairs)
    again, x = Library.from_pretrained(tmp_path / "run" / PRETRAINED), torch.randn(3, 6, 5)
    assert vars(again.config) != vars(Config())
    masked: Any = atograph.mask(model, result.plan)
    torch.testing.assert_close(again(x), masked.bodies[0](x))


def test_several_parts_have_folders_of_their_own(tmp_path: Path) -> None:
    model = Wrapped(Library(Config()), Library(Config(inner=32)))
    result = compressed(model, tmp_path / "run", std=0.3, uniform=True)
    x, masked = torch.randn(3, 6, 5), cast(Any, atograph.mask(model, result.plan))
    for number in (0, 1):
        again = Library.from_pretrained(tmp_path / "run" / PRETRAINED / f"bodies.{number}")
        torch.testing.assert_close(again(x), masked.bodies[number](x))


def test_a_wrapped_part_that_no_configuration_says_is_told(tmp_path: Path) -> None:
    body = Library(Config())
    body.blocks[0].up = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 16))
    result = compressed(Wrapped(body), tmp_path / "run", std=0.3, uniform=True)
    (note,) = (note for note in result.report.notes if PRETRAINED in note)
    assert "Library.from_pretrained (of bodies.0 in the model): " in note
    assert "is not what its configuration makes: adapters are merged before" in note
