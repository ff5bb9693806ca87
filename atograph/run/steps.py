"""The steps of a run: prepare, rehearse, train, and hand over, which is slim, export, prove, write."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from atograph.capture.model_state import current_state
from atograph.declared.tokenizer import OLD_NUMBERS, write_tokens
from atograph.files.reading import Json
from atograph.files.run_folder import NotInPlace, RunFolder
from atograph.files.writing import naming, scratch, writing
from atograph.inspection import overview
from atograph.inspection.notes import flops_line, state_line
from atograph.inspection.page import page
from atograph.ort.model import OnnxModel
from atograph.passes.ir.exported.to_exported import to_exported
from atograph.passes.ir.outputs import left_out_text
from atograph.passes.ir.values import require_values
from atograph.passes.plan.plan import Plan
from atograph.process.stages import stage
from atograph.program.attributes import write_attributes
from atograph.proof.decisions import check_decisions
from atograph.proof.determinism import check_steady, listed
from atograph.report.run import Report
from atograph.run import latency_budget
from atograph.run.job import Job, Outcome, Prepared, Result
from atograph.run.measure import check_cost, measure
from atograph.run.rehearse import Deployment, check_task, deploy, deployment, rehearse, tell_of_no_metric
from atograph.run.report_so_far import write_log
from atograph.run.saving.served import fewer_tokens, save_pretrained
from atograph.run.unfinished import resumption, unproved
from atograph.sessions.file_model import FileModel
from atograph.slimming.index_map import small_module
from atograph.slimming.keep_module import keep_module
from atograph.slimming.masking import zero_
from atograph.slimming.slim import slim
from atograph.spec.example_inputs import Inputs, check_accepts
from atograph.targets.base import Target
from atograph.targets.deployed import dense_file, export
from atograph.targets.onnx_runtime import OnnxRuntime
from atograph.terminal.console import Console
from atograph.train.loop import auto_train_once, dense_training
from atograph.train.losses.untrained import NOISE, looks_untrained
from atograph.train.processes.replicas import join
from atograph.train.progress import Each, Progress
from atograph.train.pruning.selection import check_alike
from atograph.train.saved.checkpoints import Checkpoints
from atograph.train.settings import TrainSettings, needs_data
from atograph.train.settings.method_table import METHODS
from atograph.train.tensorboard import TensorBoard
from atograph.values.eval_mode import copy_of
from atograph.values.user_code import in_one_line


@dataclass(frozen=True)
class Run:
    """One run, step by step.

    Attributes:
        out: the folder that it is to have; None: none.
        folder: that folder, in the first process.
        resume: whether it goes on with an earlier one.
        console: what the user sees.
    """

    out: Path | None
    folder: RunFolder | None
    resume: bool
    console: Console

    def carry_out(self, job: Job) -> Result:
        """All of it."""
        job = job.at_its_batch()
        with scratch() as aside:
            prepared = self.prepare(job)
            deployed = deployment(prepared, aside)
            outcome = unproved.take_up(self.out, prepared) if self.resume and self.out is not None else None
            if outcome is None:
                if self.resume and self.out is not None:
                    resumption.check_same(self.out, job.settings, _identity(prepared))
                tell_of_no_metric(job, self.console)
                if needs_data(job.settings):
                    rehearse(prepared, deployed, aside, self.console)
                else:
                    deployed.check(self.console)
                outcome = self.train(prepared)
            else:
                self.console.say("the training is finished already; what follows it is done again")
                deployed.check(self.console)
            return self.hand_over(outcome, deployed, aside)

    def prepare(self, job: Job) -> Prepared:
        """Capture the model, and find out whether it can be trained to the budgets.

        Raises:
            UserError: it cannot.
        """
        started, console = time.monotonic(), self.console
        for gone in job.declared:
            console.say(str(gone))
        require_values(current_state(job.model), "training needs the values of the weights")
        for target in job.make_targets():
            target.check(current_state(job.model))
        check_accepts(job.model, job.inputs, where=job.where)
        check_task(job)
        teacher = job.model if job.task.teacher is None else job.task.teacher
        if job.settings.distill and looks_untrained(teacher):
            console.warn(NOISE.format(how="--init FILE, a model() that loads some, or teacher()") + ".")
        graph = job.trace()
        changed = check_steady(job.model, job.inputs, graph.program, where=job.where)
        if changed:
            console.warn(f"each call of the model changes {listed(changed)}; the slim program does not do that.")
        for name, why in graph.program.interface.still.items():
            console.warn(f"{name} stays as in the example: {why}")
        check_decisions(job.model, job.task, graph.program, where=job.where)
        for decision in graph.program.interface.decided:
            console.say(decision.note)
        if counted := flops_line(graph.program):
            console.say(counted)
        one_length = state_line(graph.program)
        if one_length:
            console.warn(one_length)
        left_out = left_out_text(graph.program.interface)
        if left_out:
            console.say(f"left out of what the model returns: {left_out}")
        graph = graph.steered(**job.settings.steering)
        if job.settings.keep_module or job.settings.plain_module:
            graph = keep_module(graph, plain=job.settings.plain_module)
        if job.within is not None:
            graph = graph.within(job.within)
        check_cost(graph, job.inputs)
        alone = join(job.settings.device).count == 1
        settings = job.selection.fitted(graph.groups, graph.program, job.settings)
        settings = latency_budget.prepare(
            graph, settings, job.later, earlier=self._measured_earlier(), alone=alone, targets=job.make_targets()
        )
        multiple = settings.rounding
        assert isinstance(multiple, int)
        budgets = graph.budgets(**settings.budgets)
        smallest, *_later = (
            job.selection.smallest(each, graph.groups, settings.floor, multiple)
            for each in (budgets, *(graph.budgets(**later) for later in job.later))
        )
        for what, share in budgets.shares.items():
            console.budget(what, share, budgets.dense[what], smallest[what])
        method = METHODS.get(settings.method)
        console.say(f"method: {method.name}, {job.selection.by(settings)}: {method.help}")
        if settings.distill and settings.epochs:
            console.say(_teacher_line(job, settings))
        if graph.latency is not None and graph.latency.tried:
            console.say(latency_budget.rounding_line(multiple, graph.latency.tried))
        elif job.settings.rounding == "fit" and multiple > 1:
            console.say(f"widths in multiples of {multiple}, as suits the network's own (--round-to 1: any width)")
        return Prepared(job, graph, settings, smallest, multiple, started)

    def train(self, prepared: Prepared) -> Outcome:
        """Train the model, and before it a dense copy if that was asked for.

        Raises:
            UserError: as `auto_train_once`.
        """
        job, graph, out = prepared.job, prepared.graph, self.out
        if self.folder is not None and out is not None and not self.resume:
            resumption.clear(out)  # not before all that may be wrong with this run was looked at
        replicas = join(prepared.settings.device)
        replicas.wait()
        check_alike(job.selection, replicas)
        if not replicas.rank:
            beside = None if out is None else resumption.checkpoints_beside(out) / latency_budget.FILE
            latency_budget.keep(graph, prepared.settings, beside)
        own = _identity(prepared)
        baseline, training = (
            None if out is None else resumption.checkpoints(out, part, job.settings, own)
            for part in ("baseline", "training")
        )
        dense_metric = _baseline(job, self.console, baseline) if job.baseline else None
        trained = auto_train_once(
            job.model,
            graph,
            job.task,
            prepared.settings,
            _progress(job, replicas.rank, self.console),
            shrink=partial(small_module, graph),
            checkpoints=training,
            selection=job.selection,
        )
        if trained.best_epoch is not None:
            self.console.say(
                f"epoch {trained.best_epoch} is kept, the best one after the zeroing: "
                f"{job.task.metric_name} {trained.metric_masked:.4f}"
            )
        if replicas.rank:
            replicas.wait()  # the first process measures alone
        return Outcome(prepared, trained, dense_metric)

    def hand_over(self, outcome: Outcome, deployed: Deployment, aside: Path) -> Result:
        """Make of the trained network what the user gets.

        Raises:
            NotProved: something of it failed; the weights, the plan and a report are in the folder.
        """
        replicas = join(outcome.prepared.settings.device)
        try:
            self._tell_of(outcome.trained.failure)
            result = self._slim_export_prove_write(outcome, deployed, aside)
        except NotInPlace:  # it is proved
            raise
        except BaseException as error:
            raised = unproved.keep(outcome, error, self.folder)
            if self.out is not None and raised.complete:
                resumption.clear(self.out)  # what goes on goes on from the folder
            if not isinstance(error, Exception):  # an interrupt stays one
                error.add_note(str(raised))
                raise
            raise raised from error
        if self.folder is not None and self.out is not None:
            resumption.clear(self.out)
        if not replicas.rank:
            replicas.wait()
        return result

    def _tell_of(self, failure: BaseException | None) -> None:
        """Say what failed after the last step; an interrupt is not swallowed."""
        if failure is None:
            return
        if not isinstance(failure, Exception):
            raise failure
        self.console.warn(f"the training is finished, though at its end something failed: {in_one_line(failure)}")

    def _slim_export_prove_write(self, outcome: Outcome, deployed: Deployment, aside: Path) -> Result:
        prepared, trained, console = outcome.prepared, outcome.trained, self.console
        job, graph, plan = prepared.job, prepared.graph, outcome.trained.plan
        console.phase("slimming")
        zero_(job.model, plan)
        outcome.slimmed = slimmed = slim(graph, plan)
        with nullcontext() if self.folder is None else self.folder as place:
            files, where = (aside, aside) if place is None or self.out is None else (place, self.out)
            with stage("exporting"), naming(where):
                _export(outcome, deployed, files, aside)
            report = measure(outcome, console)
            if place is not None:
                with writing(where):
                    slimmed.save(place)
                    if (fewer := fewer_tokens(job.model)) is not None:
                        write_tokens(fewer, place)
                    write_attributes(graph.changed_attributes(), place)
                    _save_pretrained(outcome, place, where, report, console)
                    drawn = _page(prepared, plan, report, console)
                    report.save(place / "report.json")
                    if drawn is not None:
                        (place / "report.html").write_text(drawn, encoding="utf-8")
                    if graph.latency is not None:
                        graph.latency.record.save(place / latency_budget.FILE)
                    write_log(place / "log.csv", trained.history)
        return Result(job.model, plan, slimmed, report, trained.history, None if self.folder is None else self.out)

    def _measured_earlier(self) -> Path | None:
        """The record of latencies of the run that this one goes on with."""
        if self.out is None or not self.resume:
            return None
        places = (self.out, resumption.checkpoints_beside(self.out))
        return next((place / latency_budget.FILE for place in places if (place / latency_budget.FILE).exists()), None)


def _save_pretrained(outcome: Outcome, place: Path, where: Path, report: Report, console: Console) -> None:
    """Write a folder that the model's library loads; where there is none, this is told and noted."""
    slimmed, job = outcome.slimmed, outcome.prepared.job
    assert slimmed is not None
    for written in save_pretrained(slimmed, job.model, place):
        what = f"{written.kind}.from_pretrained" + (f" (of {written.part} in the model)" if written.part else "")
        if written.why_not:
            report.notes.append(f"no {written.name} folder for {what}: {written.why_not}")
        console.say(f"{report.notes[-1]}." if written.why_not else f"{what} loads {where / written.name}")
        if written.why_no_tokenizer:
            report.notes.append(f"no tokenizer in {written.name}: {written.why_no_tokenizer}; {OLD_NUMBERS}")
            console.say(f"{report.notes[-1]}.")


