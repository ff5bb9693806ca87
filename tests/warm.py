"""What takes seconds the first time, in any command: a process that does much, or is forked often, begins with it."""

from __future__ import annotations

import gc
import os
import typing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

import atograph.cli.compress
import atograph.inspection.page
import atograph.run.compress
import atograph.spec.spec
from atograph.onnx.export import export_onnx

assert atograph.cli.compress and atograph.run.compress and atograph.inspection.page and atograph.spec.spec

torch.set_num_threads(1)
os.fsync = lambda fd: None  # it takes milliseconds, and no test pulls the plug
# In annotations that each export makes ten thousand times; this one is cached.
torch._ops.Callable = typing.Callable  # type: ignore[attr-defined]
with TemporaryDirectory() as folder:
    export_onnx(torch.export.export(nn.Linear(2, 2), (torch.zeros(2, 2),)), Path(folder) / "linear.onnx")
gc.collect()
gc.set_threshold(20_000, 10, 3)  # captures make thousands of objects, and hardly any garbage: seldom is often enough
gc.freeze()  # half a million objects of libraries that no collection needs to look at again
