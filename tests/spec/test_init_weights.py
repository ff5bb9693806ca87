"""Initial weights: what fits is loaded, and what does not leaves the model untouched."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from atograph.passes.errors import UserError
from atograph.spec.init_weights import load_init


class Anything:
    """Stands for what a pickle may run."""


def make() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def weights(**changes: Tensor | None) -> dict[str, Tensor]:
    torch.manual_seed(1)
    state = {name: torch.randn_like(value.float()).to(value.dtype) for name, value in make().state_dict().items()}
    for name, value in changes.items():
        name = name.replace("_", ".", 1)
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


def save(path: Path, content: object) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)  # type: ignore[arg-type]
    else:
        torch.save(content, path)
    return path


FITTING = [
    ("w.safetensors", lambda state: state),
    ("w.pt", lambda state: state),
    ("w.pth", lambda state: {"state_dict": state, "epoch": 3}),
    ("w.ckpt", lambda state: {"model": state}),
    ("w.pt", lambda state: {name: value.double() for name, value in state.items()}),
]


@pytest.mark.parametrize(("name", "nest"), FITTING)
def test_weights_that_fit(tmp_path: Path, name: str, nest) -> None:
    model, state = make(), weights()
    load_init(model, save(tmp_path / name, nest(state)))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model[0].weight.dtype == torch.float32


def test_tied_weights_may_stand_there_once(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        model[1].weight = model[0].weight
        return model

    model = tied()
    load_init(model, save(tmp_path / "w.safetensors", {"0.weight": torch.ones(3, 3)}))
    assert model[1].weight is model[0].weight and torch.equal(model[0].weight, torch.ones(3, 3))


MISFITS = [
    (
        weights(**{"0_weight": None}),
        "the weights do not fit the model: 1 missing: 0.weight. Nothing was loaded.",
    ),
    (weights(**{"9_weight": torch.ones(2)}), "the weights do not fit the model: 1 unexpected: 9.weight."),
    (
        weights(**{"0_weight": torch.ones(4, 2)}),
        "the weights do not fit the model: 1 of another shape: 0.weight (file [4, 2], model [4, 3]).",
    ),
    (
        {"a.b": torch.ones(1)},
        "the weights do not fit the model: 9 missing: 0.weight, 0.bias, 1.weight, ...; 1 unexpected: a.b.",
    ),
    ({}, "the weights do not fit the model: 9 missing"),
    ({"0.weight": 3}, "the state dict holds other things than tensors: 0.weight (int)."),
    ([torch.ones(3)], "the file holds a list, not a state dict."),
    ({"0.weight": Anything()}, "the file is a pickle that holds more than plain tensors"),
]


@pytest.mark.parametrize(("content", "message"), MISFITS)
def test_weights_that_do_not_fit(tmp_path: Path, content: object, message: str) -> None:
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = save(tmp_path / "w.pt", content)
    with pytest.raises(UserError) as caught:
        load_init(model, path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


UNREADABLE = [
    ("none.pt", None, "no such file."),
    ("w.onnx", b"text", "weights come as .safetensors or .pt, .pth, .bin, .ckpt, not as `.onnx`."),
    ("w.safetensors", b"text", "not a safetensors file"),
    ("w.pt", b"", "not a file that torch.load can read: "),
    ("w.pt", b"PK\x03\x04 damaged", "not a file that torch.load can read: "),
    ("w.pt", pickle.dumps(Anything, protocol=2), "the file is a pickle that holds more than plain tensors"),
    ("w.pt", b"weights of a network", "not a file that torch.load can read"),
]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    UNREADABLE,
    ids=["absent", "onnx", "text", "empty", "damaged", "pickle", "text as pickle"],
)
def test_files_that_hold_no_weights(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_init(make(), path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_names_of_a_wrapper_are_the_model_s_own(wrapper: str, tmp_path: Path) -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save({f"{wrapper}{name}": value for name, value in first.state_dict().items()}, tmp_path / "w.pt")
    load_init(second, tmp_path / "w.pt")
    assert torch.equal(first.weight, second.weight)
