"""The command line: exit codes, one paragraph per mistake, and nothing heavy before a command runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from sample_report import REPORT
from typer.testing import CliRunner, Result

from atograph.cli.app import app
from atograph.cli.compress import train_settings
from atograph.passes.errors import InternalError, UserError
from atograph.train.pruning.selection import BY_CRITERION

NET = """
    import torch
    from torch import nn
    def model(): return nn.Linear(3, 2)
    def train_data(): return [(torch.ones(4, 3), torch.zeros(4, dtype=torch.long))]
"""


def atograph(*args: str) -> Result:
    return CliRunner().invoke(app, args)


@pytest.mark.parametrize("option", [("--optimizer", "adamw"), ("--weight-decay=0.1",), ("--weight_decay", "0.1")])
def test_a_setting_as_an_option(option: tuple[str, ...]) -> None:
    done = atograph("compress", "net.py", *option)
    name = option[0].partition("=")[0].lstrip("-").replace("-", "_")
    assert done.exit_code == 2 and f"--set {name}=VALUE" in done.stderr and "Possible" not in done.stderr


def test_what_is_no_option_and_no_setting() -> None:
    done = atograph("compress", "net.py", "--epoch", "3")
    assert done.exit_code == 2 and "--epochs" in done.stderr and "--set" not in done.stderr


IN_OTHER_WORDS = [
    ("compress net.py --flops 0.5 --int8", "--int8. It is made of a finished run: atograph export RUN --int8"),
    ("compress net.py --quantize", "atograph export RUN --int8"),
    *((f"compress net.py --{name}", "atograph export RUN --fp16") for name in ("fp16", "float16", "half")),
    *((f"{name} net.py", "atograph compress SPEC") for name in ("prune", "optimize", "slim", "train")),
    ("quantize runs/net", "No such command 'quantize'. It is: atograph export RUN --int8"),
    ("comprss net.py", "Did you mean 'compress'"),
]


@pytest.mark.parametrize(("typed", "message"), IN_OTHER_WORDS)
def test_what_other_tools_call_it(typed: str, message: str) -> None:
    done = atograph(*typed.split())
    assert done.exit_code == 2 and message in done.stderr and "Possible" not in done.stderr


def test_a_file_that_is_not_there_is_told_before_torch_is_loaded(net: Path) -> None:
    code = "import sys; from atograph.cli.app import app; app(standalone_mode=False)"
    code = f"try:\n    {code}\nfinally:\n    print('torch' in sys.modules)"
    call = [sys.executable, "-c", code, "compress", "conv.pt", "--flops", "0.5"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: conv.pt: no such file.\n") and done.stdout == "False\n"


def test_no_such_setting_tells_where_they_are() -> None:
    with pytest.raises(UserError, match=r"no training setting 'nonsense'.*docs/settings.md.*settings/fields.py"):
        train_settings({}, ["nonsense=3"])
    with pytest.raises(UserError, match=r"Perhaps optimizer.*docs/settings.md"):
        train_settings({}, ["optimiser=adamw"])


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net.py").write_text(dedent(NET))
    return tmp_path


@pytest.fixture
def compress_spec(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Puts a function in the place of the whole of the work."""

    def install(function: Callable[..., Any]) -> None:
        module = ModuleType("atograph.run.compress")
        module.compress_spec = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "atograph.run.compress", module)

    return install


