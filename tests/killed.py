"""A process that runs a command and can be killed at any moment: forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import atograph.command_compress
import atograph.compression
import atograph.inspection.page
import atograph.spec
from atograph.cli import main

assert atograph.command_compress and atograph.compression and atograph.inspection.page and atograph.spec


def _run(folder: Path, arguments: list[str]) -> None:
    os.chdir(folder)
    multiprocessing.set_start_method("fork", force=True)  # what a data loader takes by itself: not a server's child
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    with (folder / "output.txt").open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.argv = ["atograph", *arguments]
        main()


def start(folder: Path, *arguments: str) -> BaseProcess:
    """Begin ``atograph ARGUMENTS`` in a folder; what it prints is in ``output.txt`` there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed"])
    process = context.Process(target=_run, args=(folder, list(arguments)))
    process.start()
    return process
