"""The data of the examples: splits, determinism, damaged files, and what is said where there are none."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = {"train-images-idx3-ubyte.gz": 3, "train-labels-idx1-ubyte.gz": 1}
NAMES |= {name.replace("train", "t10k"): dims for name, dims in NAMES.items()}


def example(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


digits, fashion = example("digits"), example("fashion_mnist")


def idx(values: Tensor) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data set in the form of Fashion-MNIST: image i is filled with i, its label is i modulo 10."""
    monkeypatch.delenv("FASHION_MNIST", raising=False)
    monkeypatch.delenv("FASHION_MNIST_LIMIT", raising=False)
    for name, dims in NAMES.items():
        numbers = torch.arange(200 if name.startswith("train") else 100)
        values = numbers % 10 if dims == 1 else numbers.view(-1, 1, 1).expand(-1, 28, 28)
        (tmp_path / name).write_bytes(gzip.compress(idx(values), 1))
    return tmp_path


def test_the_digits_are_split_once_and_for_all() -> None:
    train, test = digits._split()
    assert (len(train), len(test)) == (1257, 540)
    assert torch.equal(test.tensors[0], digits._split()[1].tensors[0])
    assert train.tensors[0].shape[1:] == (1, 8, 8) and train.tensors[0].abs().max() == 1
    assert torch.bincount(test.tensors[1]).tolist() == [54, 55, 53, 55, 54, 55, 54, 54, 52, 54]


@pytest.mark.parametrize(
    ("module", "shape", "megamacs", "params"),
    [(digits, (1, 8, 8), 1.65, 174_970), (fashion, (1, 28, 28), 31.02, 272_186)],
    ids=["digits", "fashion_mnist"],
)
def test_the_networks(module: ModuleType, shape: tuple[int, ...], megamacs: float, params: int) -> None:
    model = module.model()
    assert isinstance(model, nn.Module) and sum(value.numel() for value in model.parameters()) == params
    with FlopCounterMode(display=False) as counter:
        assert model(torch.zeros(1, *shape)).shape == (1, 10)
    assert counter.get_total_flops() / 2e6 == pytest.approx(megamacs, abs=0.01)


def batches(module: ModuleType, seed: int, *data: Path) -> list[Tensor]:
    torch.manual_seed(seed)
    loader = module.train_data(*data)
    torch.rand(3)  # what others draw must not matter
    return [part for _ in range(2) for batch in loader for part in batch]


@pytest.mark.parametrize("name", ["digits", "fashion_mnist"])
def test_the_seed_decides_the_order_and_nothing_else_does(name: str, folder: Path) -> None:
    module, data = (digits, ()) if name == "digits" else (fashion, (folder,))
    first, again, other = batches(module, 0, *data), batches(module, 0, *data), batches(module, 1, *data)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    epoch = len(first) // 2
    assert not torch.equal(first[0], first[epoch])  # each epoch has an order of its own


def test_fashion_mnist_is_read_whole(folder: Path) -> None:
    images = torch.cat([images for images, _ in fashion.val_data(folder)])
    labels = torch.cat([labels for _, labels in fashion.val_data(folder)])
    assert images.shape == (100, 1, 28, 28) and images.dtype == torch.float32
    assert torch.allclose(images[:, 0, 5, 5] * 0.3530 + 0.2860, torch.arange(100) / 255)
    assert torch.equal(labels, torch.arange(100) % 10)
    assert sorted(torch.cat([labels for _, labels in fashion.train_data(folder)]).tolist()) == sorted(
        (torch.arange(200) % 10).tolist()
    )


def test_the_folder_comes_from_the_argument_or_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHION_MNIST", str(folder))
    assert len(fashion.train_data().dataset) == 200
    monkeypatch.setenv("FASHION_MNIST", "/nowhere")
    assert len(fashion.train_data(folder).dataset) == 200


@pytest.mark.parametrize(("limit", "train", "test"), [("", 200, 100), ("50", 50, 25), ("1", 1, 1), ("9999", 200, 100)])
def test_a_limit_takes_the_first_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str, train: int, test: int
) -> None:
    monkeypatch.setenv("FASHION_MNIST_LIMIT", limit)
    assert (len(fashion.train_data(folder).dataset), len(fashion.val_data(folder).dataset)) == (train, test)


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_that_is_no_number(folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv("FASHION_MNIST_LIMIT", limit)
    with pytest.raises(ValueError, match=f"FASHION_MNIST_LIMIT={limit} is not a number of images"):
        fashion.train_data(folder)


def test_without_data_it_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        fashion.train_data(tmp_path)
    assert caught.value.errno is None
    assert str(caught.value).startswith(f"{tmp_path} holds no Fashion-MNIST: train-images-idx3-ubyte.gz is missing.")
    assert "apt-get install dataset-fashion-mnist" in str(caught.value) and "--data" in str(caught.value)


IMAGES = torch.zeros(200, 28, 28)
DAMAGED = [
    ("train-images-idx3-ubyte.gz", b"no gzip", "damaged or not gzipped"),
    ("train-images-idx3-ubyte.gz", gzip.compress(idx(IMAGES))[:-20], "damaged or not gzipped"),
    (
        "train-images-idx3-ubyte.gz",
        gzip.compress(idx(IMAGES[0])),
        "no idx file of bytes in 3 dims, it starts with 00 00 08 02",
    ),
    ("train-images-idx3-ubyte.gz", gzip.compress(b""), "no idx file of bytes in 3 dims"),
    (
        "train-images-idx3-ubyte.gz",
        gzip.compress(idx(IMAGES)[:-5]),
        r"156795 bytes of data, but its header says \[200",
    ),
    (
        "train-images-idx3-ubyte.gz",
        gzip.compress(idx(IMAGES) + b"0"),
        r"156801 bytes of data, but its header says \[200",
    ),
    (
        "train-images-idx3-ubyte.gz",
        gzip.compress(idx(IMAGES[:, 1:])),
        r"images \[200, 27, 28\] and labels \[200\] do not",
    ),
    (
        "train-labels-idx1-ubyte.gz",
        gzip.compress(idx(torch.zeros(7))),
        r"images \[200, 28, 28\] and labels \[7\] do not",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_files(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        fashion.train_data(folder)
    assert str(folder) in str(caught.value)


def test_augmentation_shifts_and_mirrors_each_image_as_a_whole() -> None:
    image = torch.arange(28.0 * 28).view(1, 1, 28, 28)
    blank = -fashion.MEAN / fashion.STD
    padded = nn.functional.pad(image, (2, 2, 2, 2), value=blank)
    crops = [padded[:, :, top : top + 28, left : left + 28] for top in range(5) for left in range(5)]
    possible = torch.cat([*crops, *(crop.flip(3) for crop in crops)])
    result = fashion.augment(image.expand(400, -1, -1, -1), torch.Generator().manual_seed(0))
    matches = (result.view(400, 1, -1) == possible.view(1, 50, -1)).all(2)
    assert result.shape == (400, 1, 28, 28)
    assert torch.equal(matches.sum(1), torch.ones(400, dtype=torch.long))  # each is one of the fifty,
    assert matches.any(0).all()  # and each of the fifty turns up
