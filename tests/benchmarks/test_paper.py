"""The paper's experiments: data of the same form on the disk, every network and budget, and two very short runs."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import atograph
from atograph.passes.errors import UserError
from atograph.train.settings import TrainSettings
from benchmarks.accuracy.fashion import EXAMPLE, Pooled
from benchmarks.common.published import PUBLISHED
from benchmarks.paper import cifar as paper_cifar
from benchmarks.paper import command as paper
from benchmarks.paper import imagenet as paper_imagenet
from benchmarks.paper.cifar import FORMS, Form
from benchmarks.paper.rows import ROWS

DOCUMENT = Path(__file__).parents[2] / "docs" / "results" / "paper.md"
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
PER_FILE = 12


def content(form: Form, first: int, count: int = PER_FILE) -> bytes:
    """Records of a file: image i is filled with i, i + 1 and i + 2, its label is i modulo the classes (coarse: 0)."""
    made = b""
    for number in range(first, first + count):
        made += bytes([0] * (form.labels - 1) + [number % form.classes])
        made += b"".join(bytes([number + channel]) * 1024 for channel in range(3))
    return made


def files(form: Form) -> dict[str, bytes]:
    return {name: content(form, PER_FILE * at) for at, name in enumerate((*form.train, *form.test))}


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(params=["archive", "folder"])
def packed(request: pytest.FixtureRequest) -> bool:
    return request.param == "archive"


def write(folder: Path, form: Form, packed: bool = True) -> Path:
    if packed:
        pack(folder / form.archive, {f"{form.folder}/{name}": data for name, data in files(form).items()})
    else:
        (folder / form.folder).mkdir()
        for name, data in files(form).items():
            (folder / form.folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", FORMS)
def test_cifar_is_read_whole_and_in_order(tmp_path: Path, name: str, packed: bool) -> None:
    form = FORMS[name]
    write(tmp_path, form, packed)
    count = PER_FILE * len(form.train)
    images, labels = paper_cifar.load(tmp_path, form, form.train)
    assert images.shape == (count, 3, 32, 32) and images.dtype == torch.uint8
    assert images[:, :, 5, 7].tolist() == [[i, i + 1, i + 2] for i in range(count)]
    assert labels.dtype == torch.int64 and labels.tolist() == [i % form.classes for i in range(count)]

    (batch, targets), *rest = paper_cifar.val_data(tmp_path, form)
    assert not rest and batch.shape == (PER_FILE, 3, 32, 32) and batch.dtype == torch.float32
    pixels = batch[:, :, 0, 0] * torch.tensor(form.std) + torch.tensor(form.mean)
    assert torch.allclose(pixels * 255, (count + torch.arange(PER_FILE)).view(-1, 1) + torch.arange(3.0), atol=1e-3)
    assert targets.tolist() == [i % form.classes for i in range(count, count + PER_FILE)]


def test_a_record_is_red_green_and_blue_row_by_row() -> None:
    image = torch.arange(3 * 32 * 32).remainder(251).to(torch.uint8).view(3, 32, 32)
    images, labels = paper_cifar.records(bytes([3, 77]) + image.numpy().tobytes(), FORMS["cifar100"], "file")
    assert torch.equal(images[0], image) and labels.tolist() == [77]


def batches(folder: Path, seed: int, limit: int | None = None) -> list[Tensor]:
    torch.manual_seed(seed)
    loader = paper_cifar.train_data(folder, FORMS["cifar10"], 16, limit)
    torch.rand(3)  # what others draw must not matter
    return [part for _ in range(2) for batch in loader for part in batch]


def test_the_seed_decides_the_order_and_a_limit_takes_the_first_images(tmp_path: Path) -> None:
    write(tmp_path, FORMS["cifar10"])
    first, again, other = batches(tmp_path, 0), batches(tmp_path, 0), batches(tmp_path, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[0], first[len(first) // 2])
    assert [len(part) for part in first] == [16] * 2 * 2 * 3  # of 60 images, the last 12 make no batch
    few = batches(tmp_path, 0, limit=10)
    assert sorted(few[1].tolist()) == list(range(10)) and len(few) == 4


def test_augmentation_shifts_and_mirrors_each_image_as_a_whole() -> None:
    image = torch.arange(1, 3 * 36 + 1, dtype=torch.uint8).view(1, 3, 6, 6)
    framed = nn.functional.pad(image, (4, 4, 4, 4))
    crops = [framed[:, :, top : top + 6, left : left + 6] for top in range(9) for left in range(9)]
    possible = torch.cat([*crops, *(crop.flip(3) for crop in crops)]).flatten(1)
    result = paper_cifar.augment(image.expand(2000, -1, -1, -1), torch.Generator().manual_seed(0))
    assert result.shape == (2000, 3, 6, 6)
    matches = (result.reshape(2000, 1, -1) == possible).all(2)
    assert torch.equal(matches.sum(1), torch.ones(2000, dtype=torch.long)) and matches.any(0).all()


def test_links_and_names_that_lead_elsewhere_are_not_followed(tmp_path: Path) -> None:
    form = FORMS["cifar10"]
    members = {f"{form.folder}/{name}": data for name, data in files(form).items()}
    pack(tmp_path / form.archive, {"../outside.bin": b"1", "/outside.bin": b"1", **members})
    assert len(paper_cifar.load(tmp_path, form, form.train)[1]) == 5 * PER_FILE
    assert not list(tmp_path.parent.glob("outside*")) and [path.name for path in tmp_path.iterdir()] == [form.archive]

    del members[f"{form.folder}/test_batch.bin"]
    path = pack(tmp_path / form.archive, members)
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo(f"{form.folder}/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with pytest.raises(UserError, match=r"test_batch\.bin is missing"):
        paper_cifar.val_data(tmp_path, form)


def test_without_data_it_says_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither cifar-100-binary\.tar\.gz nor .*cifar\.html .* --data") as caught:
        paper_cifar.val_data(tmp_path, FORMS["cifar100"])
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "data_batch_3.bin",
            content(FORMS["cifar10"], 0)[:-1],
            r"36,875 bytes are not a whole number of records of 3,073",
        ),
        ("data_batch_3.bin", b"", "0 bytes are not a whole number"),
        ("data_batch_3.bin", b"\x0a" * 3073, "record 0 has the label 10, but there are 10 classes"),
        ("data_batch_3.bin", None, r"data_batch_3\.bin is missing"),
    ],
)
def test_damaged_files(tmp_path: Path, packed: bool, name: str, data: bytes | None, message: str) -> None:
    form = FORMS["cifar10"]
    found = files(form) | ({} if data is None else {name: data})
    if data is None:
        del found[name]
    if packed:
        pack(tmp_path / form.archive, {f"{form.folder}/{each}": value for each, value in found.items()})
    else:
        (tmp_path / form.folder).mkdir()
        for each, value in found.items():
            (tmp_path / form.folder / each).write_bytes(value)
    with pytest.raises(UserError, match=message) as caught:
        paper_cifar.train_data(tmp_path, form, 16)
    assert str(tmp_path) in str(caught.value) and "again" in str(caught.value)


def test_damaged_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = FORMS["cifar10"]
    path = write(tmp_path, form) / form.archive
    whole = path.read_bytes()
    checksum = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    for damaged in (b"no archive", whole[: len(whole) // 2], whole[:200] + bytes(100) + whole[300:], checksum):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged, or no tar\.gz file: .* again\.$") as caught:
            paper_cifar.train_data(tmp_path, form, 16)
        assert str(path) in str(caught.value)
    path.write_bytes(whole)
    monkeypatch.setattr(paper_cifar, "_MOST", 5)  # what claims to be huge is not read
    with pytest.raises(UserError, match="too many for this data set"):
        paper_cifar.train_data(tmp_path, form, 16)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three classes of six images each to train with, and two to validate; JPEG and PNG, of different sizes."""
    for part, count in (("train", 6), ("val", 2)):
        for number, name in enumerate(("cat", "dog", "eel")):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for each in range(count):
                image = Image.new(
                    "L" if each == 1 else "RGB",
                    (40 + each, 50),
                    color=80 * number if each == 1 else (80 * number, each, 0),
                )
                image.save(folder / f"{each}.{'png' if each % 2 else 'JPEG'}")
    return tmp_path / "images"


