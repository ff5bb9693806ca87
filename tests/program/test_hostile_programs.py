"""Programs and ONNX files that would run code, read other files or unpack without end: refused before that."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from hostile import archive, edited, members
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import make_run
from safetensors.torch import save_file
from torch import nn
from torch.export import ExportedProgram

import atograph
from atograph.files.checkpoint import Checkpoint
from atograph.files.plan_file import read_plan
from atograph.files.reading import Unreadable
from atograph.ort.model import OnnxModel
from atograph.program.load import load_safetensors
from atograph.program.ops import check_target
from atograph.run.verify import verify_run
from atograph.spec.init_weights import load_init
from atograph.spec.spec import load_spec

MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
CONSTANTS, INPUTS = "data/constants/model_constants_config.json", "data/sample_inputs/model.pt"

CODE = "__import__('os').system('touch ran')"
EMPTY = {"type": None, "context": None, "children_spec": []}


class Harm:
    """A pickle of it runs code where it is loaded."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    make_run(folder)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made / "run", tmp_path / "run", ignore=shutil.ignore_patterns("report.html")))


def saved(value: Any) -> bytes:
    made = BytesIO()
    torch.save(value, made)
    return made.getvalue()


def member(name: str, content: bytes) -> Callable[[Path], bytes]:
    return lambda path: archive(members(path) | {name: content})


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Path], bytes]:
    return lambda path: edited(path, name, change)


def program(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], bytes]:
    return changed(MODEL, lambda value: change(value["graph_module"]["graph"]))


def called(target: str) -> Callable[[Path], bytes]:
    return program(lambda graph: graph["nodes"][2].update(target=target))


def sized(text: str) -> Callable[[Path], bytes]:
    size = {"as_expr": {"expr_str": text, "hint": {"as_int": 16}}}
    return program(lambda graph: graph["tensor_values"]["relu"]["sizes"].__setitem__(0, size))


