"""Whether a pass changes what a program computes: it runs on the example before and after, and weights are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from atograph.passes.authors import package_of
from atograph.passes.base import Pass, RewritePass
from atograph.passes.errors import InternalError, UserError
from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule
from atograph.passes.ir.values import require_values
from atograph.passes.pipeline.blamed import blamed
from atograph.passes.pipeline.running import Instrument
from atograph.passes.torch_private import pytree

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far outputs of a type may be apart, as a share of the largest of them: a rewrite may add in another order."""


@dataclass
class NumericCheck(Instrument):
    """Runs the program on its example before and after each rewrite, and compares; names a pass that writes weights."""

    _digests: Mapping[str, str] = field(default_factory=dict)

    def before(self, each: Pass, program: Program) -> None:
        """Note what the weights are."""
        self._digests = digests(program.state)

    def after(self, each: Pass, given: Program, result: Program) -> None:
        """Compare.

        Raises:
            InternalError: the pass has written into a weight, or what it made computes something else.
        """
        problem = written(self._digests, given.state)
        if not problem and result is not given:
            problem = difference(outputs(expected(each, given)), outputs(result))
        if problem:
            error = InternalError(f"the pass '{each.name}' {problem}.", package_of(type(each)))
            error.found_by = " --verify-each numeric"
            raise error


def expected(each: Pass, given: Program) -> Program:
    """The program that computes what the result of a pass has to compute."""
    if not isinstance(each, RewritePass):
        return given
    with blamed(each, "equivalent() of "):
        return each.equivalent(given)


def outputs(program: Program) -> list[object]:
    """What a program gives for its example, with the same random numbers each time.

    Raises:
        UserError: it has no example, or no weights.
    """
    example = program.interface.example
    if example is None:
        raise UserError("there are no example inputs to run the program on.")
    args, kwargs = pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, example)
    require_values(program.state, "comparing outputs needs values")
    state = {name: tensor.detach().clone() for name, tensor in program.state.items()}  # a call may write into it
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        module = ProgramModule(program.rewritten(program.graph, state), checked=False)
        return list(pytree.tree_leaves(module(*args, **kwargs)))


def difference(before: Sequence[object], after: Sequence[object]) -> str:
    """How two results differ, in words; empty if they do not."""
    if len(before) != len(after):
        return f"gives {len(after)} outputs, and there were {len(before)}"
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
            if one is not other and one != other:
                return f"changes the output {index} from {one!r} to {other!r}"
            continue
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"changes the output {index} from {one.dtype} {list(one.shape)} to {other.dtype} {list(other.shape)}"
        allowed = TOLERANCE.get(one.dtype, 0.0)
        a, b = (value.to(torch.complex128 if value.is_complex() else torch.float64) for value in (one, other))
        if torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan()):
            continue
        far = float((a - b).abs().max())
        largest = float(a.abs().max())
        if torch.isfinite(a).all() and not torch.isfinite(b).all():
            return f"changes the output {index}: numbers that were finite are not"
        if not far <= allowed * max(largest, 1e-6):
            return f"changes the output {index} by up to {far:.3g}, where the largest number is {largest:.3g}"
    return ""


def digests(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Name of a tensor → what tells its values from others; tensors without values are left out."""
    return {
        name: hashlib.blake2b(_bytes(tensor)).hexdigest()
        for name, tensor in state.items()
        if not tensor.is_meta and tensor.numel()
    }


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def written(before: Mapping[str, str], state: Mapping[str, torch.Tensor]) -> str:
    """Which weight has other values than before, in words; empty if none has."""
    changed = [name for name, digest in digests(state).items() if before.get(name, digest) != digest]
    others = f" and into {len(changed) - 1} others" if len(changed) > 1 else ""
    return f"writes into {changed[0]}{others}" if changed else ""
