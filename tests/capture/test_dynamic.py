"""Sizes besides the batch that are dynamic: the slim program is the masked network at sizes that nobody recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

import atograph
from atograph.passes.errors import UserError

HEIGHT_AND_WIDTH = {"x": {2: "4*height", 3: "4*width"}}
SEQUENCE = {"x": {1: "sequence"}}


def tokens(*shape: int) -> Tensor:
    return torch.randint(1, 40, shape)


class Net(nn.Module):
    """Modules, and a function of them and an input."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def downsampling() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        a = torch.relu(m.a(x))
        y = F.max_pool2d(F.avg_pool2d(torch.relu(m.b(a)), 3, 2, 1), 2, ceil_mode=True)
        return m.o(F.interpolate(y, size=a.shape[-2:], mode="bilinear") + a)

    return Net(forward, a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 8, 3, 2, 1), o=nn.Conv2d(8, 2, 1))


def flattened() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.relu(m.a(x))
        b, c, h, w = y.shape
        return m.o(m.l(y.reshape(b, c, h * w).transpose(1, 2)).relu()).mean(1)

    return Net(forward, a=nn.Conv2d(3, 8, 3, padding=1), l=nn.Linear(8, 12), o=nn.Linear(12, 3))


def flattened_at_half_the_size() -> nn.Module:
    """What is reshaped is as long as a product of halves of the sizes that are asked for."""
    net = flattened()
    net.a = nn.Conv2d(3, 8, 3, 2, padding=1)
    return net


def divided_by_its_length() -> nn.Module:
    """A size as a float."""

    def forward(m: Any, x: Tensor) -> Tensor:
        places = (torch.arange(x.shape[1], dtype=m.e.weight.dtype) + 0.5) / float(x.shape[1])
        return m.o(torch.relu(m.l(m.e(x)) * places[:, None]).cumsum(1) * float(2 * x.shape[1] - 1))

    return Net(forward, e=nn.Embedding(40, 12), l=nn.Linear(12, 16), o=nn.Linear(16, 3))


def channels_times_places() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.relu(m.a(x)).flatten(1)
        return m.o((y.view(x.shape[0], 8, -1) * 0.5).mean(2))

    return Net(forward, a=nn.Conv2d(3, 8, 3, padding=1), o=nn.Linear(8, 3))