def test_images_in_folders(images: Path) -> None:
    assert paper_imagenet.classes(images) == 3
    (batch, labels), *rest = paper_imagenet.val_data(images, size=32)
    assert not rest and batch.shape == (6, 3, 32, 32) and labels.tolist() == [0, 0, 1, 1, 2, 2]
    red = (batch[:, 0].mean((1, 2)) * paper_imagenet.STD[0] + paper_imagenet.MEAN[0]) * 255
    assert torch.allclose(red, torch.tensor([0.0, 0, 80, 80, 160, 160]), atol=2.5)  # JPEG is not exact
    assert [y.tolist() for _, y in paper_imagenet.val_data(images, size=32, limit=3)] == [[0, 1, 2]]

    def order(seed: int, **options: bool) -> list[list[int]]:
        torch.manual_seed(seed)
        return [y.tolist() for x, y in paper_imagenet.train_data(images, 4, size=32, **options)]

    assert order(0) == order(0, jitter=True) != order(1)
    assert [len(labels) for labels in order(0)] == [4] * 4


def test_images_are_read_by_workers_too(images: Path) -> None:
    seen = []
    for _ in range(2):
        torch.manual_seed(0)
        seen.append(list(paper_imagenet.train_data(images, 9, size=32, workers=1)))
    assert all(torch.equal(a, b) for a, b in zip(*([x for x, _ in each] for each in seen), strict=True))


