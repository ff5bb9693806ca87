"""Programs as what a user brings: exported ones, their files, folders of runs; with the sizes that they have."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

import atograph
from atograph.passes.errors import UserError
from atograph.spec.spec import load_spec


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.mid, self.out = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu_(self.bn(self.stem(x)))
        x = x + self.out(torch.sigmoid(self.mid(x)))
        return self.head(x.mean((2, 3)))


def net(kind: type[nn.Module] = Net) -> nn.Module:
    torch.manual_seed(0)
    made = kind().double().eval()
    for name, value in made.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if name.endswith("var") else value.normal_(std=0.3)
    return made


X = torch.randn(2, 3, 8, 8, dtype=torch.float64)


def groups(graph: atograph.Graph) -> list[tuple[int, bool]]:
    return [(group.size, group.frozen is None) for group in graph.groups]


def check(graph: atograph.Graph, reference: Any, *inputs: torch.Tensor) -> atograph.Slim:
    """The slim program computes what the masked one does, the plan moved the output, and the dense one is the given."""
    plan = graph.plan(random=0)
    slim = atograph.slim(graph, plan)
    assert graph.model is not None and slim.module is not None
    dense = graph.model(*inputs)
    assert torch.equal(dense, reference(*inputs))
    with torch.no_grad():
        masked = atograph.mask(graph.model, plan)(*inputs)
        assert (masked - dense).abs().max() > 1e-3
        for given in (slim, slim.module, slim.program.module(check_guards=False)):
            assert torch.allclose(given(*inputs), masked, rtol=1e-9, atol=1e-12)
    return slim


@pytest.mark.parametrize("form", ["exported", "file", "run", "module"])
def test_a_program_has_the_groups_of_its_module(form: str, tmp_path: Path) -> None:
    model = net()
    exported = torch.export.export(model, (X,), dynamic_shapes={"x": {0: Dim.AUTO}})
    expected, given, dense = groups(atograph.trace(model, X)), exported, exported.module()
    if form == "file":
        torch.export.save(exported, given := tmp_path / "net.pt2")
    elif form == "module":
        given = exported.module()
    elif form == "run":
        slim = check(atograph.trace(exported), dense, X)
        given, dense = slim.save(tmp_path / "run"), slim
        expected = groups(atograph.trace(slim.module, X))
    graph = atograph.trace(given, X) if form == "module" else atograph.trace(given)
    assert groups(graph) == expected
    check(graph, dense, X.repeat(2, 1, 1, 1))


def test_sizes_are_those_of_the_program() -> None:
    shapes = {"x": {0: Dim("many", max=64), 2: Dim("height", min=4, max=128), 3: Dim.AUTO}}
    graph = atograph.trace(torch.export.export(net(), (X,), dynamic_shapes=shapes))
    assert [str(size) for size in graph.program.interface.dynamic] == [
        "batch up to batch = 64", "x_2 from x_2 = 4 up to x_2 = 128", "x_3",
    ]  # fmt: skip
    other = torch.randn(5, 3, 12, 7, dtype=torch.float64)
    slim = check(graph, net(), other)
    ranges = {(int(limits.lower), str(limits.upper)) for limits in slim.program.range_constraints.values()}
    assert ranges == {(2, "64"), (4, "128"), (2, "int_oo")}
    with pytest.raises(UserError, match="batch from 1 to 64"):
        slim(torch.randn(65, 3, 8, 8, dtype=torch.float64))


def test_multiples_are_kept() -> None:
    class Halves(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            half = torch.nn.functional.avg_pool2d(x, 2)
            return super().forward(x + half.repeat_interleave(2, 2).repeat_interleave(2, 3))

    side = Dim("side")
    exported = torch.export.export(net(Halves), (X,), dynamic_shapes={"x": {2: 2 * side, 3: 2 * side}})
    graph = atograph.trace(exported)
    assert [str(size) for size in graph.program.interface.dynamic] == ["2*x_2"]
    check(graph, net(Halves), torch.randn(2, 3, 12, 12, dtype=torch.float64))


def test_a_fixed_program_stays_fixed() -> None:
    exported = torch.export.export(net(), (X,))
    graph = atograph.trace(exported)
    assert "exported for this size alone" in str(graph)
    check(graph, net(), X)
    with pytest.raises(UserError, match="exported with a size of its own"):
        atograph.trace(exported, dynamic={"x": {2: "height"}})


def test_sizes_can_be_named_and_fixed() -> None:
    exported = torch.export.export(net(), (X,), dynamic_shapes={"x": {0: Dim.AUTO, 2: Dim.AUTO}})
    graph = atograph.trace(exported, dynamic={"x": {2: "height"}})
    assert [size.name for size in graph.program.interface.dynamic] == ["height"]
    static = atograph.trace(exported, dynamic=False)
    assert static.program.interface.dynamic == () and static.program.input_nodes()[0].meta["val"].shape == X.shape
    check(static, net(), X)


def test_another_example_gives_other_costs() -> None:
    exported = torch.export.export(net(), (X,), dynamic_shapes={"x": {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}})
    small, large = atograph.trace(exported), atograph.trace(exported, X.repeat(1, 1, 2, 2))
    assert 3.5 < large.flops / small.flops < 4
    with pytest.raises(UserError, match="another structure"):
        atograph.trace(exported, (X, X))


def test_a_file_is_a_spec(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(net(), (X,)), tmp_path / "net.pt2")
    spec = load_spec(str(tmp_path / "net.pt2"))
    assert spec.name == "net" and torch.equal(spec.inputs().args[0], X)
    first, second = spec.model(), spec.model()
    assert first is not second and torch.equal(first(X), net()(X))
    with torch.no_grad():
        first.get_parameter("head.bias").zero_()
    assert torch.equal(second(X), net()(X))


def test_compress_takes_a_program(tmp_path: Path) -> None:
    exported = torch.export.export(net().float(), (X.float(),))
    result = atograph.compress(exported, flops=0.5, method="magnitude", epochs=0, out=tmp_path / "run")
    assert result.report.slim.flops <= 0.5 * result.report.dense.flops
    loaded = atograph.load(tmp_path / "run")
    assert torch.allclose(loaded(X.float()), result.model(X.float()), atol=1e-5)


class Small(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)


def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_scripted_modules_are_followed_and_traced_ones_told_in_words() -> None:
    assert "relu" in str(atograph.trace(torch.jit.script(Small()), X).program.graph)
    with pytest.raises(UserError, match=r"made by torch.jit.trace.*Give the module that it was made from"):
        atograph.trace(torch.jit.trace(Small(), X), X)
    with pytest.raises(UserError, match="TorchScript"):
        atograph.trace(torch.jit.script(doubled), X)


@pytest.mark.parametrize(
    ("save", "scripted"),
    [(lambda path: torch.jit.script(Small()).save(path), True), (lambda path: torch.save({"a": X}, path), False)],
)
@pytest.mark.parametrize("name", ["net.pt", "net.pth"])
def test_torchscript_is_spoken_of_where_the_file_is_of_it(
    save: Callable[[Path], None], scripted: bool, name: str, tmp_path: Path
) -> None:
    save(tmp_path / name)
    with pytest.raises(UserError) as refusal:
        load_spec(str(tmp_path / name))
    assert ("TorchScript" in str(refusal.value)) is scripted and ("--init" in str(refusal.value)) is not scripted


@pytest.mark.parametrize(("name", "hint"), [("net.pt", "--init"), ("net.pth", "Weights alone"), ("net.md", "model()")])
def test_files_that_hold_no_program(name: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UserError) as refusal:
        load_spec(str(tmp_path / name))
    assert hint in str(refusal.value)
    with pytest.raises(UserError, match=r"\.pt2"):
        atograph.trace(tmp_path / name)


class Pooled(nn.Module):
    """A pooling to one place, which a decomposition ends with a view by strides; and another such view."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 1), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Strided(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(
            x.sum() > 0, lambda y: y.as_strided((2, 4), (1, 2)).contiguous(), lambda y: y[:2, :4].clone(), (x,)
        )


