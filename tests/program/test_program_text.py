"""What stands in ``slim.pt2`` is data: nothing of it is evaluated, and it tells nothing of its maker."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sympy
import torch
from hostile import archive, members
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._sympy import functions as sympy_functions

import atograph
from atograph.files.reading import Unreadable
from atograph.passes.errors import UserError
from atograph.passes.rules import table
from atograph.program import ops
from atograph.program.load import load_program
from atograph.program.ops import check_call, check_target, listed
from atograph.program.size_text import _FUNCTIONS, NoSize, canonical_size

MODEL = "models/model.json"
JSON = (MODEL, "data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
CODE = "open('ran', 'w')"
S = "Symbol('s0', positive=True, integer=True)"

SIZES = {
    S: S,
    "Symbol('s0')": "Symbol('s0')",
    " Integer( 16 ) ": "Integer(16)",
    "-3": "Integer(-3)",
    f"Mul(Integer(2), Add({S}, Integer(-1)))": f"Mul(Integer(2), Add({S}, Integer(-1)))",
    f"Pow({S}, Integer(2))": f"Pow({S}, Integer(2))",
    f"Mul(Rational(1, 2), FloorDiv({S}, Integer(4)))": f"Mul(Rational(1, 2), FloorDiv({S}, Integer(4)))",
    "Float('1e0', precision=53)": "Float('1.0', precision=53)",
    "Eq(Symbol('u3', integer=True), 0)": "Eq(Symbol('u3', integer=True), Integer(0))",
    "true": "true",
    "Where(Lt(Symbol('s0'), 2), 1, Mul(Float('0.5'), Symbol('s0')))": (
        "Where(Lt(Symbol('s0'), Integer(2)), Integer(1), Mul(Float('0.5', precision=53), Symbol('s0')))"
    ),
    "FloorDiv(Mul(Rational(1, 2), Symbol('s0')), ceiling(IntTrueDiv(Symbol('s0'), Integer(3))))": (
        "FloorDiv(Mul(Rational(1, 2), Symbol('s0')), ceiling(IntTrueDiv(Symbol('s0'), Integer(3))))"
    ),
    "Not(And(Ne(Max(Symbol('s0'), 1), 3), true))": "Not(And(Ne(Max(Symbol('s0'), Integer(1)), Integer(3)), true))",
}


def _nested(form: str, times: int) -> str:
    """A form of sizes within itself."""
    text = S
    for _ in range(times):
        text = form.format(text)
    return text


NO_SIZES = [
    "",
    "(1)",
    "1 + 1",
    "s0",
    "x",
    "oo",
    "1.5",
    "1e5",
    "0x10",
    "1_000",
    "9" * 20,
    "'a'",
    "Symbol",
    "Symbol()",
    "Symbol(s0)",
    "Symbol('s1')",
    "Symbol('x')",
    "Symbol('s0', s0=True)",
    "Symbol('s0', positive=1)",
    "Symbol('s0', integer=True, integer=True)",
    "Symbol('s0').__class__",
    "Symbol('s0')()",
    "Symbol('s0'), 1",
    "Symbol('s0'",
    "Symbol('s0',)",
    "Integer(1.5)",
    "Integer('1')",
    "Rational(1, 0)",
    "Float(1)",
    "Float('nan')",
    "Float('inf')",
    "Float('1e999')",
    "Float('1', 99999999)",
    "Float('1', precision=99999999)",
    "Float('1', dps=15)",
    "Symbol('s0', positive=False)",
    "Add(Symbol('s0'), Symbol('s0', positive=True))",
    "Add(Symbol('s0'), true)",
    "Not(Symbol('s0'))",
    "And(true, 1)",
    "Where(1, 2, 3)",
    "Eq(true, true)",
    "Lt(Lt(1, 2), 3)",
    "Pow(true, 2)",
    "Max(1, false)",
    "Mod(Symbol('s0'), Float('0.5'))",
    "Mod(Symbol('zf0'), 2)",
    "FloorDiv(ToFloat(Symbol('s0')), 2)",
    "ModularIndexing(Symbol('s0'), 2, IntTrueDiv(1, 3))",
    "FloorDiv(Float('1e300'), 2)",
    _nested("FloorDiv(Mul(6, Add({}, 1)), Add(Mul(4, Symbol('u3')), 2))", 4),
    _nested("CleanDiv(1, Add({}, Symbol('u3')))", 4),
    "０x10",
    "1__0",
    "Integer(0x10)",
    "Integer(1_0)",
    "Integer(--1)",
    "Integer(٣)",
    "Ｍod(1, 2)",
    "Mоd(1, 2)",
    "ＡＤＤ(1)",
    "Add(1,\x0b2)\x00",
    "Pow(2, -2)",
    "Pow(2, 7)",
    "Pow(2, Rational(1, 2))",
    "PowByNatural(Symbol('s0'), Symbol('s0'))",
    "Pow(Pow(9223372036854775807, 6), 6)",
    "Mul(" + ", ".join(["Pow(9223372036854775807, 6)"] * 2) + ")",
    "Pow(9, 9)",
    "Pow(Integer(2), Symbol('s0'))",
    "Pow(Pow(Symbol('s0'), 3), 3)",
    "Mul(Pow(Symbol('s0'), 6), Symbol('s0'))",
    "Pow(2, Add(1, 1))",
    "LShift(1, 99)",
    "FloatPow(9.0, 9.0)",
    "Add()",
    "Mod(1)",
    "Max(" + ", ".join(["1"] * 9) + ")",
    "Add(" * 30 + "1" + ")" * 30,
    "Add(" + ", ".join(["1"] * 900) + ")",
    "1" + " " * 9000 + "1",
    "Add(" + ", ".join(["Symbol('s0')"] * 63 + ["Mul(Add(Symbol('s0'), 1), Add(Symbol('s0'), 2))"]) + ")",
    "FloorDiv(Mul(" + ", ".join(["Add(Symbol('s0'), Symbol('u3'), 1)"] * 3) + "), Add(Symbol('s0'), 5))",
    "Pow(Add(" + ", ".join(["Symbol('s0')"] * 9) + "), -1)",
    "lambda: 1",
    "[1]",
    "{}",
    "Lambda(x, x)",
    "Function('f')(1)",
    "Symbol(name='s0')",
    "Add(*[1])",
    "Add(x=1)",
    "１",
    "Sуmbol('s0')",
]


@pytest.mark.parametrize("text", SIZES)
def test_sizes_are_written_anew(text: str) -> None:
    assert canonical_size(text, {"s0", "u3"}) == SIZES[text]
    assert canonical_size(SIZES[text], {"s0", "u3"}) == SIZES[text]


def test_a_size_of_more_symbols_than_a_program_can_have_is_none() -> None:
    symbols = [f"u{number}" for number in range(5)]
    parts = [f"Symbol('{symbol}')" for symbol in symbols]
    canonical_size(f"Add({', '.join(parts[:4])})", symbols)
    with pytest.raises(NoSize):
        canonical_size(f"Add({', '.join(parts)})", symbols)


@pytest.mark.parametrize("text", NO_SIZES, ids=lambda text: text[:30])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(NoSize):
        canonical_size(text, {"s0", "u3"})


def test_a_call_in_any_slot_of_any_function_is_no_size() -> None:
    for name in [*_FUNCTIONS, "Symbol", "Integer", "Rational", "Float", "Pow", "PowByNatural", "Lambda", "sympify"]:
        for count in range(1, 5):
            for slot in range(count):
                for harm in (CODE, "__import__('os')", "Symbol('s0').is_Symbol", "Pow(9, Pow(9, 9))", f"key={CODE}"):
                    operands = ["1"] * count
                    operands[slot] = harm
                    with pytest.raises(NoSize):
                        canonical_size(f"{name}({', '.join(operands)})", {"s0"})


ATOMS = {
    "whole": [S, "Symbol('u3', integer=True)", "0", "-1", "3", "Integer(9223372036854775807)", "Rational(-1, 3)"],
    "fraction": [S, "Float('0.3')", "Float('1e300')", "Float('-1e-300', precision=53)"],
    "truth": ["true", "false"],
}
FORMS = {
    "whole": ["Add", "Mul", "Max", "Min", "Abs", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "Identity",
              "ModularIndexing"],
    "fraction": ["Add", "Mul", "Max", "Min", "Abs", "IntTrueDiv", "FloatTrueDiv", "ToFloat", "TruncToFloat"],
    "truth": ["And", "Or", "Not"],
}  # fmt: skip
SIZE_FUNCTIONS = {
    name: getattr(sympy_functions, name) for name in (*_FUNCTIONS, "PowByNatural") if hasattr(sympy_functions, name)
}


@st.composite
def size_texts(draw: st.DrawFn, kind: str = "whole", depth: int = 3) -> str:
    """Sizes of the grammar; now and then an operand is of another kind."""
    if depth == 0 or draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(ATOMS[kind]))

    def inner(of: str = kind) -> str:
        return draw(size_texts(draw(st.sampled_from([of] * 30 + [*ATOMS])), depth - 1))

    way = draw(st.integers(0, 9))
    if kind == "truth" and way < 6:
        return f"{draw(st.sampled_from(['Eq', 'Ne', 'Lt', 'Ge']))}({inner('whole')}, {inner('fraction')})"
    if kind != "truth" and way == 0:
        return f"Where({inner('truth')}, {inner()}, {inner()})"
    if kind != "truth" and way == 1:
        return f"{draw(st.sampled_from(['Pow', 'PowByNatural']))}({inner()}, {draw(st.integers(-2, 7))})"
    if kind == "whole" and way == 2:
        return f"{draw(st.sampled_from(['floor', 'ceiling', 'RoundToInt', 'TruncToInt']))}({inner('fraction')})"
    name = draw(st.sampled_from(FORMS[kind]))
    least, most = _FUNCTIONS[name]
    return f"{name}({', '.join(inner() for _ in range(draw(st.integers(least, min(most, 4)))))})"


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(size_texts())
def test_what_passes_gives_numbers_and_known_symbols(text: str) -> None:
    try:
        canonical = canonical_size(text, {"s0", "u3"})
    except NoSize:
        return
    assert canonical_size(canonical, {"s0", "u3"}) == canonical
    started = time.process_time()
    try:
        size = sympy.sympify(canonical, locals=dict(SIZE_FUNCTIONS))
    except (ArithmeticError, ValueError, AssertionError):  # divided by zero, not comparable: sympy's own refusals
        size = sympy.Integer(0)
    assert time.process_time() - started < 5
    assert {str(symbol) for symbol in size.free_symbols} <= {"s0", "u3"}
    assert not size.atoms(sympy.core.function.AppliedUndef)


class Net(nn.Module):
    """Something of everything that a program may hold."""

    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.out = nn.BatchNorm1d(12), nn.Linear(6, 12), nn.Linear(12, 3)
        self.register_buffer("table", torch.arange(12.0))

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor, name: str = "a") -> dict[str, torch.Tensor]:
        y = self.norm(self.inner(x)).relu() * self.table
        with torch.autocast("cpu", torch.bfloat16):
            y = y.mT.mT.contiguous() * scale.mean()
        y = y * torch.tensor([0.5, float("inf")]).nan_to_num()[0]
        return {"y": self.out(y.float()).view(x.shape[0] * 3), "positive": x[x > 0]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("text")
    inputs = (torch.randn(2, 6),), {"scale": torch.ones(12), "name": "a"}
    graph = atograph.trace(Net().eval(), *inputs)
    atograph.slim(graph, graph.plan(flops=0.6)).save(folder)
    return folder


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value, and of each key (which ends with None)."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key, None)
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))
    elif isinstance(value, str) and value.startswith("["):  # JSON within JSON
        for inner in places(json.loads(value)):
            yield (*path, "json", *inner)
    yield path


def kind(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same for all items of a list, and of a table by name."""
    tables = ("config", "range_constraints")
    by_name = [before in tables or str(before).endswith("_values") for before in ("", *path)]
    return tuple("*" if isinstance(part, int) or named else part for part, named in zip(path, by_name, strict=False))