def test_folders_that_do_not_fit(images: Path) -> None:
    (images / "train" / "cat" / "0.JPEG").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"0\.JPEG: cannot be read as an image"):
        list(paper_imagenet.train_data(images, 4, size=32))
    (images / "val" / "fox").mkdir()
    with pytest.raises(UserError, match="only val has a class fox"):
        paper_imagenet.classes(images)
    with pytest.raises(UserError, match=r"no images there: .* fox"):
        paper_imagenet.val_data(images, size=32)
    with pytest.raises(UserError, match=r"there is no folder train in it\. .*DIR/train/CLASS/"):
        paper_imagenet.classes(images / "val")


MEGAMACS = {
    "resnet18-cifar10": 555.4, "resnet56-cifar10": 125.7, "mobilenetv2-cifar10": 88.0, "resnet18-cifar100": 555.47,
    "resnet34-cifar100": 1159.4, "resnet18-imagenet": 1814.1, "resnet34-imagenet": 3663.8, "resnet50-imagenet": 4089.2,
    "mobilenetv2-imagenet": 300.8,
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.long
def test_every_network_can_be_cut_to_its_budget(name: str) -> None:
    row = ROWS[name]
    classes, side = CLASSES[row.data], 224 if row.data == "imagenet" else 32
    with torch.device("meta"):
        model = row.network(classes).eval()
        with FlopCounterMode(display=False) as counter:
            assert model(torch.zeros(1, 3, side, side)).shape == (1, classes)
    assert counter.get_total_flops() / 2e6 == pytest.approx(MEGAMACS[name], abs=0.05)

    graph = atograph.trace(row.network(classes), torch.zeros(2, 3, side, side))
    assert graph.flops == counter.get_total_flops()
    slim = atograph.slim(graph, graph.plan(flops=row.flops))
    assert 0.99 * row.flops < slim.flops / graph.flops <= row.flops
    assert not slim.why_no_module


@pytest.mark.parametrize("name", ROWS)
def test_the_document_has_the_table_s_figures(name: str) -> None:
    row, recipe = ROWS[name], ROWS[name].recipe
    line = next(line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {name} "))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3:] == [
        f"{row.flops:g}", row.source, str(recipe.epochs), str(recipe.batch), f"{recipe.optimizer} {recipe.lr:g}",
        f"{recipe.weight_decay:g}",
    ]  # fmt: skip
    assert cells[2] == f"{MEGAMACS[name]:,.0f}"


def settings(*arguments: str) -> TrainSettings:
    name = "resnet50-imagenet"
    return paper.settings_of(name, paper.parser().parse_args([name, "--data", "x", *arguments]))


def test_options_go_before_the_row_and_all_are_settings() -> None:
    plain = settings()
    assert (plain.flops, plain.epochs, plain.optimizer, plain.lr) == (0.288, 245, "adamw", 1e-3)
    assert plain.warmup == pytest.approx(5 / 245) and plain.search_end == TrainSettings().search_end
    changed = settings("--flops", "0.5", "--epochs", "3", "--seed", "7", "--set", "lr=0.2", "--as-published")
    assert (changed.flops, changed.epochs, changed.seed, changed.lr) == (0.5, 3, 7, 0.2)
    assert changed.model_dump().items() >= PUBLISHED.items()
    for arguments, message in (
        (("--flops", "30"), "--flops 30 is out of range"),
        (("--set", "speed=1"), "there is no training setting 'speed'"),
    ):
        with pytest.raises(UserError, match=message):
            settings(*arguments)


def test_the_loss_smooths_and_mixes_while_training_only() -> None:
    torch.manual_seed(0)
    model, images, labels = nn.Flatten(), torch.randn(8, 3, 1, 1), torch.randint(0, 3, (8,))
    loss, plain = paper.TrainingLoss(0.1, 0.2), nn.functional.cross_entropy(images.flatten(1), labels)
    assert torch.equal(loss(model.eval(), (images, labels)), plain)
    smooth = nn.functional.cross_entropy(images.flatten(1), labels, label_smoothing=0.1)
    assert torch.equal(paper.TrainingLoss(0.1, 0.0)(model.train(), (images, labels)), smooth)

    torch.manual_seed(1)
    found = loss(model, (images, labels))
    torch.manual_seed(1)
    share, other = torch.distributions.Beta(0.2, 0.2).sample(), torch.randperm(8)
    targets = nn.functional.one_hot(labels, 3) * 0.9 + 0.1 / 3
    mixed, targets = (share * each + (1 - share) * each[other] for each in (images.flatten(1), targets))
    assert float(found) == pytest.approx(float(nn.functional.cross_entropy(mixed, targets)), rel=1e-5)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["paper", *map(str, arguments)])
    paper.main()


