"""The finished rungs of a ladder, which a later process goes on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from atograph.files.durable import digest
from atograph.files.reading import read_bytes
from atograph.files.run_folder import RunFolder
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.report.run import Report
from atograph.run.job import Job, Result
from atograph.run.ladder.descent import Descent
from atograph.run.unfinished import resumption, unproved
from atograph.slimming.slim import slim
from atograph.train.losses.distilled import digest_of
from atograph.train.processes.replicas import join
from atograph.train.progress import EpochRow
from atograph.train.saved.checkpoints import Checkpoints, as_json, newest
from atograph.train.saved.seeding import random_state, set_random_state
from atograph.train.saved.weights import set_weights, weights_of
from atograph.values.attributes import Attributes, values_of
from atograph.values.eval_mode import copy_of

FILE = "ladder.json"
"""The report of a ladder, beside the folders of the runs."""


def is_begun(place: Path) -> bool:
    """Whether there is a run to go on with."""
    return resumption.last_of(place) is not None or unproved.is_there(place)


class Saved:
    """What a ladder needs of its finished rungs to go on with the next one: the trained network of each."""

    def __init__(self, out: Path | None, descent: Descent, job: Job, *, resume: bool, force: bool) -> None:
        self._out, self._names, self._resume = out, descent.names, resume
        shared = descent.settings[0].model_dump(exclude=resumption.OF_THE_MACHINE | {descent.budget, "epochs"})
        own = {f"the setting {name}": value for name, value in shared.items()}
        own[f"the budgets of {descent.budget}"] = list(descent.shares)
        own["the epochs of each"] = [settings.epochs for settings in descent.settings]
        own["the digest of the initial weights"] = None if job.init is None else digest(job.init)
        teacher = job.task.teacher if job.settings.distill else None
        own["the digest of the teacher's weights"] = None if teacher is None else f"{digest_of(teacher):.6e}"
        self._own = as_json(own | job.selection.identity)
        if out is None:
            return
        places = [out, *(out / name for name in self._names)]
        begun = [resumption.check(place, resume=resume, force=force) for place in places]
        replaces = force or (resume and (any(begun) or any(map(unproved.is_there, places))))
        for place in places[1:]:  # of a ladder that is not finished, runs may be there, and are taken up
            RunFolder(place, force=replaces)
        if (out / FILE).exists() and not replaces:
            raise UserError(
                "a ladder is there already.", where=str(out), hint="Replace it with --force, or name another --out."
            )
        if not resume:
            self.clear()

    def keep(self, number: int, job: Job) -> None:
        """A rung is finished; the job's model is the trained network."""
        if self._out is None or join(job.settings.device).rank:
            return
        state = {
            "weights": weights_of(job.model),
            "attributes": values_of(job.model),
            "random": random_state(job.task.train_data),
        }
        for name in self._names[number + 1 :]:
            resumption.clear(self._out / name)  # what an earlier ladder has left of it goes on from another network
        self._of(number).save(number, 0, state)

    def is_kept(self, number: int) -> bool:
        """Whether a rung is finished, in this process or an earlier one."""
        return self._out is not None and newest(self._of(number).folder) is not None

    def take_up(self, number: int, job: Job) -> Result | None:
        """A rung that an earlier process has finished; the job's model gets its weights. None: none has.

        Raises:
            UserError: it is of another ladder, or damaged, or its folder is gone.
        """
        if not self._resume or self._out is None or not self.is_kept(number):
            return None
        place = self._out / self._names[number]
        state = self._of(number).load()
        assert state is not None, "it is kept"
        if not place.is_dir():
            raise UserError(
                "this budget was finished, and its folder is not there any more.",
                where=str(place),
                hint="Put it back, and resume; or start anew with --force.",
            )
        report, plan = Report.load(place / "report.json"), Plan.from_json(read_bytes(place / "plan.json"))
        set_weights(job.model, state["weights"])
        Attributes(job.model).put(state["attributes"])
        set_random_state(state["random"], job.task.train_data)
        model = copy_of(job.model)
        graph = replace(job, model=model).trace().steered(**job.settings.steering)
        history = [EpochRow(**row) for row in report.curves]  # type: ignore[arg-type]
        return Result(model, plan, slim(graph, plan), report, history, place)

    def clear(self) -> None:
        """The ladder is finished, or starts anew."""
        if self._out is not None:
            for name in self._names:
                resumption.clear(self._out / name)
            resumption.clear(self._out)

    def _of(self, number: int) -> Checkpoints:
        assert self._out is not None, "it has a folder"
        return Checkpoints(resumption.checkpoints_beside(self._out) / self._names[number], self._own, seconds=0)