def first(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: next(iter(config["config"].values())).update(values)


def of_shape(*sizes: int) -> Callable[[dict[str, Any]], Any]:
    meta = [{"as_int": size} for size in sizes]
    return lambda config: next(iter(config["config"].values()))["tensor_meta"].update(sizes=meta)


def signature(**values: Any) -> Callable[[Path], bytes]:
    return changed(MODEL, lambda value: value["graph_module"]["module_call_graph"][0]["signature"].update(values))


def container(kind: str, context: Any) -> Callable[[Path], bytes]:
    return signature(out_spec=json.dumps([1, {"type": kind, "context": context, "children_spec": [EMPTY]}]))


def older(path: Path) -> bytes:
    """What torch takes for a program of torch 2.7 once the newer way has failed."""
    return archive(
        {f"archive/{name}": content for name, content in members(path).items()} | {"version": b"8.0"}, root=""
    )


def torn(path: Path) -> bytes:
    return archive({name: content for name, content in members(path).items() if name != MODEL})


FACTORY = {"default_factory_module": "antigravity", "default_factory_name": "fly", "dict_context": []}
ENUM = json.dumps({"__enum__": True, "fqn": "antigravity:x", "name": "y"})

META = {
    "dtype": 7, "sizes": [], "requires_grad": False, "device": {"type": "cpu"}, "strides": [],
    "storage_offset": {"as_int": 0}, "layout": 7,
}  # fmt: skip

ATTACKS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "code in inputs": (member(INPUTS, saved(((Harm(),), {}))), "its example inputs hold more than plain tensors"),
    "a pickle as inputs": (member(INPUTS, pickle.dumps(Harm(), 2)), "its example inputs hold more than plain tensors"),
    "no inputs": (member(INPUTS, b"PK\x03\x04"), "its example inputs cannot be read"),
    "a number as inputs": (member(INPUTS, saved(3)), "are no arguments of a call"),
    "numbers of no type": (
        changed(WEIGHTS, first(tensor_meta=META | {"dtype": 255})), "is of a type of numbers that torch does not know",
    ),
    "code as a weight": (changed(WEIGHTS, first(use_pickle=True)), "0.weight is stored as a pickle in it"),
    "code as a constant": (
        changed(CONSTANTS, lambda config: config["config"].update(
            c={"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False,
               "tensor_meta": META})), "c is stored as a pickle in it",
    ),
    "a pickle of older versions": (member("data/weights/model.pt", saved({"a": Harm()})), "writes no data/weights"),
    "a library": (member("data/aotinductor/model/a.so", b"\x7fELF"), "writes no data/aotinductor/model/a.so"),
    "another name": (member("../../outside", b"x"), "atograph writes no ../../outside into it"),
    "of an older version": (older, "torch.export can load"),
    "no model": (torn, "there is no models/model.json in it"),
    "a bomb": (
        lambda path: archive(members(path) | {"data/weights/weight_0": bytes(10**8)}, packed=True),
        "it would unpack to 100,0",
    ),
    "code for a size": (sized(CODE), "where there is to be a size"),
    "an attribute for a size": (sized("Symbol('s31').__class__"), "where there is to be a size"),
    "code for a symbol": (sized(f'Symbol("{CODE}")'), "where there is to be a size"),
    "a tower of powers": (sized("9**9**9**9"), "where there is to be a size"),
    "powers of powers": (sized("Pow(Pow(Integer(9), Integer(9)), Integer(9))"), "where there is to be a size"),
    "a deep size": (sized("(" * 5000 + "1" + ")" * 5000), "where there is to be a size"),
    "a billion symbols": (
        changed(MODEL, lambda value: value["range_constraints"].update(u999999999={"min_val": 0, "max_val": None})),
        "'u999999999' stands in it where there is to be a size",
    ),
    "a size below a free name": (
        program(lambda graph: graph["tensor_values"].update(
            metadata=META | {"sizes": [{"as_expr": {"expr_str": CODE, "hint": None}}]})), "where there is to be a size",
    ),
    "a function of torch": (called("torch.os.system"), "'torch.os.system' is no op of a network"),
    "a way around": (called("_operator.attrgetter"), "is no op of a network"),
    "a file": (called("torch.ops.aten.from_file.default"), "is no op of a network"),
    "a file written": (called("torch.ops.aten.save.default"), "is no op of a network"),
    "ops of torch for itself": (called("torch.ops.debugprims.load_tensor.default"), "is no op of a network"),
    "a method": (called("torch.ops.load_library.__call__.__self__"), "torch.export can load"),
    "an op that is not there": (called("torch.ops.mine.op.default"), "torch.export can load"),
    "code for a name": (program(lambda graph: graph["nodes"][2].update(name=f"x = {CODE}")), "the name of a value"),
    "code for an input": (program(lambda graph: graph["inputs"][8]["as_tensor"].update(name=f"input={CODE}")),
                          "the name of a value"),
    "code for an argument": (signature(forward_arg_names=[f"input={CODE}"]), "the name of a value"),
    "an import": (container("collections.defaultdict", FACTORY), "imports a module"),
    "another import": (container("builtins.dict", f"[{ENUM}]"), "imports a module"),
    "a container of nobody": (container("no.such", "null"), "in a container that is not here, 'no.such'"),
    "no containers": (signature(in_spec="{}"), "the structure of its inputs or outputs cannot be read"),
    "a quote in a name": (
        changed(MODEL, lambda value: value["graph_module"]["signature"]["input_specs"][0]["parameter"].update(
            parameter_name=f'0.weight"+{CODE}+"')), "where there is to be the name of a tensor",
    ),
    "10^12 numbers": (changed(WEIGHTS, of_shape(10**12)), "0.weight is said to be of more numbers than are stored"),
    "negative": (changed(WEIGHTS, of_shape(-1)), "Input should be greater than or equal to 0"),
    "none of 10^12 numbers": (
        lambda path: archive(members(path) | {"data/weights/weight_0": b""} | {
            WEIGHTS: members(path)[WEIGHTS].replace(b'"as_int": 9', b'"as_int": 999999999999')}), "more numbers than",
    ),
    "another member": (changed(WEIGHTS, first(path_name="../../models/model.json")), "stored as a pickle"),
    "no member": (changed(WEIGHTS, first(path_name="weight_99")), "torch.export can load"),
    "nested": (member(MODEL, b"[" * 100_000), "it is nested too deeply"),
    "a list": (member(MODEL, b"[]"), "its model is no object"),
    "no graph": (member(MODEL, b"{}"), "torch.export can load"),
    "another file": (lambda path: path.with_name("slim.onnx").read_bytes(), "torch.export can load"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_program_that_is_more_than_one(attack: str, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change, message = ATTACKS[attack]
    path = run / "slim.pt2"
    path.write_bytes(change(path))
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(atograph.UserError) as refusal:
        atograph.load(run)
    text = str(refusal.value)
    assert str(path) in text and message in text and "\n" not in text, text
    assert sorted(Path.cwd().rglob("*")) == before, "something was written"
    assert not any(capfd.readouterr())


def test_an_archive_that_is_packed_again_is_the_same(run: Path) -> None:
    path = run / "slim.pt2"
    x = torch.randn(2, 1, 8, 8)
    before = atograph.load(run)(x)
    path.write_bytes(archive(members(path)))
    assert torch.equal(before, atograph.load(run)(x))
    path.write_bytes(sized("Mul(Integer(1), Symbol('s31', positive=True, integer=True))")(path))
    assert torch.equal(before, atograph.load(run)(x))


def test_a_program_that_cannot_be_run_is_told_apart(run: Path, made: Path) -> None:
    path = run / "slim.pt2"
    path.write_bytes(program(lambda graph: graph["nodes"][5].update(target="torch.ops.aten.matmul.default") or graph[
        "nodes"][5]["inputs"].pop())(path))  # fmt: skip
    with pytest.raises(atograph.UserError, match=r"slim\.pt2"):
        verify_run(run, load_spec(str(made / "net.py")).model())


def test_torch_has_no_other_op_that_takes_a_file() -> None:
    for schema in torch._C._jit_get_all_schemas():
        named = [each.name for each in schema.arguments if "str" in str(each.type)]
        if any(part in name for name in named for part in ("file", "path", "group_name", "url")):
            target = f"torch.ops.{schema.name.replace('::', '.')}.{schema.overload_name or 'default'}"
            with pytest.raises(Unreadable):
                check_target(target)


BOMBS = {
    "deflated": lambda path: path.write_bytes(archive(members(path) | {"data/0": bytes(10**8)}, packed=True)),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "code": lambda path: torch.save({"w": Harm()}, path),
    "spread": lambda path: torch.save({"w": torch.zeros(1).expand(10**12)}, path),
}


@pytest.mark.parametrize("attack", BOMBS)
def test_weights_of_torch_save(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"
    model = nn.Linear(2, 2)
    torch.save(model.state_dict(), path)
    BOMBS[attack](path)
    with pytest.raises(atograph.UserError):
        load_init(model, path)
    assert [each.name for each in tmp_path.iterdir()] == ["w.pt"]


OUTSIDE = (
    "../secret.bin",
    "x/../../secret.bin",
    "/etc/passwd",
    "link.bin",
    "pipe.bin",
    "gone.bin",
    "*/_ORT_MEM_ADDR_/*",
)


@pytest.mark.parametrize("where", OUTSIDE)
def test_weights_of_onnx_stay_in_their_folder(where: str, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run.parent / "secret.bin").write_bytes(bytes(4096))
    (run / "link.bin").symlink_to(run.parent / "secret.bin")
    os.mkfifo(run / "pipe.bin")
    model = onnx.load(run / "slim.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", where), ("offset", "0")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (run / "slim.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(atograph.UserError, match="this ONNX file cannot be loaded: "):
        OnnxModel(run / "slim.onnx", identity())
    assert not any(capfd.readouterr())


@cache
def identity() -> ExportedProgram:
    return torch.export.export(nn.Identity(), (torch.ones(1),))


FILES: dict[str, Callable[[Path], Any]] = {
    "slim.pt2": lambda path: atograph.load(path.parent),
    "slim.onnx": lambda path: OnnxModel(path, identity()),
    "slim.safetensors": load_safetensors,
    "net.safetensors": Checkpoint.open,
    "plan.json": read_plan,
}


@pytest.mark.parametrize("name", FILES)
def test_bytes_that_have_changed(name: str, made: Path, tmp_path: Path) -> None:
    """Whatever is in a file, it is refused or read: no other exception, no end of the process."""
    path = tmp_path / name
    if name == "net.safetensors":
        save_file({"a": torch.ones(3, 2), "b": torch.zeros(5)}, made / "run" / name)
    whole = (made / "run" / name).read_bytes()

    @settings(max_examples=60 if name == "slim.pt2" else 150, deadline=None, derandomize=True, database=None)
    @given(
        flips=st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(1, 255)), max_size=8),
        length=st.one_of(st.just(len(whole)), st.integers(0, len(whole))),
        more=st.binary(max_size=16),
    )
    def check(flips: list[tuple[int, int]], length: int, more: bytes) -> None:
        content = bytearray(whole)
        for place, bits in flips:
            content[place] ^= bits
        path.write_bytes(bytes(content[:length]) + more)
        try:
            FILES[name](path)
        except atograph.UserError as error:
            assert "\n" not in str(error)

    check()


class Remembering(nn.Module):
    """Writes into a buffer; a program of it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
        self.register_buffer("last", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        self.last.copy_(y.mean(0).detach())
        return self.b(y + self.last)


@pytest.mark.parametrize("where", ["a value", "a parameter"])
def test_a_file_that_writes_elsewhere(where: str, tmp_path: Path) -> None:
    graph = atograph.trace(Remembering().eval(), torch.randn(2, 5))
    atograph.slim(graph, graph.plan(random=0)).save(tmp_path)
    atograph.load(tmp_path)
    path = tmp_path / "slim.pt2"

    def change(graph: dict[str, Any]) -> None:
        (write,) = [node for node in graph["nodes"] if node["target"].endswith("copy_.default")]
        names = [
            name for name in graph["tensor_values"] if name.startswith("p_" if where == "a parameter" else "linear")
        ]
        write["inputs"][0]["arg"]["as_tensor"]["name"] = names[0]

    path.write_bytes(program(change)(path))
    with pytest.raises(atograph.UserError, match="writes into something else than its buffers and inputs"):
        atograph.load(tmp_path)
