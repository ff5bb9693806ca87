"""What slimming gives: the physically smaller program, and the user's own module made smaller where possible."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from atograph.graph.graph import Graph
from atograph.passes.errors import UserError
from atograph.passes.ir.decisions import DecidesOtherwise
from atograph.passes.ir.exported.notes import names_in_files, with_file_names
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.ir.interface import Example
from atograph.passes.ir.outputs import OutputPath, returning, without_unread
from atograph.passes.ir.program import Program
from atograph.passes.ir.run import ProgramModule
from atograph.passes.ir.values import require_values
from atograph.passes.pipeline.pipeline import Pipeline
from atograph.passes.plan.html_table import html_table
from atograph.passes.plan.plan import Plan
from atograph.passes.public import public
from atograph.passes.rewrite.slim import SlimProgram
from atograph.process.stages import stage
from atograph.program.limits import as_wide_as
from atograph.repair import NotRepaired, Problem, Repaired, slim_module
from atograph.report import numbers
from atograph.slimming.branches import module_without_branches
from atograph.slimming.hand_over import AsMade, like, own_tensors
from atograph.slimming.masking import Masked, mask
from atograph.values.not_pickled import NotPickled
from atograph.values.state_cut import StateCut
from atograph.values.user_code import in_one_line, kind_of


@public("atograph")
class Slim(NotPickled):
    """A slim model. One whose weights are on the meta device tells its sizes and shapes, and cannot be run or saved.

    Whoever trains `module` on gets the weights that it has by then: from a call of this object, from `program`,
    `double`, `to_onnx` and `save`. They are in the types and on the device that the program was made in.

    Attributes:
        plan: what was kept.
        flops: FLOPs of the slim program for a batch of one.
        params: its number of parameters.
    """

    instead = "slim.save(folder) writes program, weights and plan; slim.module is pickled as any module."

    def __init__(self, graph: Graph, plan: Plan, slimmed: Program) -> None:
        self._graph, self.plan, self._slimmed = graph, plan, slimmed
        own_tensors(slimmed, graph.program.state)
        self._exported: ExportedProgram | None = None
        self._callable: ProgramModule | None = None
        self._as_made: AsMade | None = None  # once there is a module
        self.flops = int(graph.cost.flops(plan.counts))
        self.params = sum(slimmed.state[name].numel() for name in slimmed.parameter_names())

    def __repr__(self) -> str:
        """In one line: what stays of the dense model."""
        return "<Slim: " + ", ".join(f"{left} of the {what} ({share})" for what, _, left, share in self._sizes()) + ">"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        return html_table(f"slim model, plan {self.plan.digest}", ("", "dense", "slim", "slim / dense"), self._sizes(),
                          right=(1, 2, 3))  # fmt: skip

    def _sizes(self) -> list[tuple[str, str, str, str]]:
        counts = (("FLOPs", self._graph.flops, self.flops), ("parameters", self._graph.params, self.params))
        return [
            (what, numbers.count(dense), numbers.count(left), numbers.percent(left / max(dense, 1)))
            for what, dense, left in counts
        ]

    @cached_property
    def bytes(self) -> int:
        """Peak memory of its activations for a batch of one, as an interpreter of the program needs it."""
        return int(self._graph.cost.bytes(self.plan.counts))

    @property
    def left_out(self) -> frozenset[OutputPath]:
        """The ways to outputs of the model that the program does not return."""
        return frozenset(self._slimmed.interface.left_out.values())

    @cached_property
    def state(self) -> StateCut:
        """How the dense network's state, in inputs and outputs, becomes this one's."""
        return StateCut(self.plan, self._slimmed)

    def cut_state(self, *args: object, **kwargs: object) -> Example:
        """Arguments of the dense network as this program takes them: what is state in them without the units that went.

        The program computes what the masked network does as long as the first state is zero at these units, as an empty
        cache and zeros are.

        Raises:
            UserError: they are not of the structure that the model was traced with.
        """
        inputs: Example = self.state.inputs((args, kwargs))
        return inputs

    def dense_program(self) -> ExportedProgram:
        """The program that it was made of, with the weights of that time: masked, if the model was."""
        return to_exported(self._graph.program)

    @property
    def passes_program(self) -> Program:
        """The slim program in the form that passes work on.

        Raises:
            UserError: `module` is not what it was made as any more, so that this is not its program.
        """
        if self._as_made is not None:
            program = self._as_made.follow(self._slimmed)
            if program is not self._slimmed:
                self._slimmed, self._exported, self._callable = program, None, None
        return self._slimmed

    @property
    def program(self) -> ExportedProgram:
        """The slim `torch.export.ExportedProgram`; always there.

        Raises:
            UserError: as `passes_program`.
        """
        program = self.passes_program
        if self._exported is None:
            self._exported = as_wide_as(program, to_exported(program))
        return self._exported

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Run the slim program on inputs like those of the model.

        Raises:
            UserError: the weights are on the meta device, as for all that needs their values.
        """
        self._require_values("running a program needs the values of its weights")
        return self._runnable()(*args, **kwargs)

    def _runnable(self) -> ProgramModule:
        program = self.passes_program
        if self._callable is None:
            self._callable = ProgramModule(program)
        return self._callable

    def why_not(self, *args: object, **kwargs: object) -> str:
        """Why the program cannot take these inputs: they are not of the structure or the sizes that it was traced with.

        Empty where it can.
        """
        try:
            self._runnable().inputs_of(args, kwargs)
        except UserError as error:
            return error.message
        return ""

    def decides_otherwise(self, masked: nn.Module, *args: object, **kwargs: object) -> bool:
        """Whether the model decides otherwise by these inputs than by the example, with the weights of its masked form.

        Known where the program has no checks, too.
        """
        program = self._graph.program
        if not program.interface.decided:
            return False
        weights = masked.state_dict(keep_vars=True)
        own = program.rewritten(
            program.graph, {name: weights.get(name, value) for name, value in program.state.items()}
        )
        try:
            ProgramModule(own, checked=True)(*args, **kwargs)
        except DecidesOtherwise:
            return True
        except UserError:
            return False
        return False

    def as_module(self) -> nn.Module:
        """The slim program as a module that runs it; its train() and eval() change nothing."""
        return _Runner(self)

    def double(self) -> nn.Module:
        """A copy of the slim program in float64, to run."""
        self._require_values("running a program needs the values of its weights")
        program = self.passes_program
        state = {name: like(value, value.detach()) for name, value in program.state.items()}
        own = program.rewritten(program.graph, state)
        return ProgramModule(own).double()

    @cached_property
    def _repaired(self) -> Repaired | NotRepaired:
        model = self._graph.model
        if model is None:
            return NotRepaired(Problem("the graph was not traced from a module"))
        if isinstance(model, ProgramModule):
            made = ProgramModule(self._slimmed.rewritten(self._slimmed.graph, _copies(self._slimmed.state)))
            self._as_made = AsMade(made)
            return Repaired(made.train(model.training), (), ())
        try:
            if self.plan.emptied:
                repaired = module_without_branches(model, self._graph.program, self._slimmed, self.plan)
            else:
                repaired = slim_module(
                    model, self._graph.program, self._slimmed, self.plan, lambda: mask(model, self.plan),
                    lambda: Masked(model, self.plan),
                )  # fmt: skip
        except NotRepaired as reason:
            return reason
        except UserError:
            raise
        except Exception as error:  # the program is there all the same
            text = f"making it failed, which is a bug in atograph; please report it: {in_one_line(error)}"
            broken = NotRepaired(Problem(text))
            broken.__cause__ = error
            return broken
        self._as_made = AsMade(repaired.module)
        return repaired

    @property
    def module(self) -> nn.Module | None:
        """The user's own module made slim, checked against the program; None where ``why_no_module`` says why.

        Where its code keeps widths that no attribute holds, some of its modules have hooks that correct single calls:
        `repairs` lists them. They are copied and pickled with the module.
        """
        return self._repaired.module if isinstance(self._repaired, Repaired) else None

    @property
    def why_no_module(self) -> str:
        """Why there is no slim module; empty if there is one."""
        return "" if isinstance(self._repaired, Repaired) else str(self._repaired)

    @property
    def repairs(self) -> tuple[str, ...]:
        """In words, what was repaired in the slim module beside its tensors: attributes first, then single calls."""
        found = self._repaired
        if not isinstance(found, Repaired):
            return ()
        return (*found.attributes, *(call.text for call in found.calls), *found.notes)

    @property
    def corrected_calls(self) -> tuple[Problem, ...]:
        """The calls that the slim module makes in another way: without them it needs no atograph to be unpickled."""
        return self._repaired.calls if isinstance(self._repaired, Repaired) else ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What keeps the module from being slim, one by one; none if it is."""
        return () if isinstance(self._repaired, Repaired) else self._repaired.problems

    def to_onnx(
        self,
        path: str | Path,
        *,
        opset: int | None = None,
        metadata: Mapping[str, str] | None = None,
        external_data: bool = False,
        apart: Collection[tuple[str, str]] = (),
        outputs: Sequence[str] = (),
        check: bool = True,
    ) -> Path:
        """Export to ONNX with a dynamic batch, as `onnx.export.export_onnx`, and try the file in ONNX Runtime.

        Args:
            path: the file to write.
            opset: the ONNX opset; None leaves the choice to torch.
            metadata: more for the file's ``metadata_props``, beside what `metadata` says.
            external_data: keep the weights in a second file.
            apart: types of ops that ONNX Runtime would fuse to something else, in pairs, kept apart in the file.
            outputs: names or globs of the outputs that the file returns, with what they need, and takes only the inputs
                that these read; none: all of them. An encoder and a decoder become two files so.
            check: run the file on the example inputs, as the commands do (`ort.trial.export_tried`); without it a file
                is written that ONNX Runtime may not be able to run.

        Raises:
            UserError: torch.onnx cannot express the program, or there is no such output; or ONNX Runtime cannot run the
                file, and nothing is written then.
        """
        from atograph.onnx.export import export_onnx

        self._require_values("an ONNX file holds the values of the weights")
        own = {**self.metadata, **(metadata or {})}
        program, exported = self.passes_program, self.program
        if outputs:
            program = without_unread(returning(program, outputs))
            part = to_exported(program)
            exported = with_file_names(part, {**names_in_files(exported), **names_in_files(part)})

        def export(file: Path, apart: Collection[tuple[str, str]] = apart) -> Path:
            return export_onnx(
                exported, file, opset=opset, metadata=own, external_data=external_data, apart=apart,
                only_read=bool(outputs),
            )  # fmt: skip

        if not check:
            return export(Path(path))
        from atograph.ort.trial import export_tried

        return export_tried(program, exported, Path(path), export)

    @property
    def metadata(self) -> dict[str, str]:
        """What an ONNX file says about where it comes from: the plan, and what was kept of the dense model."""
        from atograph.onnx.metadata import metadata

        dense, interface = self._graph, self._slimmed.interface
        own = metadata(
            self.plan, flops=(self.flops, dense.flops), params=(self.params, dense.params), limits=interface.limits
        )
        return {**interface.about.properties, **own}

    def save(self, folder: str | Path) -> Path:
        """Write ``slim.pt2`` (the program), ``slim.safetensors`` (its weights) and ``plan.json`` into a folder.

        ``report.json`` is for the commands, which take the folder as that of a run; a run's own stays where it is of
        the same plan.

        Raises:
            UserError: they cannot be written; what was there under these names is as it was.
        """
        from safetensors.torch import save_file

        from atograph.files.writing import replacing, writing
        from atograph.program import pt2_file
        from atograph.report.applied import SavedCost, SavedReport, tells_of

        self._require_values("saving needs the values of the weights")
        target = Path(folder)
        program = pt2_file.program_bytes(self.program, self.plan.digest)
        state = {name: value.detach().cpu().contiguous() for name, value in self.passes_program.state.items()}
        dense = SavedCost(flops=self._graph.flops, params=self._graph.params)
        own = SavedCost(flops=self.flops, params=self.params)
        with replacing(target, where=target) as place, writing(target):
            (place / pt2_file.NAME).write_bytes(program)
            save_file(_unshared(state), place / "slim.safetensors")
            (place / "plan.json").write_text(self.plan.to_json(), encoding="utf-8")
            if not tells_of(target, self.plan):
                report = SavedReport(plan=self.plan.digest, dense=dense, slim=own)
                report.save(place / "report.json")
        return target

    def _require_values(self, doing: str) -> None:
        hint = "Load the weights and slim again, or slim a checkpoint with atograph.apply_plan, one tensor at a time."
        require_values(self._slimmed.state, doing, hint)


def _copies(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: like(value, value.detach().clone()) for name, value in state.items()}


class _Runner(nn.Module):
    def __init__(self, model: Slim) -> None:
        super().__init__()
        self._model = model

    def forward(self, *args: object, **kwargs: object) -> Any:
        return self._model(*args, **kwargs)


def _unshared(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """safetensors refuses tensors that share memory: tied weights are written once per name."""
    seen: set[int] = set()
    result = {}
    for name, value in state.items():
        pointer = value.untyped_storage().data_ptr()
        result[name] = value.clone() if pointer in seen else value
        seen.add(pointer)
    return result


@public("atograph")
def slim(graph: Graph, plan: Plan) -> Slim:
    """Remove what a plan drops.

    Args:
        graph: of the model, as `trace` gave it; the weights are read from it now, or stay on the meta device.
        plan: made by ``graph.plan(...)`` or read from a file.

    Raises:
        UserError: these are no graph and plan, or the plan is for another model.
    """
    if not isinstance(graph, Graph) or not isinstance(plan, Plan):
        raise UserError(
            f"slim takes a graph and a plan, not {kind_of(graph)} and {kind_of(plan)}.",
            hint="graph = atograph.trace(model, example); atograph.slim(graph, graph.plan(flops=0.5)).",
        )
    with stage("slimming"):
        graph.read_weights()
        graph = graph.up_to_date()
        slimmed = Pipeline((SlimProgram(plan),)).run(graph.program)
    return Slim(graph, plan, slimmed)