def put(value: Any, path: tuple[Any, ...], harm: Any) -> Any:
    """A copy with something else in one place."""
    if not path:
        return harm
    first, *rest = path
    if first == "json" and isinstance(value, str):
        return json.dumps(put(json.loads(value), tuple(rest), harm))
    if isinstance(value, dict):
        if rest == [None]:
            return {(str(harm) if key == first else key): item for key, item in value.items()}
        return {key: put(item, tuple(rest), harm) if key == first else item for key, item in value.items()}
    return [put(item, tuple(rest), harm) if index == first else item for index, item in enumerate(value)]


HARMS: tuple[Any, ...] = (
    f"Float('1', precision={CODE})", f"x={CODE}", "torch.ops.aten.set_.source_Storage",
    "Pow(9, Pow(9, Pow(9, 9)))", "antigravity:x", [CODE], 2**62, -1, None,
    {"as_expr": {"expr_str": CODE, "hint": None}},
)  # fmt: skip


@pytest.mark.parametrize("name", JSON)
@pytest.mark.long
def test_harm_in_every_place_of_the_text(name: str, saved: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Found by walking what torch wrote, so that a field of a newer torch is tried as well."""
    monkeypatch.chdir(tmp_path)
    whole = members(saved / "slim.pt2")
    text = json.loads(whole[name])
    by_kind = {kind(path): path for path in places(text)}
    assert name != MODEL or len(by_kind) > 90
    for number, path in enumerate(by_kind.values()):
        for harm in (CODE, HARMS[number % len(HARMS)]):
            (tmp_path / "slim.pt2").write_bytes(archive(whole | {name: json.dumps(put(text, path, harm)).encode()}))
            started = time.process_time()
            try:
                atograph.load(tmp_path)
            except UserError as error:
                assert "\n" not in str(error)
            assert time.process_time() - started < 10, (path, harm)
            assert [each.name for each in tmp_path.iterdir()] == ["slim.pt2"], (path, harm)


def test_torch_gets_no_text_of_the_file(saved: Path, tmp_path: Path) -> None:
    """Guards become Python where a module is made of the program, and origins are shown in its code."""
    whole = members(saved / "slim.pt2")
    text = json.loads(whole[MODEL])
    text["guards_code"] = [CODE]
    for node in text["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {"stack_trace": CODE, "from_node": CODE, "custom": CODE, "nn_module_stack": CODE}
    (tmp_path / "slim.pt2").write_bytes(archive(whole | {MODEL: json.dumps(text).encode()}))
    program = load_program(tmp_path)
    assert CODE not in str(program) and CODE not in program.graph_module.code
    assert not getattr(program, "_guards_code", None)
    x, scale = torch.randn(4, 6), torch.ones(12)
    found = program.module()(x, scale=scale, name="a")["y"]
    assert torch.equal(found, atograph.load(saved)(x, scale=scale, name="a")["y"])


OPS: dict[str, Callable[[], Any]] = {
    "set_": lambda: check_target("torch.ops.aten.set_.source_Storage"),
    "resize_": lambda: check_target("torch.ops.aten.resize_.default"),
    "as_strided": lambda: check_target("torch.ops.aten.as_strided.default"),
    "unsafe index": lambda: check_target("torch.ops.aten._unsafe_index.Tensor"),
    "in place": lambda: check_target("torch.ops.aten.add_.Tensor"),
    "bags of indices": lambda: check_target("torch.ops.aten.embedding_bag.default"),
    "pivots": lambda: check_target("torch.ops.aten.linalg_lu_solve.default"),
    "a library's own": lambda: check_target("torch.ops.quantized.add.default"),
    "a function of torch": lambda: check_target("torch.load"),
    "a way around": lambda: check_target("torch.ops.aten.relu.default.__globals__"),
    "a function of Python": lambda: check_target("_operator.attrgetter"),
    "a text for a tensor": lambda: called("aten.relu.default", self={"as_string": CODE}),
    "a tensor for a number": lambda: called("aten.softmax.int", self=X, dim={"as_tensor": {"name": "x"}}),
    "a text for a dtype": lambda: called("aten.to.dtype", self=X, dtype={"as_string": "float32"}),
    "no argument": lambda: called("aten.relu.default"),
    "another argument": lambda: called("aten.relu.default", self=X, other=X),
    "a large power": lambda: number("_operator.pow", 10, 10**9),
}  # fmt: skip

X = {"as_tensor": {"name": "x"}}


def called(op: str, **arguments: Any) -> None:
    check_target(f"torch.ops.{op}")
    check_call({"target": f"torch.ops.{op}", "inputs": [{"name": n, "arg": a} for n, a in arguments.items()]})


def number(target: str, *values: int) -> None:
    check_call({"target": target, "inputs": [{"name": "", "arg": {"as_int": value}} for value in values]})


@pytest.mark.parametrize("what", OPS)
def test_what_a_file_may_not_call(what: str) -> None:
    with pytest.raises(Unreadable):
        OPS[what]()


def test_what_a_file_may_call() -> None:
    called("aten.relu.default", self=X)
    called("aten.mul.Tensor", self=X, other={"as_float": 2.0})
    called("aten.conv2d.default", input=X, weight=X, bias={"as_none": True}, stride={"as_ints": [2, 2]})
    number("_operator.pow", 3, 2)
    for name in ("linalg_inv.default", "nonzero.default", "fft_rfft.default", "sym_size.int", "_assert_scalar.default"):
        check_target(f"torch.ops.aten.{name}")


def test_no_op_of_a_file_writes_or_reads_what_it_was_not_given() -> None:
    """``copy_`` writes into what it is given: a buffer, or an input that the model changes as well."""
    for op in listed():
        assert not op._schema.is_mutable or op in (torch.ops.aten.detach_.default, torch.ops.aten.copy_.default), op
        assert not any("Storage" in str(argument.type) for argument in op._schema.arguments), op


def test_an_op_of_imported_code_with_a_rule_is_one_of_the_table(monkeypatch: Any) -> None:
    torch.library.define("atograph_text::twice", "(Tensor x) -> Tensor")
    target = "torch.ops.atograph_text.twice.default"
    with pytest.raises(Unreadable):
        check_target(target)
    op = torch.ops.atograph_text.twice.default
    monkeypatch.setitem(table._TABLE, op, table._TABLE[torch.ops.aten.detach.default])
    check_target(target)
    with pytest.raises(Unreadable):
        called("atograph_text.twice.default", x={"as_string": "a"})


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.inner, self.out = nn.EmbeddingBag(9, 4), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.inner(self.bag(x)).relu())


def test_an_op_that_the_user_allows(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(ops, "_ALLOWED", set())
    x = torch.randint(9, (3, 5))
    graph = atograph.trace(Bags().eval(), x)
    slim = atograph.slim(graph, graph.plan(flops=0.7))
    slim.save(tmp_path)
    with pytest.raises(UserError, match=r"embedding_bag.*allow_ops"):
        atograph.load(tmp_path)
    atograph.allow_ops("aten.embedding_bag.padding_idx", "aten.embedding_bag.default")
    assert torch.equal(atograph.load(tmp_path)(x), slim(x))


SAVES = """import sys, torch, atograph
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)
    def forward(self, x):
        return {"y": self.b(torch.relu(self.a(x)))}
torch.manual_seed(0)
graph = atograph.trace(Net().eval(), torch.randn(2, 6))
atograph.slim(graph, graph.plan(flops=0.5)).save(sys.argv[1])
"""


@pytest.mark.long
def test_the_same_bytes_in_any_process_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a new process, and in this one, which has done much before."""
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two" / "deeper"):
        folder.mkdir(parents=True)
        (folder / "net.py").write_text(SAVES)
        if not contents:
            environment = {"PYTHONHASHSEED": "0", "PATH": "", "PYTHONPATH": ":".join(sys.path)}
            subprocess.run([sys.executable, folder / "net.py", folder / "out"], check=True, env=environment, cwd=folder)
        else:
            monkeypatch.chdir(folder)
            monkeypatch.setattr(sys, "argv", ["net.py", str(folder / "out")])
            runpy.run_path(str(folder / "net.py"), run_name="__main__")
        contents.append((folder / "out" / "slim.pt2").read_bytes())
    assert contents[0] == contents[1]
    for path in (tmp_path, Path(__file__).parents[2], Path(sys.prefix), Path(torch.__file__).parent):
        assert str(path).encode() not in contents[0]
