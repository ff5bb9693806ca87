"""Several processes train one model: where one refuses, dies or stops, the others know in seconds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENDS = {
    "refuses": "process 1 of this training has ended: the data of this process ends here.",
    "stops": "process 1 of this training has not answered for 3 s.",
}


def start(how: str, folder: Path) -> list[subprocess.Popen[str]]:
    """Without a launcher, which would end the others itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("partners_run.py"))
    return [
        subprocess.Popen(
            [sys.executable, script, how, str(folder)],
            env={**os.environ, **about, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.mark.skipif(os.name != "posix", reason="signals of Unix")
@pytest.mark.parametrize("how", ENDS)
def test_the_others_know_in_seconds(tmp_path: Path, how: str) -> None:
    processes = start(how, tmp_path)
    try:
        started = time.monotonic()
        _, told = processes[0].communicate(timeout=100)
        assert processes[0].returncode == 2 and ENDS[how] in told, told
        assert "Traceback" not in told and "--resume" in told
        if how == "refuses":
            _, own = processes[1].communicate(timeout=30)
            assert processes[1].returncode == 2 and "error: the data of this process ends here." in own
        assert time.monotonic() - started < 100
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert not (tmp_path / "run").exists()
