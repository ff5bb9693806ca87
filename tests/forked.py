"""Whole commands in processes forked from one that has imported everything: soon begun, and easily killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import atograph.command_compress
import atograph.compression
import atograph.inspection.page
import atograph.spec
from atograph.cli import main

assert atograph.command_compress and atograph.compression and atograph.inspection.page and atograph.spec

OUT = "output.txt"


def _run(folder: Path, arguments: list[str], out: str, err: str) -> None:
    os.chdir(folder)
    multiprocessing.set_start_method("fork", force=True)  # what a data loader takes by itself: not a server's child
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    with (folder / out).open("a") as output, (folder / err).open("a") as errors:
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        sys.argv = ["atograph", *arguments]
        main()


def start(folder: Path, *arguments: str, out: str = OUT, err: str = OUT) -> BaseProcess:
    """Begin ``atograph ARGUMENTS`` in a folder; what it prints is in two files there, or in one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["forked"])
    process = context.Process(target=_run, args=(folder, list(arguments), out, err))
    process.start()
    return process


def completed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``atograph ARGUMENTS`` in a folder to its end."""
    files = [folder / "completed.out", folder / "completed.err"]
    process = start(folder, *arguments, out=files[0].name, err=files[1].name)
    process.join(300)
    printed = [file.read_text() for file in files]
    for file in files:
        file.unlink()
    assert process.exitcode is not None, f"still running after five minutes: {printed}"
    return subprocess.CompletedProcess(arguments, process.exitcode, *printed)
