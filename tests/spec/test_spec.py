"""Loading the user's file: what is accepted, and the one paragraph for each thing that is not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import nn

from atograph.passes.errors import UserError
from atograph.spec.example_inputs import Inputs, as_inputs, check_accepts, inputs_of_batch
from atograph.spec.spec import load_spec
from atograph.values.user_code import UserCodeError

Write = Callable[..., str]

GOOD = """
    import torch
    from torch import nn

    def model():
        return nn.Linear(3, 2)

    def train_data():
        return [(torch.ones(4, 3), torch.zeros(4, dtype=torch.long))] * 2
"""


@pytest.fixture(autouse=True)
def _restore_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "net", raising=False)  # that another test has loaded
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "net.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return name

    return write


@pytest.mark.parametrize(
    ("file", "text", "name", "factory"),
    [
        ("net.py", "net.py", "net", "model"),
        ("net.py", "./net.py", "net", "model"),
        ("net.py", "net.py:model", "net-model", "model"),
        ("pack/net_of_pack.py", "pack.net_of_pack", "net_of_pack", "model"),
        ("pack/net_of_pack.py", "pack.net_of_pack:model", "net_of_pack-model", "model"),
        ("net.py", "net.py:nn.Identity", "net-nn-Identity", "nn.Identity"),
    ],
)
def test_every_form_of_spec_loads(write: Write, file: str, text: str, name: str, factory: str) -> None:
    write(GOOD, file)
    spec = load_spec(text)
    assert (spec.name, spec.factory) == (name, factory)
    assert isinstance(spec.model(), nn.Module)
    assert len(spec.train_data()) == 2
    assert spec.val_data() is None and spec.example_inputs() is None
    assert spec.loss is None and spec.metric is None and spec.optimizer is None


def test_a_file_imports_its_neighbours_and_takes_no_module_s_name(write: Write) -> None:
    write("WIDTH = 5", "neighbour_of_torch.py")
    write(
        "from neighbour_of_torch import WIDTH\nfrom torch import nn\ndef model(): return nn.Linear(WIDTH, 1)",
        "torch.py",
    )
    first, second = load_spec("torch.py"), load_spec("torch.py")
    assert first.model().in_features == 5
    assert sys.modules["torch"] is torch
    assert first.module.__name__ == "user_torch" and second.module.__name__ == "user_torch_2"


BAD = [
    ("", "nosuch.py", "nosuch.py: no such file."),
    ("", "some/folder", "some/folder: no such file."),
    (
        "",
        ".",
        ".: this is a folder, neither a file nor that of a run. Give a file that defines model() and train_data().",
    ),
    (
        "",
        "no_such_module_at_all",
        "no_such_module_at_all: no module of this name. Models of libraries go by both names: timm:resnet18, "
        "torchvision:resnet18, transformers:FOLDER. A file ends in .py.",
    ),
    (
        "",
        "mobilenet_v2",
        "mobilenet_v2: no module of this name. Models of libraries go by both names: torchvision:mobilenet_v2.",
    ),
    ("", "torch.no_such_part", "torch.no_such_part: no module of this name."),
    ("", "net", "net: the file defines no `model`. Define model() returning a torch.nn.Module."),
    ("", "conv.pt", "conv.pt: no such file."),
    ("", "my-weights.safetensors", "my-weights.safetensors: no such file."),
    ("", "what is this", "what is this: neither a file nor the name of a module."),
    ("X = 1", "net.py", "net.py: the file defines no `model`. Define model() returning a torch.nn.Module."),
    (
        "def build(): ...",
        "net.py",
        "net.py: the file defines no `model`. Define model() returning a torch.nn.Module, "
        "or name a function of the file, as in net.py:build.",
    ),
    (GOOD, "net.py:build", "net.py: the file defines no `build`."),
]


@pytest.mark.parametrize(("text", "spec", "message"), BAD)
def test_what_cannot_be_loaded(write: Write, text: str, spec: str, message: str) -> None:
    write(text)
    with pytest.raises(UserError) as caught:
        load_spec(spec)
    assert str(caught.value).startswith(message)
    assert not isinstance(caught.value, UserCodeError)


LLAMA = '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'
FOLDERS = [
    (LLAMA, "of_llama", 'AutoModelForCausalLM.from_pretrained("of_llama") and whose train_data() gives batches'),
    (LLAMA, "Llama-3.2-1B", "docs/recipes/llama.md. `atograph inspect transformers:Llama-3.2-1B` shows"),
    (LLAMA, "./of/llama", 'AutoModelForCausalLM.from_pretrained("./of/llama")'),
    (LLAMA, "of.llama", 'AutoModelForCausalLM.from_pretrained("of/llama")'),
    (
        '{"model_type": "bert", "architectures": ["BertForMaskedLM"]}',
        "of_bert",
        'BertForMaskedLM.from_pretrained("of_b',
    ),
    ('{"model_type": "bert", "architectures": ["a b"]}', "of_hostile", 'AutoModel.from_pretrained("of_hostile")'),
    ('{"model_type": "bert"}', "of_bare", 'AutoModel.from_pretrained("of_bare")'),
    ('{"architecture": "resnet50"}', "of_timm", "of_timm: this is a folder, neither a file nor that of a run. Give a"),
    ("not JSON", "of_pictures", "of_pictures: this is a folder, neither a file nor that of a run. Give a"),
    ("[]", "some pictures", "some pictures: this is a folder, neither a file nor that of a run. Give a"),
]


@pytest.mark.parametrize(("config", "spec", "message"), FOLDERS)
def test_a_folder_is_told_to_be_one(write: Write, config: str, spec: str, message: str) -> None:
    write(config, f"{spec.replace('of.', 'of/')}/config.json")
    with pytest.raises(UserError) as caught:
        load_spec(spec)
    assert message in str(caught.value) and not isinstance(caught.value, UserCodeError)


BAD_FUNCTIONS = [
    ("def model(): return 3", "net.py: `model()` returned an int, not a torch.nn.Module."),
    ("model = 3", "net.py: `model` is an int, not a function. Write `def model(...)`; atograph calls it."),
    (
        "from torch import nn\nmodel = nn.Linear(3, 2)",
        "net.py: `model` is a Linear, not a function. Write `def model(...)`; atograph calls it.",
    ),
    (
        "def model(width): ...",
        "net.py: `model(width)` cannot be called without arguments: missing a required argument: 'width'. "
        "Only a parameter named `data` is filled in, from --data.",
    ),
    (
        "def model(data): ...",
        "net.py: `model(data)` cannot be called without arguments: missing a required argument: 'data'. "
        "Give --data DIR.",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD_FUNCTIONS)
def test_a_model_function_that_gives_no_model(write: Write, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_spec(write(text)).model()
    assert str(caught.value) == message


BAD_DATA = [
    (
        "",
        "net.py: the file defines no `train_data`. Define train_data() returning an iterable of batches,",
    ),
    ("def train_data(): return 3", "net.py: `train_data()` returned an int, which cannot be iterated over."),
    ("def train_data(): return []", "net.py: `train_data()` gave no batch."),
    (
        "def train_data(): return [1]",
        "net.py: train_data(): a batch is an int, neither (inputs, targets) nor a dict.",
    ),
    (
        "def train_data(): return [(1, 2, 3)]",
        "net.py: train_data(): a batch is a tuple of length 3, neither (in",
    ),
    (
        "def train_data(): return [(1, 2)]",
        "net.py: train_data(): an int is nothing to call a model with.",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD_DATA)
def test_training_data_that_cannot_be_used(write: Write, text: str, message: str) -> None:
    spec = load_spec(write(f"def model(): ...\n{text}"))
    with pytest.raises(UserError) as caught:
        inputs_of_batch(spec.train_data().first(), where=f"{spec.where}: train_data()")
    assert str(caught.value).startswith(message)


def test_neither_data_nor_inputs(write: Write) -> None:
    with pytest.raises(UserError, match="defines neither `example_inputs` nor `train_data`"):
        load_spec(write("def model(): ...")).inputs()


RAISING = [
    ("def model(:", "", "importing the file", "SyntaxError", 'net.py", line 1'),
    ("import sys\nsys.exit(1)", "", "importing the file", "SystemExit", 'net.py", line 2'),
    ("import no_such_package", "", "importing the file", "ModuleNotFoundError", 'net.py", line 1'),
    ("def model():\n    return {}['a']", "model", "calling model()", "KeyError", 'net.py", line 2'),
    (
        "def model(): ...\ndef train_data():\n    1 / 0",
        "train_data",
        "calling train_data()",
        "ZeroDivisionError",
        "line 3",
    ),
]


@pytest.mark.parametrize(("text", "function", "doing", "kind", "line"), RAISING)
def test_what_the_file_raises_is_its_own(
    write: Write, text: str, function: str, doing: str, kind: str, line: str
) -> None:
    write(text)
    with pytest.raises(UserCodeError) as caught:
        getattr(load_spec("net.py"), function)()
    assert str(caught.value) == f"net.py: {kind} was raised while {doing}."
    shown = caught.value.traceback
    assert line in shown and kind in shown
    assert "importlib" not in shown and "atograph" not in shown.replace(str(Path.cwd()), "")


def test_syntax_error_looks_as_python_prints_it(write: Write) -> None:
    write("def model(:\n")
    with pytest.raises(UserCodeError) as caught:
        load_spec("net.py")
    lines = caught.value.traceback.splitlines()
    assert lines[0].lstrip().startswith("File") and lines[-1].startswith("SyntaxError: ")
    assert str(Path.cwd() / "net.py") not in [getattr(module, "__file__", "") for module in sys.modules.values()]


def test_a_chain_of_errors_keeps_its_links(write: Write) -> None:
    write(
        """
        def model():
            try:
                {}["a"]
            except KeyError as error:
                raise ValueError("b") from error
        """
    )
    with pytest.raises(UserCodeError) as caught:
        load_spec("net.py").model()
    shown = caught.value.traceback
    assert "direct cause" in shown and "line 4" in shown and "line 6" in shown and "spec.py" not in shown


@pytest.mark.parametrize(
    "text",
    ["raise FileNotFoundError('no data; get them')", "raise UserError('no data; get them')"],
)
def test_a_file_may_refuse_in_its_own_words(write: Write, text: str) -> None:
    write(f"from atograph.passes.errors import UserError\ndef model(): ...\ndef train_data():\n    {text}")
    with pytest.raises(UserError, match="no data; get them") as caught:
        load_spec("net.py").train_data()
    assert not isinstance(caught.value, UserCodeError)


def test_a_missing_file_of_the_system_is_no_refusal(write: Write) -> None:
    write("def model(): ...\ndef train_data(): open('nowhere')")
    with pytest.raises(UserCodeError, match="FileNotFoundError was raised"):
        load_spec("net.py").train_data()


def test_loss_metric_and_optimizer_are_guarded(write: Write) -> None:
    write(
        """
        def model(): ...
        def loss(model, batch): return batch + 1
        def metric(model, batch): raise ValueError("bad")
        """
    )
    spec = load_spec("net.py")
    assert spec.loss is not None and spec.loss(None, 1) == 2 and spec.optimizer is None
    assert spec.metric is not None
    with pytest.raises(UserCodeError, match=r"ValueError was raised while calling metric\(\)"):
        spec.metric(None, 1)


def test_batches_can_be_read_again(write: Write) -> None:
    write(
        """
        def model(): ...
        def train_data():
            yield 1
            yield 2
        def val_data():
            yield 3
            raise OSError("disk")
        """
    )
    spec = load_spec("net.py")
    train = spec.train_data()
    assert [list(train), list(train), train.first()] == [[1, 2], [1, 2], 1]
    with pytest.raises(TypeError):
        len(train)
    val = spec.val_data()
    assert val is not None
    with pytest.raises(UserCodeError, match=r"OSError was raised while reading a batch of val_data\(\)"):
        list(val)


def test_an_error_of_the_reader_is_not_the_user_s(write: Write) -> None:
    batches = load_spec(write(GOOD)).train_data()
    with pytest.raises(RuntimeError, match="ours"):
        for _ in batches:
            raise RuntimeError("ours")


def test_data_goes_to_the_functions_that_take_it(write: Write, tmp_path: Path) -> None:
    write(
        """
        def model(): ...
        def train_data(data=None): return [data]
        def val_data(): return ["no data"]
        """
    )
    spec = load_spec("net.py", data=tmp_path)
    val = spec.val_data()
    assert list(spec.train_data()) == [tmp_path] and val is not None and list(val) == ["no data"]
    assert list(load_spec("net.py").train_data()) == [None]
    with pytest.raises(UserError, match="--data was given, but none of the file's functions has a parameter `data`"):
        load_spec(write(GOOD, "other.py"), data=tmp_path)


X = torch.ones(4, 3)
INPUTS = [
    (X, Inputs((X,), {})),
    ((X, 2), Inputs((X, 2), {})),
    ([X], Inputs((X,), {})),
    ({"x": X}, Inputs((), {"x": X})),
]


@pytest.mark.parametrize(("value", "expected"), INPUTS)
def test_forms_of_inputs(value: object, expected: Inputs) -> None:
    assert as_inputs(value, where="here") == expected
    assert inputs_of_batch((value, None)) == expected


def test_a_dict_batch_gives_keywords_without_its_labels() -> None:
    assert inputs_of_batch({"x": X, "labels": X}) == Inputs((), {"x": X})
    assert str(inputs_of_batch({"x": X, "labels": X})) == "x=float32[4, 3]"
    assert inputs_of_batch(X) == Inputs((X,), {})


@pytest.mark.parametrize("value", [3, "text", (), {}, {1: X}, None])
def test_what_no_model_is_called_with(value: object) -> None:
    with pytest.raises(UserError, match=r"here: an? \w+ is nothing to call a model with. Define example_inputs"):
        as_inputs(value, where="here")


def test_example_inputs_come_first_and_batches_second(write: Write) -> None:
    assert load_spec(write(GOOD)).inputs().args[0].shape == (4, 3)
    write(GOOD + "\n    def example_inputs(): return {'input': torch.ones(7, 3)}", "given.py")
    assert load_spec("given.py").inputs().kwargs["input"].shape == (7, 3)


def test_a_model_that_rejects_the_first_batch(write: Write) -> None:
    write(
        """
        from torch import nn
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.lin = nn.Linear(5, 2)
            def forward(self, x):
                return self.lin(x)
        model = Net
        """
    )
    model = load_spec("net.py").model()
    with pytest.raises(UserError) as caught:
        check_accepts(model, Inputs((X,), {}), where="net.py: train_data()")
    message = str(caught.value)
    assert message.startswith(
        "net.py: train_data(): the model rejects the inputs float32[4, 3]: RuntimeError: mat1 and mat2"
    )
    assert "(raised at net.py:8 in forward)" in message and "\n" not in message
    assert model.training and model.lin.training


def test_a_model_that_accepts_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2).eval())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_accepts(model, Inputs((X,), {}), where="here")
    assert model.training and not model[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


_PARSING = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument({arguments})
"""