def _page(prepared: Prepared, plan: Plan, report: Report, console: Console) -> str | None:
    """What ``report.html`` shows; None where it cannot be drawn, which is told and noted, and takes no proof away."""
    try:
        shown = overview(prepared.graph, plan, name=prepared.job.name, floor=prepared.settings.floor)
        return page(shown, report)
    except OSError:
        raise
    except Exception as error:
        note = f"report.html could not be drawn: {in_one_line(error)}"
        console.warn(note)
        report.notes.append(note)
        return None


def _export(outcome: Outcome, deployed: Deployment, folder: Path, aside: Path) -> None:
    """Write the slim model for each target, and load the files; where they are timed the dense model as well."""
    slimmed, job, dense = outcome.slimmed, outcome.prepared.job, deployed.dense
    assert slimmed is not None
    budgets = outcome.prepared.settings.budgets
    asked = {"atograph.budgets": ", ".join(f"{what}={share:g}" for what, share in budgets.items())}
    outcome.deployed = deploy(
        slimmed, deployed.targets, folder, asked, amended_for=Inputs(*slimmed.state.inputs(job.inputs.example))
    )
    outcome.onnx = next((file.run for file in outcome.deployed if isinstance(file.run, OnnxModel)), None)
    if dense is not None:
        outcome.files = dense.path, folder / dense.target.file
    for target in deployed.targets:
        try:
            pair = _dense_and_slim(outcome, deployed, target, folder, aside)
        except Exception as error:  # the slim model is there, and what it is compared with takes nothing from it
            outcome.notes.append(f"the dense model could not be timed in {target.title}: {in_one_line(error)}")
            continue
        if pair is not None:
            outcome.timed.append(pair)


