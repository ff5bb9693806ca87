"""What someone who tried to break it has found: each case by itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from forked import begun
from networks import build
from readers import command_with, to_a_closed_stream, to_a_full_disk, to_nobody
from test_compress import SPEC, run
from torch import Tensor, nn

import atograph
from atograph.capture.to_program import capture
from atograph.files.run_folder import RunFolder
from atograph.passes.base import AnalysisPass, RewritePass
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.program import Program
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.values.difference import relative_difference


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.last = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 4)
        self.register_buffer("masked", torch.tensor([False, True, False, False]))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.last(torch.relu(self.middle(torch.relu(self.first(x))))))

    def middle(self, h: Tensor) -> Tensor:
        return self.hidden(h)

    def end(self, y: Tensor) -> Tensor:
        return y


def compress(model: nn.Module, **options: Any) -> Any:
    torch.manual_seed(0)
    batches = [(torch.randn(8, 6), torch.randint(0, 4, (8,)) // 2 * 2) for _ in range(3)]
    return atograph.compress(model, batches, flops=0.6, epochs=1, **options)


def test_a_masked_logit_is_no_scale_for_the_others() -> None:
    """A column of -1e9 hid any error in the others."""
    right = torch.randn(5, 4)
    right[:, 1] = -1e9
    wrong = right.clone()
    wrong[:, 0] *= 1.1
    assert relative_difference(right, wrong) > 0.01
    assert relative_difference(right, right * (1 + 1e-12)) < 1e-11
    assert relative_difference(torch.full((2, 2), -1e9), torch.full((2, 2), -1e9)) == 0.0
    mostly = torch.cat([right, torch.full((5, 90), -1e9)], 1)
    assert relative_difference(mostly, torch.cat([wrong, torch.full((5, 90), -1e9)], 1)) > 0.01

    class Masked(Net):
        def end(self, y: Tensor) -> Tensor:
            return y.masked_fill(self.masked, -1e9)

    report = compress(Masked()).report
    assert report.float64 <= 1e-9 and all(entry.moved > 1e-3 for entry in report.certificate)


def test_the_smallest_number_of_a_type_is_a_masked_logit_too() -> None:
    """In float64 the model holds another smallest number than the program that was captured in float32."""

    class Smallest(Net):
        def end(self, y: Tensor) -> Tensor:
            return y.masked_fill(self.masked, torch.finfo(y.dtype).min)

    assert compress(Smallest()).report.float64 <= 1e-9


def test_code_that_swallows_the_time_limit_is_not_captured_another_way() -> None:
    class Swallowing(Net):
        def middle(self, h: Tensor) -> Tensor:
            try:
                time.sleep(0.6)
                for _ in range(1000):
                    time.sleep(0.001)
                return self.hidden(h)
            except BaseException:
                return torch.tanh(self.hidden(h))

    atograph.trace(Net(), torch.randn(2, 6))
    with pytest.raises(UserError, match=r"takes longer than 0\.3 s"):
        atograph.trace(Swallowing(), torch.randn(2, 6), time_limit=0.3)


@dataclass(frozen=True)
class Doubles(AnalysisPass):
    name = "doubles"

    def analyse(self, program: Program) -> int:
        with torch.no_grad():
            next(iter(program.state.values())).mul_(2)
        return 1


@dataclass(frozen=True)
class Forgets(RewritePass):
    name = "forgets"

    def rewrite(self, program: Program) -> Any:
        return None


def test_passes_that_change_values_or_give_nothing_are_found() -> None:
    model, inputs = build("plain")
    with pytest.raises(InternalError, match=r"the values of .* of the program that it was given were changed"):
        Pipeline((Doubles(),)).run(capture(model, (inputs,)))
    told = r"the pass 'forgets' gave something of type NoneType, not a Program. This is a bug in test_t"
    with pytest.raises(InternalError, match=told):
        Pipeline((Forgets(),)).run(capture(model, (inputs,)))


def test_randomness_that_rarely_shows_is_refused() -> None:
    class Rarely(Net):
        def middle(self, h: Tensor) -> Tensor:
            return self.hidden(h) * torch.bernoulli(torch.full((12,), 0.9999999))

    with pytest.raises(UserError, match=r"draws random numbers: aten\.bernoulli"):
        compress(Rarely())


def test_a_parameter_that_decays_is_named() -> None:
    class Decays(Net):
        def middle(self, h: Tensor) -> Tensor:
            with torch.no_grad():
                self.hidden.weight.mul_(0.9)
            return self.hidden(h)

    with pytest.raises(UserError, match=r"each call changes hidden\.weight|cannot"):
        compress(Decays())


def test_a_model_that_takes_no_single_sample() -> None:
    """Batch statistics in eval mode."""

    class Statistics(Net):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(16, track_running_stats=False)

        def middle(self, h: Tensor) -> Tensor:
            return self.hidden(self.norm(h))

    assert [entry.batch for entry in compress(Statistics()).report.certificate] == [8]


def test_a_scripted_model_comes_back_as_a_program() -> None:
    result = compress(torch.jit.script(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))))
    assert result.slim.module is None and "ScriptModule" in result.slim.why_no_module


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_a_traced_model_is_refused_in_words() -> None:
    traced = torch.jit.trace(nn.Linear(6, 4), torch.randn(2, 6))
    with pytest.raises(UserError, match=r"made by torch.jit.trace.* Give the module that it was made from"):
        compress(traced)


def test_a_buffer_with_the_name_of_an_argument() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)
            self.register_buffer("scale", torch.ones(1))
            self.register_buffer("x", torch.ones(8))

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.last(self.first(x) * self.scale * self.x * scale)

    model, inputs = Scaled(), (torch.randn(2, 6), torch.randn(2, 1))
    graph = atograph.trace(model, inputs)
    slim = atograph.slim(graph, graph.plan(random=0))
    found, expected = slim(*inputs), atograph.mask(model, slim.plan)(*inputs)
    assert len(graph.prunable) == 1 and relative_difference(expected, found) < 1e-6


class Named(Net):
    """A buffer that is called like an attribute of torch's own modules."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.register_buffer(name, torch.ones(12))

    def middle(self, h: Tensor) -> Tensor:
        return self.hidden(h) * getattr(self, self.name)


