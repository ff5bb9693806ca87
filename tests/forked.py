"""Whole commands in processes forked from one that has imported everything: soon begun, and easily killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

from atograph.cli import main

OUT = "output.txt"


def _run(folder: Path, arguments: list[str], environment: dict[str, str], out: str, err: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # what a data loader takes by itself: not a server's child
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    with (folder / out).open("a") as output, (folder / err).open("a") as errors:
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        sys.argv = ["atograph", *arguments]
        main()


def _ensure_server() -> None:
    """Have a process to fork from; it finds these modules by its environment alone, and says nothing if it does not."""
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


def start(
    folder: Path, *arguments: str, out: str = OUT, err: str = OUT, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Begin ``atograph ARGUMENTS`` in a folder; what it prints is in two files there, or in one."""
    _ensure_server()
    arguments_of_run = (folder, list(arguments), os.environ | (environment or {}), out, err)
    process = multiprocessing.get_context("forkserver").Process(target=_run, args=arguments_of_run)
    process.start()
    return process


def completed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``atograph ARGUMENTS`` in a folder to its end."""
    files = [folder / "completed.out", folder / "completed.err"]
    process = start(folder, *arguments, out=files[0].name, err=files[1].name)
    return _ended(arguments, [process], files)


def completed_by(count: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``atograph ARGUMENTS`` in a folder to its end in several processes, with what torchrun tells them.

    The exit code is that of the first one that failed.
    """
    files = [folder / "completed.out", folder / "completed.err"]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} | common for rank in range(count)]
    processes = [start(folder, *arguments, out=files[0].name, err=files[1].name, environment=rank) for rank in ranks]
    return _ended(arguments, processes, files)


def _ended(
    arguments: Sequence[str], processes: Sequence[BaseProcess], files: Sequence[Path]
) -> subprocess.CompletedProcess[str]:
    for process in processes:
        process.join(300)
    printed = [file.read_text() for file in files]
    for file in files:
        file.unlink()
    codes = [process.exitcode for process in processes]
    assert None not in codes, f"still running after five minutes: {printed}"
    return subprocess.CompletedProcess(arguments, next(filter(None, codes), 0), *printed)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