@pytest.mark.parametrize(("arguments", "missing"), [
    ("'folder'", "the following arguments are required: folder"),
    ("'--lr', required=True, type=float", "the following arguments are required: --lr"),
])  # fmt: skip
@pytest.mark.parametrize("within", [False, True])
def test_arguments_that_a_file_requires_are_named(tmp_path: Path, arguments: str, missing: str, within: bool) -> None:
    parsed = "def model():\n    parser.parse_args()" if within else "parser.parse_args()\ndef model(): ..."
    (tmp_path / "parsing.py").write_text(_PARSING.format(arguments=arguments) + parsed)
    with pytest.raises(UserError, match=missing) as raised:
        load_spec(str(tmp_path / "parsing.py")).model()
    assert not isinstance(raised.value, UserCodeError)  # one paragraph, no traceback
    doing = "while calling model()" if within else "while importing the file"
    assert doing in str(raised.value) and '__name__ == "__main__"' in str(raised.value)


@pytest.mark.parametrize("name", ["dynamic", "dynamic_shapes"])
def test_sizes_that_are_free_have_two_names(write: Write, name: str) -> None:
    """`trace` says ``dynamic`` and torch.export ``dynamic_shapes``."""
    assert load_spec(write(dedent(GOOD) + f'{name} = {{"x": {{1: "n"}}}}')).dynamic == ("x:1=n",)


def test_both_of_these_names_at_once_are_refused(write: Write) -> None:
    spec = load_spec(write(dedent(GOOD) + 'dynamic = {"x": {1: "n"}}\ndynamic_shapes = dynamic'))
    with pytest.raises(UserError, match="says `dynamic` and `dynamic_shapes`, which are the same"):
        _ = spec.dynamic