def _dense_and_slim(
    outcome: Outcome, deployed: Deployment, target: Target, folder: Path, aside: Path
) -> tuple[FileModel, FileModel] | None:
    """Both models as they are timed: in ONNX Runtime, and in the target that latency is asked of; None for others."""
    graph, settings, slimmed = outcome.prepared.graph, outcome.prepared.settings, outcome.slimmed
    assert slimmed is not None
    if isinstance(target, OnnxRuntime):
        return None if deployed.dense is None or outcome.onnx is None else (deployed.dense.model(), outcome.onnx)
    if target.name != latency_budget.timed_in(settings, deployed.named):
        return None
    threads, program = settings.latency_threads, to_exported(graph.program)
    dense = target.timed(export(target, program, dense_file(target, aside)), program, threads)
    slim = target.timed(folder / target.file, slimmed.program, threads)
    return None if dense is None or slim is None else (dense, slim)


def _identity(prepared: Prepared) -> dict[str, Json]:
    job = prepared.job
    return resumption.identity(job.settings, prepared.graph, job.init, job.selection)


def _teacher_line(job: Job, settings: TrainSettings) -> str:
    teacher, part = job.task.teacher, f"by {100 * settings.distill_weight:.3g} % of the loss"
    if teacher is None:
        return f"teacher: the model as it comes, {part}"
    numbers = sum(each.numel() for each in teacher.parameters())
    return f"teacher: {type(teacher).__name__} of {numbers:,} parameters, {part}"


def _progress(job: Job, rank: int, console: Console) -> Progress:
    shown = console.progress("training", job.task.metric_name)
    return shown if job.tensorboard is None or rank else Each([shown, TensorBoard(job.tensorboard)])


def _baseline(job: Job, console: Console, checkpoints: Checkpoints | None) -> float | None:
    model = copy_of(job.model)
    progress = console.progress("dense baseline", job.task.metric_name)
    settings = job.settings
    if job.dense_epochs is not None:
        settings = settings.model_copy(update={"epochs": job.dense_epochs})
    return dense_training(model, job.task, settings, progress, checkpoints).metric
