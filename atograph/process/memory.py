"""What the machine has to spare."""

from __future__ import annotations

import os
from pathlib import Path

_GROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Files of a container's limit and of what it uses, in the two versions of control groups."""


def free_memory() -> int:
    """Bytes of memory that are free: those of the machine, or of the container if that is less."""
    return min(_of_machine(), *(_of_group(*files) for files in _GROUPS))


def _of_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**40  # nobody says: no limit


def _of_group(limit: str, used: str, root: Path = Path("/sys/fs/cgroup")) -> int:
    try:
        return int((root / limit).read_text()) - int((root / used).read_text())
    except (OSError, ValueError):  # "max", or no control groups
        return 2**63