def test_a_view_by_strides_comes_in_where_it_is_the_tensor_itself(tmp_path: Path) -> None:
    exported = torch.export.export(net(Pooled), (X,)).run_decompositions()
    assert any("as_strided" in str(node.target) for node in exported.graph.nodes)
    torch.export.save(exported, tmp_path / "net.pt2")
    graph = atograph.trace(tmp_path / "net.pt2")
    assert "as_strided" not in str(graph.program.graph)
    check(graph, net(Pooled), X)
    for kind, inside in ((Strided, True), (Plainly, False)):
        torch.export.save(torch.export.export(kind(), (X[0, 0],)), tmp_path / "other.pt2")
        assert inside == ("cond" in str(torch.export.export(kind(), (X[0, 0],)).graph))
        with pytest.raises(
            UserError, match=r"other\.pt2: aten\.as_strided\.default reads the memory of a tensor in an"
        ):
            atograph.trace(tmp_path / "other.pt2")


class Plainly(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.as_strided((2, 4), (1, 2)) + 1


def test_a_file_that_says_other_shapes_than_its_ops_give_is_refused_as_one(tmp_path: Path) -> None:
    """And not as a bug of ours."""
    torch.export.save(torch.export.export(net(), (X,)), tmp_path / "net.pt2")
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (model,) = (name for name in members if name.endswith("models/model.json"))
    for value, number, why in (("conv2d", 15, r"gives \[.*\] of .*, and says"), ("p_out_bias", 15, "out.bias is")):
        said = json.loads(members[model])
        values = said["graph_module"]["graph"]["tensor_values"]
        values[value]["sizes"][-1 if value == "p_out_bias" else 1] = {"as_int": number}
        with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, json.dumps(said) if name == model else content)
        with pytest.raises(UserError, match=f"this exported program cannot be read: .*{why}") as refusal:
            atograph.trace(tmp_path / "other.pt2")
        assert "internal error" not in str(refusal.value) and "bug" not in str(refusal.value)


class Masked(nn.Module):
    """Takes a mask, and does without."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        y: torch.Tensor = self.b(self.a(x).relu())
        return y if mask is None else y * mask


def test_an_input_that_is_left_out_is_told_and_the_module_does_without() -> None:
    x = torch.randn(2, 8)
    graph = atograph.trace(Masked().eval(), (), {"x": x, "mask": torch.ones(2, 4)})
    slim = atograph.slim(graph, graph.plan(random=0))
    with pytest.raises(UserError, match=r"traced with a tensor for mask, and was called without one.*slim\.module"):
        slim(x=x)
    assert slim.module is not None
    torch.testing.assert_close(slim.module(x), slim(x=x, mask=torch.ones(2, 4)))