def windows() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        b, c, h, w = y.shape
        parts = y.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        q, k, v = m.qkv(parts).chunk(3, -1)
        parts = torch.softmax(q @ k.transpose(1, 2) + m.bias, -1) @ v
        y = parts.view(b, h // 4, w // 4, 4, 4, -1).permute(0, 5, 1, 3, 2, 4).reshape(b, -1, h, w)
        return m.o(y)

    net = Net(forward, a=nn.Conv2d(3, 8, 1), qkv=nn.Linear(8, 36), o=nn.Conv2d(12, 2, 1))
    net.bias = nn.Parameter(torch.randn(16, 16))
    return net


def rolled_windows() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.roll(m.a(x), (-2, -2), (2, 3))
        y = F.pad(y, (0, 4, 0, 4))
        return m.o(torch.relu(torch.roll(y, (2, 2), (2, 3))))

    return Net(forward, a=nn.Conv2d(3, 8, 1), o=nn.Conv2d(8, 2, 3))


def absolute_positions() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        n = x.shape[1]
        y = m.e(x) + m.p(torch.arange(n))[None]
        mask = torch.ones(n, n, dtype=torch.bool).tril()
        q, k, v = (f(y).view(*x.shape, 4, 4).transpose(1, 2) for f in (m.q, m.k, m.v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return m.o(y)

    parts = {name: nn.Linear(16, 16) for name in "qkv"}
    return Net(forward, e=nn.Embedding(40, 16), p=nn.Embedding(64, 16), o=nn.Linear(16, 3), **parts)


def a_table_of_positions() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.e(x) + m.table[:, : x.shape[1]]
        return m.o(torch.relu(m.l(y))).mean(1)

    net = Net(forward, e=nn.Embedding(40, 12), l=nn.Linear(12, 16), o=nn.Linear(16, 3))
    net.table = nn.Parameter(torch.randn(1, 11, 12))  # as long as the example
    return net


def rotary() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        b, n = x.shape
        angles = torch.outer(torch.arange(n).float(), 1.0 / (100 ** (torch.arange(0, 4, 2).float() / 4)))
        cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()

        def turned(y: Tensor) -> Tensor:
            a, c = y.chunk(2, -1)
            return y * cos + torch.cat([-c, a], -1) * sin

        y = m.e(x)
        q, k, v = (f(y).view(b, n, 4, 4).transpose(1, 2) for f in (m.q, m.k, m.v))
        weights = (turned(q) @ turned(k).transpose(2, 3) / math.sqrt(4)).softmax(-1)
        return m.o((weights @ v).transpose(1, 2).reshape(b, n, -1))

    parts = {name: nn.Linear(16, 16) for name in "qkv"}
    return Net(forward, e=nn.Embedding(40, 16), o=nn.Linear(16, 3), **parts)


def relative_positions() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        n = x.shape[1]
        distance = (torch.arange(n)[None] - torch.arange(n)[:, None]).clamp(-3, 3) + 3
        y = m.e(x)
        scores = m.q(y) @ m.k(y).transpose(1, 2) + m.b(distance).squeeze(-1)
        return m.o(scores.softmax(-1) @ m.v(y))

    parts = {name: nn.Linear(16, 12) for name in "qkv"}
    return Net(forward, e=nn.Embedding(40, 16), b=nn.Embedding(7, 1), o=nn.Linear(12, 3), **parts)


def recurrent() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        y, _state = m.r(m.e(x))
        return m.o(y[:, -1])

    return Net(forward, e=nn.Embedding(40, 12), r=nn.LSTM(12, 10, batch_first=True), o=nn.Linear(10, 3))


def a_class_token() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.cat([m.token.expand(x.shape[0], -1, -1), m.e(x)], 1)
        y = m.l(y)
        return m.o(y[:, 0]) + m.o(y[:, 1:].mean(1))

    net = Net(
        forward, e=nn.Embedding(40, 12), l=nn.TransformerEncoderLayer(12, 2, 20, batch_first=True), o=nn.Linear(12, 3)
    )
    net.token = nn.Parameter(torch.randn(1, 1, 12))
    return net


def halves_of_a_sequence() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.relu(m.c(m.e(x).transpose(1, 2)))
        half = y.shape[-1] // 2
        return m.o(y[..., :half].mean(-1) - y[..., half:].amax(-1))

    return Net(forward, e=nn.Embedding(40, 12), c=nn.Conv1d(12, 8, 3, padding=1), o=nn.Linear(8, 3))


def thirds_of_a_sequence() -> nn.Module:
    """The last piece is as long as no simple law says: n - 2⌈n/3⌉."""

    def forward(m: Any, x: Tensor) -> Tensor:
        first, second, third = torch.relu(m.c(m.e(x).transpose(1, 2))).chunk(3, 2)
        return m.o(torch.cat([third, second, first], 2).transpose(1, 2))

    return Net(forward, e=nn.Embedding(40, 12), c=nn.Conv1d(12, 8, 3, padding=1), o=nn.Linear(8, 3))


def a_pyramid() -> nn.Module:
    """Maps of a quarter of the size are put beside the image: it has to be a multiple of 16."""

    def forward(m: Any, x: Tensor) -> Tensor:
        a = torch.relu(m.a(x))
        b = torch.relu(m.b(F.max_pool2d(a, 4)))
        c = torch.relu(m.c(F.max_pool2d(b, 4)))
        return m.o(torch.cat([a, F.interpolate(b, scale_factor=4.0), F.interpolate(c, scale_factor=16.0)], 1))

    return Net(
        forward, a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 8, 3, padding=1), c=nn.Conv2d(8, 8, 1),
        o=nn.Conv2d(24, 2, 1),
    )  # fmt: skip


def a_window() -> nn.Module:
    """As long as the example: shorter inputs are refused by the model."""
    return nn.Sequential(nn.Embedding(40, 12), Turned(nn.Conv1d(12, 8, 11)), nn.ReLU(), nn.Linear(8, 3))


class Turned(nn.Module):
    """A layer of channels, for what has its channels last."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        turned: Tensor = self.layer(x.transpose(1, 2)).transpose(1, 2)
        return turned


def two_convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


@dataclass
class Case:
    make: Callable[[], nn.Module]
    dynamic: dict[str, dict[int, str]]
    example: Tensor
    others: Sequence[Tensor]


IMAGES = (torch.randn(2, 3, 16, 20), (torch.randn(1, 3, 8, 12), torch.randn(3, 3, 40, 16), torch.randn(2, 3, 4, 4)))
TEXTS = (tokens(2, 11), (tokens(1, 2), tokens(3, 7), tokens(2, 10), tokens(1, 1)))
CASES = [
    *(
        Case(make, HEIGHT_AND_WIDTH, *IMAGES)
        for make in (downsampling, flattened, flattened_at_half_the_size, channels_times_places, windows)
    ),
    Case(rolled_windows, {"x": {2: "height", 3: "width"}}, *IMAGES),
    Case(two_convolutions, {"input": {2: "height", 3: "width"}}, IMAGES[0], IMAGES[1][:2]),
    *(
        Case(make, SEQUENCE, *TEXTS)
        for make in (
            absolute_positions,
            rotary,
            relative_positions,
            recurrent,
            a_class_token,
            divided_by_its_length,
        )
    ),
    *(Case(make, SEQUENCE, TEXTS[0], TEXTS[1][:3]) for make in (halves_of_a_sequence, a_table_of_positions)),
    Case(thirds_of_a_sequence, SEQUENCE, TEXTS[0], (tokens(1, 12), tokens(3, 7), tokens(2, 10))),
    Case(a_pyramid, {"x": {2: "height", 3: "width"}}, torch.randn(2, 3, 32, 64), (torch.randn(1, 3, 48, 16),)),
    Case(a_window, {"input": {1: "length"}}, TEXTS[0], (tokens(1, 12), tokens(2, 40))),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.make.__name__)
def test_exact_at_other_sizes(case: Case, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = case.make().eval().double()
    jitter(model)
    graph = atograph.trace(model, double(case.example), dynamic=case.dynamic)
    assert not graph.program.interface.still
    assert len(graph.program.interface.dynamic) == len(next(iter(case.dynamic.values())))
    plan = graph.plan(random=0, keep=0.5)
    assert plan.kept, "nothing would be shown"
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    with torch.no_grad():
        for x in (case.example, *case.others):
            torch.testing.assert_close(slim(double(x)), masked(double(x)), rtol=1e-9, atol=1e-9)
            assert not torch.allclose(masked(double(x)), model(double(x)), rtol=1e-6)


def double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def jitter(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


@pytest.mark.long
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.make in (windows, a_class_token, recurrent, divided_by_its_length)],
    ids=lambda case: case.make.__name__,
)  # fmt: skip
def test_in_onnx_runtime(case: Case, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = case.make().eval()
    jitter(model)
    graph = atograph.trace(model, case.example, dynamic=case.dynamic)
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    session = onnxruntime.InferenceSession(slim.to_onnx(tmp_path / "slim.onnx"))
    (taken,) = session.get_inputs()
    names = next(iter(case.dynamic.values()))
    assert [taken.shape[dim] for dim in (0, *names)] == ["batch", *names.values()]
    for x in (case.example, *case.others[:2]):
        (found,) = session.run(None, {taken.name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), slim(x), rtol=1e-4, atol=1e-5)


def pair() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


FORMS: list[Any] = [
    {"input": {1: "length"}},
    {"input": {1: Dim("length")}},
    {"input": {-2: "length"}},
    {"input": {0: "batch", 1: Dim("length", min=2, max=64)}},
    ({1: Dim("length")},),
    {"input": (None, "length", None)},
    ["input:1=length"],
    "0:1=2<=length<=64",
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_forms(form: Any) -> None:
    (size,) = atograph.trace(pair(), torch.randn(2, 6, 4), dynamic=form).program.interface.dynamic
    assert size.name == "length" and [(p.dim, p.multiple) for p in size.places] == [(1, 1)]


def test_derived_and_unnamed_dims() -> None:
    dim = Dim("half")
    (size,) = atograph.trace(pair(), torch.randn(2, 6, 4), dynamic={"input": {1: 2 * dim}}).program.interface.dynamic
    assert (size.name, size.values[0], size.places[0].multiple) == ("half", 3, 2)
    (size,) = atograph.trace(pair(), torch.randn(2, 6, 4), dynamic={"input": {1: Dim.AUTO}}).program.interface.dynamic
    assert size.name == "input_1"


REFUSED = [
    (True, "does not say which"),
    ({"y": {1: "n"}}, "names 'y'"),
    ({"input": {7: "n"}}, "names its dim 7"),
    ({"input": {1: "n + 1"}}, "names no size"),
    ({"input": {1: "4*n"}}, "no multiple of 4"),
    ({"input": {1: "n", 2: "n"}}, "n is 6 in dim 1 of input, and 4 in dim 2"),
    ({"input": 3}, "names no dims"),
    (["input:1"], "names no size of an input"),
    (["input:1=9<=n"], "not within the limits"),
]


@pytest.mark.parametrize(("form", "text"), REFUSED, ids=[text for _form, text in REFUSED])
def test_what_names_no_size_is_refused(form: Any, text: str) -> None:
    with pytest.raises(UserError, match=text):
        atograph.trace(pair(), torch.randn(2, 6, 4), dynamic=form)


def test_a_size_of_one_is_no_example() -> None:
    with pytest.raises(UserError, match="2 or more"):
        atograph.trace(pair(), torch.randn(2, 1, 4), dynamic={"input": {1: "n"}})


def test_calls_of_other_sizes_are_told_apart() -> None:
    graph = atograph.trace(pair(), torch.randn(2, 6, 4), dynamic={"input": {1: 2 * Dim("half", min=2, max=8)}})
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    assert slim(torch.randn(3, 12, 4)).shape == (3, 12, 3)
    for length in (7, 2, 18):
        with pytest.raises(UserError, match=r"\[s0, 2\*half, 4\], half from 2 to 8, and was called with"):
            slim(torch.randn(3, length, 4))


def test_a_size_that_the_code_fixes_is_named_with_the_line() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.relu(m.a(x))
        return m.o(sum(y[:, i] for i in range(x.shape[1])))  # a loop over the sequence

    model = Net(forward, a=nn.Linear(4, 8), o=nn.Linear(8, 3)).eval()
    graph = atograph.trace(model, torch.randn(2, 6, 4), dynamic=SEQUENCE)
    assert not graph.program.interface.dynamic
    assert "sequence is fixed to the example's size" in str(graph) and "test_dynamic.py:" in str(graph)
    slim = atograph.slim(graph, graph.plan(flops=0.5))
    with pytest.raises(UserError, match=r"\[s0, 6, 4\]"):
        slim(torch.randn(2, 7, 4))


def test_static() -> None:
    graph = atograph.trace(pair(), torch.randn(1, 6, 4), dynamic=False)
    assert "The batch is fixed" in str(graph)
    with pytest.raises(UserError):
        atograph.slim(graph, graph.plan(flops=0.5))(torch.randn(2, 6, 4))


def test_the_text_names_the_sizes() -> None:
    graph = atograph.trace(downsampling().eval(), torch.randn(2, 3, 16, 20), dynamic=HEIGHT_AND_WIDTH)
    text = atograph.passes.format_program(graph.program)
    assert "input %x : f32[s0, 3, 4*height, 4*width]" in text
    assert "f32[s0, g0=8, 2*height, 2*width]" in text
    assert "Dynamic besides the batch: 4*height, 4*width." in str(graph)


def test_names_are_in_the_program_file(tmp_path: Any) -> None:
    graph = atograph.trace(pair(), torch.randn(2, 6, 4), dynamic={"input": {1: "length"}})
    atograph.slim(graph, graph.plan(flops=0.5)).save(tmp_path)
    from atograph.passes.ir.exported.notes import size_names
    from atograph.program.load import load_program

    assert size_names(load_program(tmp_path)) == {"input": {1: "length"}}
    assert atograph.load(tmp_path)(torch.randn(1, 9, 4)).shape == (1, 9, 3)


def test_many_sizes_that_depend_on_the_data() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.relu(m.a(x))
        for step in range(5):
            y = y[y[:, step] >= 0]  # all of them, which no one knows beforehand
        return m.o(y)

    model = Net(forward, a=nn.Linear(4, 12), o=nn.Linear(12, 3)).eval().double()
    graph = atograph.trace(model, torch.randn(6, 4).double())
    plan = graph.plan(random=0, keep=0.5)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    for count in (1, 9):
        x = torch.randn(count, 4).double()
        torch.testing.assert_close(slim(x), masked(x), rtol=1e-9, atol=1e-9)


def test_a_graph_of_any_size() -> None:
    """Messages along edges, weighted by degrees: nodes are the batch, edges another size."""

    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            for layer in (self.a, self.b):
                source, target = edges
                ones = torch.ones(edges.shape[1], dtype=x.dtype)
                degrees = torch.zeros(x.shape[0], dtype=x.dtype).index_add(0, target, ones) + 1
                weights = (degrees[source] * degrees[target]).rsqrt()[:, None]
                y = layer(x)
                x = torch.relu(y / degrees[:, None] + torch.zeros_like(y).index_add(0, target, y[source] * weights))
            return x

    model = Convolution().double().eval()
    jitter(model)
    graph = atograph.trace(
        model, (torch.randn(6, 5).double(), torch.randint(6, (2, 14))), dynamic={"edges": {1: "edges"}}
    )
    assert [size.name for size in graph.program.interface.dynamic] == ["edges"]
    plan = graph.plan(random=0, keep=0.5)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    for nodes, edges in ((6, 14), (3, 5), (11, 40)):
        inputs = torch.randn(nodes, 5).double(), torch.randint(nodes, (2, edges))
        torch.testing.assert_close(slim(*inputs), masked(*inputs), rtol=1e-9, atol=1e-9)


def scaled(forward: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    return Net(forward, a=nn.Linear(6, 8), o=nn.Linear(8, 3))


def branching(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.o(y.relu() if x.shape[1] > 30 else y.tanh())


def cached(m: Any, x: Tensor) -> Tensor:
    if x.shape[1] > len(getattr(m, "table", ())):
        m.table = torch.sin(torch.arange(x.shape[1]).to(x.dtype))
    return m.o(m.a(x).relu() * m.table[: x.shape[1], None])


LIMITED: list[tuple[str, Callable[[Any, Tensor], Tensor], int, int | None]] = [
    ("a slice that takes all at the sizes recorded", lambda m, x: m.o(m.a(x).relu()[:, :20]), 1, 20),
    ("the same, far away", lambda m, x: m.o(m.a(x).relu()[:, :64]), 1, 64),
    ("a condition", branching, 1, 30),
    ("the smaller of two", lambda m, x: m.o(m.a(x).relu()).sum(1) / torch.arange(min(x.shape[1], 50)).sum(), 1, 50),
    ("the larger of two", lambda m, x: m.o(m.a(x).relu()).sum(1) / torch.arange(max(x.shape[1], 4)).sum(), 4, None),
    ("so many of them", lambda m, x: m.o(m.a(x).relu().topk(min(x.shape[1], 4), 1)[0]), 4, None),
    ("a table that grows", cached, 1, 11),
]


@pytest.mark.parametrize(("forward", "least", "most"), [row[1:] for row in LIMITED], ids=[row[0] for row in LIMITED])
def test_limits_where_the_code_does_something_else(
    forward: Callable[[Any, Tensor], Tensor], least: int, most: int | None
) -> None:
    model = scaled(forward).eval().double()
    example = torch.randn(2, 11, 6).double()
    model(example)
    graph = atograph.trace(model, example, dynamic={"x": {1: "n"}})
    (size,) = graph.program.interface.dynamic
    assert (size.least, size.most) == (least, most) and "n has limits" in str(graph)
    plan = graph.plan(random=0, keep=0.5)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    for length in (least, most or 300):
        x = torch.randn(1, length, 6).double()
        torch.testing.assert_close(slim(x), masked(x), rtol=1e-9, atol=1e-9)
    for length in (least - 1, *([most + 1] if most else [])):
        if length:
            with pytest.raises(UserError, match="n from "):
                slim(torch.randn(1, length, 6).double())


def test_a_law_that_fits_by_chance_is_none() -> None:
    for forward in (
        lambda m, x: m.o(m.a(x).relu()[:, : round(x.shape[1] * 0.3) + 1]),
        lambda m, x: m.o(m.a(x).relu()[:, : math.isqrt(x.shape[1])]),
        lambda m, x: m.o(m.a(x).relu()[:, : x.shape[1].bit_length()]),
    ):
        graph = atograph.trace(scaled(forward).eval(), torch.randn(2, 11, 6), dynamic={"x": {1: "n"}})
        assert "takes another number" in graph.program.interface.still["n"]


def test_decisions_of_torch_export_are_limits() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x).relu()
        y = y[:, : y.shape[1] - y.shape[1] % 7 + 7]  # the first number is another one everywhere
        return m.o(y if x.shape[1] > 4 else y.tanh())

    graph = atograph.trace(scaled(forward).eval(), torch.randn(2, 11, 6), dynamic={"x": {1: "n"}})
    for size in graph.program.interface.dynamic:
        assert size.least == 5


def test_a_slice_from_the_end_of_fewer() -> None:
    model = scaled(lambda m, x: m.o(m.a(x)[:, -3:].relu())).eval().double()
    graph = atograph.trace(model, torch.randn(2, 11, 6).double(), dynamic={"x": {1: "n"}})
    plan = graph.plan(random=0, keep=0.5)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    for length in (1, 2, 3, 40):
        x = torch.randn(1, length, 6).double()
        torch.testing.assert_close(slim(x), masked(x), rtol=1e-9, atol=1e-9)


def test_places_dealt_to_channels() -> None:
    """Whether they fit depends on the size: that is no failure of the capture."""
    model = scaled(lambda m, x: m.o(m.a(x).relu().transpose(1, 2).reshape(x.shape[0], -1, 8))).eval().double()
    graph = atograph.trace(model, torch.randn(2, 8, 6).double(), dynamic={"x": {1: "n"}})
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    x = torch.randn(1, 5, 6).double()
    torch.testing.assert_close(slim(x), model(x), rtol=1e-9, atol=1e-9)


def test_a_table_is_read_to_its_end() -> None:
    """Of a table that is read as a whole, Python takes no slice."""
    for end in (lambda m, n: m.table[:n], lambda m, n: m.table[0:n, :], lambda m, n: m.table[-n:]):
        model = scaled(lambda m, x, end=end: m.o((m.a(x) + end(m, x.shape[1])).relu()))  # type: ignore[misc]
        model.table = nn.Parameter(torch.randn(40, 8))
        model.eval().double()
        graph = atograph.trace(model, torch.randn(2, 11, 6).double(), dynamic={"x": {1: "n"}})
        (size,) = graph.program.interface.dynamic
        assert (size.least, size.most) == (1, 40)
        plan = graph.plan(random=0, keep=0.5)
        slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
        for length in (1, 39, 40):
            x = torch.randn(1, length, 6).double()
            torch.testing.assert_close(slim(x), masked(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [10, 12, 7])
def test_a_table_that_is_resized_unless_it_fits(length: int) -> None:
    """It fits at one of the sizes that are tried first; that is a condition then, and no reason to fix the size."""

    def forward(m: Any, x: Tensor) -> Tensor:
        n, table = x.shape[1], m.table
        if n != table.shape[2]:
            table = F.interpolate(table, size=n, mode="linear")
        return m.o((m.a(x) + table.transpose(1, 2)).relu())

    model = scaled(forward)
    model.table = nn.Parameter(torch.randn(1, 8, length))
    graph = atograph.trace(model.eval().double(), torch.randn(2, 11, 6).double(), dynamic={"x": {1: "n"}})
    assert not graph.program.interface.still
    plan = graph.plan(random=0, keep=0.5)
    slim, masked = atograph.slim(graph, plan), atograph.mask(model, plan)
    for other in (3, 11, 30):
        x = torch.randn(1, other, 6).double()
        torch.testing.assert_close(slim(x), masked(x), rtol=1e-9, atol=1e-9)
    assert f"n != {length}" in str(graph)
    assert f"n = {length}" in slim.why_not(torch.randn(1, length, 6).double())


def test_a_float_in_another_place_fixes_the_size() -> None:
    """Rules and files take it as a plain number there."""
    for forward in (
        lambda m, x: m.o(F.pad(m.a(x), (0, 0, 1, 1), value=float(x.shape[1]))),
        lambda m, x: m.o(F.softplus(m.a(x), beta=float(x.shape[1]))),
    ):
        graph = atograph.trace(scaled(forward).eval(), torch.randn(2, 11, 6), dynamic={"x": {1: "n"}})
        assert "it takes the number 11.0" in graph.program.interface.still["n"]


def test_a_size_is_read_where_it_is_and_not_computed() -> None:
    """Of formulas of the input's sizes, torch.export would have to prove that they are the sizes of what is there."""

    def forward(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = (y := torch.relu(m.a(x))).shape
        tokens = torch.relu(m.l(y.flatten(2).transpose(1, 2)))
        heads = tokens.reshape(b, h * w, 2, -1).transpose(1, 2)
        tokens = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(b, h * w, -1)
        return m.o(torch.relu(m.k(tokens)).transpose(1, 2).reshape(b, c, h, w))

    net = Net(
        forward, a=nn.Conv2d(3, 8, 7, 4, 3), l=nn.Linear(8, 12), k=nn.Linear(12, 8), o=nn.Conv2d(8, 3, 1)
    ).double()
    graph = atograph.trace(
        net, torch.randn(2, 3, 32, 24, dtype=torch.float64), dynamic={"x": {2: "8*rows", 3: "8*cols"}}
    )
    slim = atograph.slim(graph, graph.plan(random=0, keep=0.5))
    for program in (graph.program, slim.passes_program):
        assert [size.name for size in program.interface.dynamic] == ["rows", "cols"]
        computed = [node for node in program.graph.nodes if getattr(node.target, "__module__", "") == "_operator"]
        assert not computed
    x = torch.randn(1, 3, 40, 64, dtype=torch.float64)
    assert torch.allclose(slim.program.module()(x), slim(x), rtol=1e-9, atol=1e-12)