def little(classes: int) -> nn.Module:
    """Three residual blocks: every network of the table goes through `test_every_network_can_be_cut_to_its_budget`."""
    blocks = [EXAMPLE.Block(a, b, b // a) for a, b in pairwise([8, 8, 16, 32])]
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    network = Pooled(nn.Sequential(*stem, *blocks), 32)
    network.head = nn.Linear(32, classes)
    return network


@pytest.mark.long
def test_a_very_short_run_on_cifar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ROWS, "resnet18-cifar10", replace(ROWS["resnet18-cifar10"], network=little))
    write(tmp_path, FORMS["cifar10"])
    arguments = ("resnet18-cifar10", "--data", tmp_path, "--epochs", 2, "--batch", 8, "--limit", 16, "--device", "cpu")
    command(monkeypatch, *arguments, "--out", tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert 0.15 < report["budgets"][0]["reached"] <= 0.202
    assert report["settings"]["epochs"] == 2 and report["settings"]["weight_decay"] == 5e-4
    assert (tmp_path / "run" / "slim.onnx").is_file() and "written to" in capsys.readouterr().out

    with pytest.raises(SystemExit) as caught:  # it is there, and --force was not given
        command(monkeypatch, *arguments, "--out", tmp_path / "run")
    assert caught.value.code == 2 and str(tmp_path / "run") in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, *arguments, "--size", 16, "--out", tmp_path / "other")
    assert "--size is for the rows of ImageNet" in capsys.readouterr().err


@pytest.mark.long
def test_a_very_short_run_on_images(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "resnet18-imagenet", replace(ROWS["resnet18-imagenet"], network=little))
    command(
        monkeypatch, "resnet18-imagenet", "--data", images, "--epochs", 2, "--batch", 6, "--size", 32, "--workers", 0,
        "--device", "cpu", "--out", tmp_path / "run", "--limit", 12,
    )  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert 0.5 < report["budgets"][0]["reached"] <= 0.559
    assert report["settings"]["optimizer"] == "adamw" and report["slim_from"] is not None