@pytest.mark.parametrize("name", ["code", "graph", "meta"])
def test_a_name_that_torch_has_for_itself_is_told(name: str) -> None:
    class Reversed(Named):
        """With an op that `atograph.onnx.decompositions` leaves to torch, which traces the program anew."""

        def middle(self, h: Tensor) -> Tensor:
            return torch.rsub(super().middle(h), 1.0)

    with pytest.raises(UserError, match=f"a parameter, buffer or module called {name}"):
        compress(Reversed(name))


def test_a_name_that_torch_has_for_itself_is_a_name_where_torch_traces_nothing() -> None:
    result = compress(Named("graph"))
    assert result.report.float64 < 1e-9 and result.slim.module.state_dict()["graph"].numel() < 12


def test_what_onnx_runtime_has_no_kernel_for_is_known_before_the_training() -> None:
    class Casting(Net):
        def middle(self, h: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.hidden(h).float()

    torch.manual_seed(0)
    model, trained = Casting(), []
    before = model.first.weight.detach().clone()
    with pytest.raises(UserError, match=r"ONNX Runtime cannot run this model, dense as it is: .*NOT_IMPLEMENTED"):
        compress(model, metric=lambda model, batch: trained.append(1))
    assert torch.equal(model.first.weight, before) and not trained


def test_a_model_of_half_precision_is_held_to_its_own_precision() -> None:
    torch.manual_seed(0)
    model = Net().half()
    result = atograph.compress(model, example_inputs=torch.randn(4, 6).half(), flops=0.6, method="magnitude", epochs=0)
    assert all(entry.holds and 5e-3 < entry.tolerance < 2e-2 for entry in result.report.certificate)


def test_without_gradients_around_it() -> None:
    with torch.no_grad():
        assert compress(Net()).report.float64 <= 1e-9


@pytest.mark.parametrize("name", ["x" * 242, "x" * 300, "bad\udcff"], ids=["long", "too long", "no text"])
def test_names_that_no_run_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"Name another --out\."):
        RunFolder(tmp_path / name)


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match=r"Name another --out\."):
        RunFolder(tmp_path / "a")


READERS = [to_nobody, to_a_full_disk, to_a_closed_stream]


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
@pytest.mark.parametrize("stream", READERS, ids=lambda stream: stream.__name__)
def test_a_run_goes_on_when_nobody_reads_it(tmp_path: Path, stream: Callable[[], None]) -> None:
    (tmp_path / "net.py").write_text(dedent(SPEC))
    arguments = ("compress", "net.py", "--flops", "0.5", "--epochs", "1", "--out", "run")
    begun(tmp_path, command_with, stream, *arguments).join(200)
    assert (tmp_path / "run" / "report.json").exists()


def test_another_model_does_not_go_on(tmp_path: Path) -> None:
    """The same groups, another function between them."""
    fails = dedent("""
        def val_data():
            from pathlib import Path

            if any(Path(".run.checkpoints").glob("training/*")):
                raise RuntimeError("later")
            yield from batches(1, 3)
    """)
    arguments = ["--flops", "0.4", "--epochs", "3", "--set", "checkpoint_seconds=0", "--out", "run", "--target", "pt2"]
    assert run(tmp_path, *arguments, spec=dedent(SPEC) + fails).returncode == 2
    other = run(tmp_path, *arguments, "--resume", spec=dedent(SPEC).replace("nn.ReLU()", "nn.GELU()"))
    assert other.returncode == 2 and "of another run: the digest of the captured program was" in other.stderr


def test_a_signal_that_code_swallows_is_not_the_last_word(tmp_path: Path) -> None:
    code = dedent("""
        import time
        from atograph.cli import runner
        runner._UNWINDING = 0.5
        runner.on_polite_kills()
        said = False
        while True:
            try:
                if not said:
                    said = True
                    print("ready", flush=True)
                time.sleep(0.05)
            except BaseException:
                print("swallowed", flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "swallowed\n"
    time.sleep(0.8)  # after the time to tidy up
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(120) == 143


def test_a_reproducer_shows_what_the_pass_made() -> None:
    @dataclass(frozen=True)
    class Renames(RewritePass):
        name = "renames"

        def rewrite(self, program: Program) -> Program:
            made = program.rewritten(program.graph, program.state)
            made.state["left over"] = torch.ones(1)
            return made

    model, inputs = build("plain")
    with pytest.raises(InternalError) as caught:
        Pipeline((Renames(),)).run(capture(model, (inputs,)))
    assert caught.value.reproducer is not None
    titles = re.findall(r"^== (.*) ==$", caught.value.reproducer.read_text(), re.MULTILINE)
    assert titles == ["error", "pipeline", "versions", "program", "what renames made of it", "plan.json"]
