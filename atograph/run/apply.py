"""Slim weights without the model in memory: a plan carried out on a checkpoint, one piece of a tensor at a time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from pathlib import Path

import torch

from atograph.declared.stored import choose_rows
from atograph.files.apart import put_together
from atograph.files.checkpoint import Checkpoint, Reader, Stored
from atograph.files.run_folder import RunFolder
from atograph.files.run_lock import claimed
from atograph.files.shards import Entry, Shard, ShardWriter, parse_size, shards_of, write_index
from atograph.files.writing import writing
from atograph.graph.from_checkpoint import fitting
from atograph.graph.graph import Graph
from atograph.passes.axes.dims import Indices
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.ir.program import Program
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public
from atograph.passes.rewrite.kept import Kept
from atograph.process.stages import stage
from atograph.program.pt2_file import program_bytes
from atograph.report import numbers
from atograph.report.applied import AppliedReport, AppliedSize
from atograph.report.run import FROM_PYTHON
from atograph.run.saving.served import write_beside
from atograph.slimming.slim import Slim, slim
from atograph.spec.source import Source

_PIECE = 16 * 2**20


@public("atograph")
@dataclass(frozen=True)
class Applied:
    """What `apply_plan` wrote.

    Attributes:
        folder: where it is.
        files: the files of weights in it, in order.
        slim: the slim model without weights: tells its FLOPs, parameters and shapes.
        report: what ``report.json`` holds.
        why_no_config: why no ``config.json`` is there, where one lies beside the dense weights; empty where it is.
        why_no_tokenizer: why no ``tokenizer.json`` is there, of a vocabulary that became smaller; empty where it is.
    """

    folder: Path
    files: tuple[Path, ...]
    slim: Slim
    report: AppliedReport
    why_no_config: str = ""
    why_no_tokenizer: str = ""


@public("atograph")
def apply_plan(
    graph: Graph,
    plan: Plan,
    weights: str | Path,
    out: str | Path,
    *,
    shard_size: str | int = "5GB",
    force: bool = False,
    spec: str = FROM_PYTHON,
    source: Source | None = None,
) -> Applied:
    """Slim a checkpoint that need not fit in memory.

    The folder gets the slim weights (``model.safetensors``, or shards with ``model.safetensors.index.json``), under the
    names that they have in the checkpoint; ``slim.pt2``, the slim program without its weights; ``plan.json`` and
    ``report.json``. It appears complete or not at all. Tensors that the program does not read are left out. Where a
    ``config.json`` of transformers lies beside the dense weights and can say the widths (plans with uniform ones), it
    is written with them, and tokenizer and generation files are copied: the folder loads with ``from_pretrained``.

    Args:
        graph: of the dense model, which may be on the meta device: its weights are not read.
        plan: which units stay.
        weights: the dense checkpoint: a ``.safetensors`` file, an index of shards, or a folder with either in it. Of
            tied weights it may hold any one name.
        out: the folder to be.
        shard_size: the most that a file of weights holds: ``"5GB"``, ``"500MB"`` or a number of bytes.
        force: replace a run that is there.
        spec: what the model was made from, for the report.
        source: where that lies.

    Raises:
        UserError: the plan is for another model, the checkpoint does not fit or is damaged, or the folder cannot be
            written; an earlier run is then as it was.
    """
    limit = parse_size(shard_size)
    with claimed(Path(out), force=force) as folder:
        return _apply_plan(graph, plan, weights, folder, limit, spec, source)


def _apply_plan(
    graph: Graph, plan: Plan, weights: str | Path, folder: RunFolder, limit: int, spec: str, source: Source | None
) -> Applied:
    started, out = time.monotonic(), folder.out
    checkpoint = Checkpoint.open(weights)
    dense_bytes = checkpoint.nbytes
    put_together(checkpoint, graph.model)
    if graph.model is not None:
        choose_rows(checkpoint, graph.model)
    _check_place(checkpoint, out)
    graph.read_weights()
    kept = Kept.by(plan, graph.program)
    found = fitting(graph.program, graph.model, checkpoint, "Nothing was written.")
    slimmed = slim(graph, plan)
    cuts = _cuts(graph.program, kept, slimmed.passes_program)
    found = {name: own for name, own in found.items() if own in cuts}  # the rest went with its branch
    entries = [
        Entry(name, checkpoint.tensors[name].dtype, tuple(slimmed.passes_program.state[own].shape))
        for name, own in found.items()
    ]
    shards = shards_of(entries, limit)
    _check_space(out, sum(entry.nbytes for entry in entries))
    with folder as place, writing(out):
        _write_weights(place, shards, checkpoint, {name: cuts[own] for name, own in found.items()})
        why_no_program = _write_program(place / "slim.pt2", slimmed.passes_program, set(found.values()), plan)
        why_no_config, why_no_tokenizer = write_beside(graph, plan, checkpoint, place)
        report = AppliedReport(
            plan=plan.digest,
            spec=spec,
            source=source,
            weights=str(weights),
            versions={package: version(package) for package in ("atograph", "torch")},
            dense=AppliedSize(flops=graph.flops, params=graph.params, bytes=dense_bytes),
            slim=AppliedSize(flops=slimmed.flops, params=slimmed.params, bytes=sum(e.nbytes for e in entries)),
            files=[shard.file for shard in shards],
            left_out=[name for name in checkpoint.tensors if name not in found],
            renamed={own: name for name, own in found.items() if own not in found},
            program=why_no_program or "slim.pt2",
            kept={name: (len(units), plan.sizes[name]) for name, units in plan.kept.items()},
            seconds=time.monotonic() - started,
        )
        (place / "plan.json").write_text(plan.to_json(), encoding="utf-8")
        report.save(place / "report.json")
    return Applied(out, tuple(out / shard.file for shard in shards), slimmed, report, why_no_config, why_no_tokenizer)


# -- what is refused before anything is written ------------------------------------------------------------------------


def _check_place(checkpoint: Checkpoint, out: Path) -> None:
    if any(file.resolve().is_relative_to(out.resolve()) for file in checkpoint.files):
        raise UserError(
            "the dense weights lie in the folder that would be replaced.", where=str(out), hint="Name another --out."
        )


def _check_space(out: Path, needed: int) -> None:
    there = next(folder for folder in out.resolve().parents if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(f"the disk is too full: {numbers.size(needed)} are needed, {numbers.size(free)} are free.",
                        where=str(out))  # fmt: skip


# -- cutting -----------------------------------------------------------------------------------------------------------


_Cuts = tuple[Indices | None, ...]


def _cuts(program: Program, kept: Kept, slimmed: Program) -> dict[str, _Cuts]:
    """For each tensor of a program the indices that stay along each dimension; None where all of them do."""
    found = {}
    for node, name in program.state_nodes():
        if name not in slimmed.state:
            continue
        cuts = kept.cuts(kept.axes.shape(node))
        shape = [n if cut is None else len(cut) for n, cut in zip(program.state[name].shape, cuts, strict=True)]
        if shape != list(slimmed.state[name].shape):
            raise InternalError(f"{name} would be cut to {shape}, the slim program has {slimmed.state[name].shape}.")
        found[name] = cuts
    return found


def _write_weights(folder: Path, shards: Sequence[Shard], checkpoint: Checkpoint, cuts: Mapping[str, _Cuts]) -> None:
    total, done = sum(len(shard.entries) for shard in shards), 0
    with stage("slicing the weights") as slicing, Reader() as reader:
        for shard in shards:
            with ShardWriter(folder, shard) as writer:
                for entry in shard.entries:
                    slicing.reached(done, total, "tensors")
                    writer.write(entry, _pieces(reader, checkpoint.tensors[entry.name], cuts[entry.name]))
                    done += 1
        slicing.detail = f"{total} tensors"
        write_index(folder, shards)


def _pieces(reader: Reader, stored: Stored, cuts: _Cuts) -> Iterator[torch.Tensor]:
    """What stays of a tensor, in pieces along its first dimension."""
    length = stored.shape[0] if stored.shape else 1
    row = prod(stored.shape[1:]) * stored.dtype.itemsize
    step = max(1, _PIECE // max(1, row))
    rows = None if not cuts or cuts[0] is None else torch.from_numpy(cuts[0])
    for start in range(0, length, step):
        stop = min(start + step, length)
        wanted = None if rows is None else rows[(rows >= start) & (rows < stop)] - start
        if wanted is not None and not len(wanted):
            continue
        piece = reader.rows(stored, start, stop)
        if wanted is not None:
            piece = piece.index_select(0, wanted)
        for dim, cut in enumerate(cuts[1:], start=1):
            if cut is not None:
                piece = piece.index_select(dim, torch.from_numpy(cut))
        yield piece


# -- the program -------------------------------------------------------------------------------------------------------


def _write_program(path: Path, slimmed: Program, in_weights: set[str], plan: Plan) -> str:
    """Write the slim program, its weights on the meta device; what says why not, where it could not be run later."""
    empty = [name for name, tensor in slimmed.state.items() if tensor.is_meta and name not in in_weights]
    if empty:
        return f"not written: {empty[0]} is not in the weights, and the model on the meta device has no value for it"
    state = {name: _emptied(tensor) if name in in_weights else tensor for name, tensor in slimmed.state.items()}
    with stage("writing the program"):
        try:
            content = program_bytes(to_exported(slimmed.rewritten(slimmed.graph, state)), plan.digest)
        except Exception as error:
            return f"not written: torch.export cannot save it ({type(error).__name__})"
        path.write_bytes(content)
    return ""


def _emptied(tensor: torch.Tensor) -> torch.Tensor:
    made = tensor.detach().to("meta")
    return torch.nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else made
