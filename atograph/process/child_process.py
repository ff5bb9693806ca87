"""A Python of its own for what may crash, never end, or take all memory: if it dies, that is a sentence here.

Only plain values and arrays go to and fro, never pickles, so that nothing that runs there can run code here.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from atograph.passes.errors import says_out_of_memory
from atograph.process.memory import free_memory

SECONDS = 120.0
"""What one call may take unless the caller knows better."""

_LEAST = 2**30
"""Bytes that a child may have in any case."""

_START = "import sys; sys.path += sys.argv[3:]; from atograph.process.child_process import serve; serve(*sys.argv[1:3])"


class ChildError(Exception):
    """A call in a child gave no result; its text says why, in one line."""


class ChildRefused(ChildError):
    """The function raised an error; the child lives on.

    Attributes:
        errno: of an `OSError`; None for other errors.
    """

    def __init__(self, text: str, errno: int | None = None) -> None:
        super().__init__(text)
        self.errno = errno


class ChildDied(ChildError):
    """The process has ended: by a signal, or because it took too long."""


class Child:
    """A process that runs functions of one module.

    Args:
        module: the module's name; what it imports is all that the process loads.
        memory: bytes that the process may allocate; None: what the machine has free now. Linux keeps this limit.
    """

    def __init__(self, module: str, *, memory: int | None = None) -> None:
        self.memory = max(free_memory(), _LEAST) if memory is None else memory
        self._lock, self._owner = threading.Lock(), os.getpid()
        self._said: IO[bytes] = TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, module, str(self.memory), *_roots(module)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(_python_path())},
        )
        atexit.register(self.close)

    @property
    def alive(self) -> bool:
        """Whether it can be called: by the process that started it, until it has ended."""
        return self._owner == os.getpid() and self._process.poll() is None

    def call(self, function: str, *args: object, seconds: float = SECONDS) -> Any:
        """Run a function of the module there.

        Args:
            function: its name.
            args: numbers, texts, bytes, arrays, and lists and dicts of them.
            seconds: the process is ended after so long.

        Returns:
            What the function returned; tuples come back as lists.

        Raises:
            ChildRefused: the function raised.
            ChildDied: the process has ended.
        """
        with self._lock:
            late = threading.Event()

            def end() -> None:
                late.set()
                self._process.kill()

            timer = threading.Timer(seconds, end)
            timer.daemon = True
            timer.start()
            try:
                _send(self._process.stdin, [function, list(args)])
                kind, value = _receive(self._process.stdout)
            except (OSError, EOFError) as error:
                self._process.wait()
                taken = f"it takes longer than {seconds:.0f} s" if late.is_set() else self._why_it_ended()
                raise ChildDied(taken) from error
            except BaseException:  # interrupted: the answer to this call would be taken for that of the next one
                self.close()
                raise
            finally:
                timer.cancel()
        if kind == "error":
            raise ChildRefused(self._with_limit(value["text"]), value["errno"])
        return value

    def close(self) -> None:
        """End the process."""
        atexit.unregister(self.close)
        if self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._said):
                if stream is not None:
                    _close(stream)

    def _why_it_ended(self) -> str:
        code = self._process.returncode
        how = f"with the exit code {code}" if code >= 0 else f"by the signal {_signal_name(-code)}"
        said = self._last_words()
        if "bad_alloc" in said:
            return self._with_limit(said)
        return f"it ends the process that runs it {how}" + (f" ({said})" if said else "")

    def _last_words(self) -> str:
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - 2000))
        lines = self._said.read().decode(errors="replace").splitlines()
        return next((" ".join(line.split())[:200] for line in reversed(lines) if line.strip()), "")

    def _with_limit(self, text: str) -> str:
        if says_out_of_memory(text):
            return f"it takes more than the {self.memory / 1e9:.1f} GB of memory that are free ({text})"
        return text


def _roots(module: str) -> list[str]:
    """Where the process finds this package and numpy, if it would not by itself; never the folder one stands in."""
    roots = []
    for name in ("atograph", "numpy", module.partition(".")[0]):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            roots.append(str(Path(spec.origin).resolve().parents[1 if spec.submodule_search_locations else 0]))
    return list(dict.fromkeys(roots))


def _python_path() -> list[str]:
    """What of ``PYTHONPATH`` is still on the path of imports here: the folder of a run is taken off it."""
    here = {Path(entry).resolve() for entry in sys.path}
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [entry for entry in entries if entry and Path(entry).resolve() in here]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _close(stream: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # what was not sent yet goes nowhere
        stream.close()


def _send(stream: IO[bytes] | None, value: object) -> None:
    """Write a value: the length of a header, the header as JSON, the bytes of arrays."""
    assert stream is not None
    arrays: list[NDArray[np.generic]] = []

    def plain(part: object) -> object:
        if isinstance(part, np.generic):
            part = np.asarray(part)
        if isinstance(part, (np.ndarray, bytes)):
            array = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part
            if array.dtype.kind not in "biufc":
                raise TypeError(f"an array of {array.dtype} cannot be sent")
            arrays.append(np.ascontiguousarray(array).reshape(array.shape))
            return {"bytes" if isinstance(part, bytes) else "array": [array.dtype.str, list(array.shape)]}
        if isinstance(part, dict):
            return {"dict": [[name, plain(inner)] for name, inner in part.items()]}
        return [plain(inner) for inner in part] if isinstance(part, (list, tuple)) else part

    header = json.dumps(plain(value)).encode()
    stream.write(len(header).to_bytes(8, "little") + header)
    for array in arrays:
        stream.write(array.data if array.size else b"")
    stream.flush()


def _receive(stream: IO[bytes] | None) -> Any:
    """Read what `_send` wrote.

    Raises:
        EOFError: the other side has ended.
    """
    assert stream is not None
    header = _exactly(stream, int.from_bytes(_exactly(stream, 8), "little"))

    def built(part: object) -> object:
        if isinstance(part, list):
            return [built(inner) for inner in part]
        if not isinstance(part, dict):
            return part
        ((kind, inner),) = part.items()
        if kind == "dict":
            return {name: built(value) for name, value in inner}
        kept, shape = np.dtype(inner[0]), [int(size) for size in inner[1]]
        if kept.kind not in "biufc":
            raise EOFError
        raw = _exactly(stream, kept.itemsize * int(np.prod(shape, dtype=object)))
        return raw if kind == "bytes" else np.frombuffer(bytearray(raw), kept).reshape(shape)

    return built(json.loads(header))


def _exactly(stream: IO[bytes], count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise EOFError
    return content


def serve(module: str, memory: str) -> None:
    """What the process does: read calls from its standard input, and answer on its standard output, to the end."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # a library that prints does not speak between the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this one decides
    _limit(int(memory))
    functions = importlib.import_module(module)
    calls: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_read_into, args=(calls, requests), daemon=True).start()
    while True:
        name, args = calls.get()
        _send(replies, _answer(getattr(functions, name), args))


def _answer(function: Callable[..., object], args: list[object]) -> list[object]:
    try:
        return ["result", function(*args)]
    except Exception as error:
        text = " ".join(str(error).split())[:1000] or type(error).__name__
        return ["error", {"text": text, "errno": error.errno if isinstance(error, OSError) else None}]


def _read_into(calls: queue.Queue[Any], requests: IO[bytes]) -> None:
    try:
        while True:
            calls.put(_receive(requests))
    except EOFError:
        os._exit(0)  # whoever started this one is gone, and perhaps a call never ends


def _limit(memory: int) -> None:
    """Keep to so many bytes, leave no dump behind, and be the first to go if the machine is short of memory."""
    try:
        import resource
    except ImportError:  # Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    least = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (least, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
