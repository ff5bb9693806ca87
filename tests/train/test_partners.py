"""Several processes train one model: where one refuses, dies or stops, the others know in seconds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from forked import begun, ranks
from partners_run import train
from torch.distributed import HashStore

from atograph.train.processes.partners import Partners

ENDS = {
    "refuses": "process 1 of this training has ended: the data of this process ends here.",
    "stops": "process 1 of this training has not answered for 3 s.",
}


@pytest.mark.skipif(os.name != "posix", reason="signals of Unix")
@pytest.mark.parametrize("how", ENDS)
def test_the_others_know_in_seconds(tmp_path: Path, how: str) -> None:
    """Without a launcher, which would end the others itself."""
    started = time.monotonic()
    processes = [begun(tmp_path, train, how, err=each["RANK"], environment=each) for each in ranks(2)]
    try:
        processes[0].join(100)
        told = (tmp_path / "0").read_text()
        assert processes[0].exitcode == 2 and ENDS[how] in told, told
        assert "Traceback" not in told and "--resume" in told
        if how == "refuses":
            processes[1].join(30)
            own = (tmp_path / "1").read_text()
            assert processes[1].exitcode == 2 and "error: the data of this process ends here." in own
        assert time.monotonic() - started < 100
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert not (tmp_path / "run").exists()


def test_nobody_looks_any_more_while_python_ends() -> None:
    """A thread within the store would end the process by a signal then."""
    partners = Partners(0, 2, HashStore())
    assert partners._thread.is_alive()
    partners.leave()
    assert not partners._thread.is_alive()
