"""Processes forked from one that has imported everything: soon begun, and easily killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

OUT = "output.txt"


def command(*arguments: str) -> None:
    """``atograph ARGUMENTS``."""
    from atograph.cli.app import main
    from atograph.terminal import console, progress_line

    progress_line.LONG = console.REPEAT = 1e6  # no line more on a slow machine

    sys.argv = ["atograph", *arguments]
    main()


def begun(
    folder: Path,
    function: Callable[..., object],
    *args: Any,
    out: str = OUT,
    err: str = OUT,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Begin a function in a folder; what it prints is in two files there, or in one.

    Args:
        folder: where the process stands.
        function: of a module that can be imported.
        args: its arguments.
        out: the file of the standard output.
        err: the file of the standard error.
        environment: variables besides those that are set here.
    """
    _ensure_server()
    for name in (out, err):  # whoever waits for a line in them may read them before the process is there
        (folder / name).touch()
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_run, args=(folder, os.environ | (environment or {}), out, err, function, args))
    process.start()
    return process


def start(folder: Path, *arguments: str) -> BaseProcess:
    """Begin ``atograph ARGUMENTS`` in a folder."""
    return begun(folder, command, *arguments)


def completed(
    folder: Path,
    *arguments: str,
    processes: int = 1,
    function: Callable[..., object] = command,
    seconds: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run ``atograph ARGUMENTS`` in a folder to its end, or another function.

    Args:
        folder: where it runs.
        arguments: what it gets.
        processes: more than one run at the same time, with the environment that torchrun gives them. The exit code is
            that of the first one that failed.
        function: as in `begun`.
        seconds: that it may take.
    """
    files = [folder / "completed.out", folder / "completed.err"]
    out, err = (file.name for file in files)
    group = [begun(folder, function, *arguments, out=out, err=err, environment=each) for each in ranks(processes)]
    for process in group:
        process.join(seconds)
    printed = [file.read_text() for file in files]
    for file in files:
        file.unlink()
    codes = [process.exitcode for process in group]
    assert None not in codes, f"still running after {seconds} seconds: {printed}"
    return subprocess.CompletedProcess(arguments, next(filter(None, codes), 0), *printed)


def ranks(count: int) -> list[dict[str, str]]:
    """What torchrun tells each of several processes; nothing for one."""
    if count == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def _ensure_server() -> None:
    """Have a process to fork from. It finds these modules by its environment alone, and is silent if it does not."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), before)))
    try:
        forkserver.set_forkserver_preload(["forked", "warm"])
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _run(
    folder: Path,
    environment: dict[str, str],
    out: str,
    err: str,
    function: Callable[..., object],
    args: Sequence[Any],
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # what a data loader takes by itself: not a server's child
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    with (folder / out).open("a") as output, (folder / err).open("a") as errors:
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        function(*args)