BAD = [
    ([], "error: say how much to keep. --flops 0.3 keeps 30 % of the FLOPs"),
    (["--flops", "0"], "error: --flops 0 is out of range: it is the share to keep, above 0 and at most 1."),
    (["--flops", "-0.3"], "error: --flops -0.3 is out of range"),
    (["--flops", "1.5"], "error: --flops 1.5 is out of range"),
    (["--flops", "30"], "error: --flops 30 is out of range"),
    (["--flops", "nan"], "error: --flops nan is out of range"),
    (
        ["--flops", "0.3", "--epochs", "0"],
        "error: training settings: epochs=0 trains nothing, but this method prunes while it trains",
    ),
    (["--flops", "0.3", "--set", "gamma"], "error: --set gamma is not of the form KEY=VALUE."),
    (["--flops", "0.3", "--set", "gama=1"], "error: there is no training setting 'gama'. Perhaps gamma"),
    (
        ["--set", "flops=30"],
        "error: flops 30 is out of range: it is the share to keep, above 0 and at most 1. 30 % is 0.3: ",
    ),
    (["--flops", "0.3", "--set", "flops=1"], "error: --set flops=1: `flops` was given twice."),
    (["--flops", "0.3", "--set", "gamma=x"], "error: training setting gamma: expected a number, got 'x'."),
    (["--flops", "0.3", "--set", "search_end=0.9"], "error: training settings: "),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options_are_one_paragraph(net: Path, options: list[str], message: str) -> None:
    result = atograph("compress", "net.py", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1
    assert [path.name for path in net.iterdir()] == ["net.py"]


FILES = [
    ("", "nosuch.py", "error: nosuch.py: no such file.\n"),
    (
        "x = 1",
        "bad.py",
        "error: bad.py: the file defines no `model`. Define model() returning a torch.nn.Module.\n",
    ),
    (
        "def model(): ...",
        "bad.py",
        "error: bad.py: the file defines no `train_data`. Define train_data() returning",
    ),
]


@pytest.mark.parametrize(("text", "spec", "message"), FILES)
def test_bad_files_are_one_paragraph(net: Path, text: str, spec: str, message: str) -> None:
    (net / "bad.py").write_text(text)
    result = atograph("compress", spec, "--flops", "0.3")
    assert result.exit_code == 2
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1
    assert not (net / "runs").exists()


def test_a_syntax_error_shows_its_own_traceback_and_nothing_of_ours(net: Path) -> None:
    (net / "bad.py").write_text("def model(:\n")
    result = atograph("compress", "bad.py", "--flops", "0.3")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[0] == f'  File "{net / "bad.py"}", line 1'
    assert lines[1].strip() == "def model(:" and lines[3].startswith("SyntaxError: ")
    assert lines[4:] == ["error: bad.py: SyntaxError was raised while importing the file."]


def test_what_goes_to_the_work(net: Path, compress_spec) -> None:
    got: dict[str, Any] = {}

    def fake(spec: Any, **options: Any) -> Any:
        got.update(options, spec=spec)
        raise UserError("stop here")

    compress_spec(fake)
    options = "--flops 0.25 --epochs 3 --seed 7 --round-to 8 --floor 0.1 --lr 0.5 --device cpu --set gamma=2 "
    options += "--set weight_decay=none --force --resume --baseline --opset 20 --init w.pt --out o "
    options += "--method magnitude --precision bfloat16 --accumulate 2 --compile --slim-at never --tensorboard tb "
    options += "--target onnx --target pt2"
    atograph("compress", "net.py", *options.split())
    settings = got.pop("settings")
    assert got.pop("spec").name == "net"
    assert (settings.flops, settings.epochs, settings.seed, settings.gamma) == (0.25, 3, 7, 2.0)
    assert (settings.lr, settings.device, settings.weight_decay) == (0.5, "cpu", None)
    assert (settings.floor, settings.round_to) == (0.1, 8)
    got.pop("console")
    assert got == {
        "out": Path("o"),
        "force": True,
        "resume": True,
        "init": Path("w.pt"),
        "baseline": True,
        "opset": 20,
        "targets": ["onnx", "pt2"],
        "tensorboard": Path("tb"),
        "selection": BY_CRITERION,
    }


def test_the_default_folder_is_named_after_the_spec(net: Path, compress_spec) -> None:
    def fake(spec: Any, *, out: Path, **_: Any) -> Any:
        raise UserError(str(out))

    compress_spec(fake)
    result = atograph("compress", "net.py:model", "--flops", "1")
    assert result.stderr == "error: runs/net-model\n"


ENDS = [
    (UserError("no way.", where="here", hint="Do this."), 2, "error: here: no way. Do this.\n"),
    (
        InternalError("shapes differ."),
        70,
        "internal error: shapes differ. This is a bug in atograph; please report",
    ),
    (KeyboardInterrupt(), 130, "interrupted (training, epoch 3 of 10, step 17): nothing was written, and an"),
]


@pytest.mark.parametrize(("error", "code", "message"), ENDS, ids=["user", "internal", "interrupt"])
def test_every_end_has_its_code_and_message(
    net: Path, compress_spec, error: BaseException, code: int, message: str
) -> None:
    def fake(spec: Any, *, console: Any, **_: Any) -> Any:
        progress = console.progress("training")
        progress.start(10, 20)
        progress.step(3, 17, 0.5, 1.0)
        raise error

    compress_spec(fake)
    result = atograph("compress", "net.py", "--flops", "0.3")
    assert result.exit_code == code
    assert result.stderr.startswith(message)
    assert "Traceback" not in result.stderr


def test_a_bug_is_shown_in_full(net: Path, compress_spec) -> None:
    def fake(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    compress_spec(fake)
    assert isinstance(atograph("compress", "net.py", "--flops", "0.3").exception, ZeroDivisionError)


def test_settings_come_from_options_and_assignments() -> None:
    settings = train_settings({"epochs": 4, "lr": None}, ["temperature=0.5", "controller=false"])
    assert (settings.epochs, settings.lr, settings.temperature, settings.controller) == (4, None, 0.5, False)


def test_quiet_prints_only_the_table(net: Path, compress_spec) -> None:
    def fake(spec: Any, *, console: Any, **_: Any) -> Any:
        console.say("news")
        console.progress("training").start(1, None)
        console.warn("careful")
        return SimpleNamespace(report=REPORT)

    compress_spec(fake)
    loud = atograph("compress", "net.py", "--flops", "0.3")
    quiet = atograph("compress", "net.py", "--flops", "0.3", "--quiet")
    assert loud.exit_code == quiet.exit_code == 0
    assert loud.stdout.startswith("news\n") and "\nwritten to runs/net\nnext: atograph.load" in loud.stdout
    (net / "runs" / "net").mkdir(parents=True)
    (net / "runs" / "net" / "report.html").touch()  # named only where it could be drawn
    drawn = atograph("compress", "net.py", "--flops", "0.3")
    assert "\nnext: open runs/net/report.html; atograph.load" in drawn.stdout
    assert "parameters" in quiet.stdout and "news" not in quiet.stdout and "written" not in quiet.stdout
    assert loud.stderr == quiet.stderr == "warning: careful\n"


def test_opt_prints_the_program_after_a_pipeline(net: Path) -> None:
    result = atograph("opt", "net.py", "--passes", "functionalize,infer-axes,find-groups")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("program {\n") and "weight" in result.stdout
    again = atograph("opt", "net.py", "--passes", "functionalize,infer-axes,find-groups", "--out", "text")
    assert again.stdout == "written to text\n" and (net / "text").read_text() == result.stdout


def test_opt_prints_after_every_pass_and_needs_no_data(net: Path) -> None:
    (net / "bare.py").write_text(
        "import torch\ndef model(): return torch.nn.Linear(3, 2)\ndef example_inputs(): return torch.ones(2, 3)\n"
    )
    result = atograph("opt", "bare.py", "--passes", "functionalize,infer-axes", "--print-after-all")
    assert result.exit_code == 0, result.stderr
    headings = [line for line in result.stdout.splitlines() if line.startswith("after ")]
    assert headings == ["after functionalize:", "after infer-axes:"]


BAD_PIPELINES = [
    ("nope", "error: there is no pass 'nope'. "),
    (
        "infer-axes{",
        "error: the options of the pass 'infer-axes' have no end: a quote or the brace is not closed in '{'. ",
    ),
    ("slim{plan=none.json}", "error: none.json: cannot read the plan: No such file or directory."),
    ("slim{plan=net.py}", "error: net.py: this is not a valid plan: "),
]


@pytest.mark.parametrize(("passes", "message"), BAD_PIPELINES)
def test_bad_pipelines_are_one_paragraph(net: Path, passes: str, message: str) -> None:
    result = atograph("opt", "net.py", "--passes", passes)
    assert result.exit_code == 2
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1


# What only a process of its own can show --------------------------------------------------------------


def run(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False, **options)


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    heavy = {"torch", "onnx", "onnxruntime", "onnxscript", "networkx", "numpy", "safetensors"}
    code = "import sys, atograph.cli.app; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    assert heavy.isdisjoint(run("-c", code).stdout.split())


def test_help_answers_at_once() -> None:
    before = os.times()
    result = run("-m", "atograph", "--help")
    after = os.times()
    assert result.returncode == 0 and "compress" in result.stdout and "opt" in result.stdout
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 0.5  # seconds of processor time, whatever else the machine does


@pytest.mark.long
def test_version_and_no_arguments() -> None:
    assert run("-m", "atograph", "--version").stdout.startswith("atograph 0.")
    assert run("-m", "atograph").returncode == 2
    assert run("-m", "atograph", "compress").returncode == 2


@pytest.mark.long
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_leave_nothing_behind(net: Path, sent: signal.Signals, code: int) -> None:
    work = dedent("""
        import sys, time
        from pathlib import Path
        from types import ModuleType
        from atograph.files.run_folder import RunFolder
        module = ModuleType("atograph.run.compress")
        def compress_spec(spec, *, out, force, console, **_):
            console.phase("training, epoch 1 of 2")
            with RunFolder(out, force=force) as folder:
                (folder / "half").write_text("half")
                print("ready", flush=True)
                time.sleep(30)
        module.compress_spec = compress_spec
        sys.modules["atograph.run.compress"] = module
        from atograph.cli.app import main
        sys.argv = ["atograph", "compress", "net.py", "--flops", "0.3"]
        main()
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", work], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=net,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(sent)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in err
    how = "interrupted" if sent == signal.SIGINT else f"ended by {sent.name}"
    assert err == f"{how} (training, epoch 1 of 2): nothing was written, and an earlier run is as it was.\n"
    assert {path.name for path in net.iterdir()} - {"__pycache__"} == {"net.py"}
