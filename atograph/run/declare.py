"""A job whose model loses experts or tokens before anything else, as declared: model and data of what is left."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path

from torch import nn

from atograph.declared.certificate import certify
from atograph.declared.experts import BATCHES, keep_experts
from atograph.declared.smaller import counted_for, declared_of, smaller
from atograph.declared.token_inputs import Renumbered, TokenInputs
from atograph.declared.tokens import keep_tokens, read_tokens
from atograph.passes.declared import Declared
from atograph.process.stages import stage
from atograph.run.job import Job


def as_declared(job: Job) -> Job:
    """The job of the smaller model that its settings declare, or the plan that it is given.

    Raises:
        UserError: the model has none of what is to go, or the data has tokens that are to go.
    """
    settings, plan = job.settings, job.selection.known
    for change in () if plan is None else plan.declared:
        job = _with(job, smaller(job.model, change), change)
    if settings.experts is not None:
        with stage("choosing experts"):
            batches = job.task.some_batches(BATCHES) or [(job.inputs, None)]
            reduced = keep_experts(job.model, settings.experts, batches)
        job = _with(job, reduced.module, reduced.change)
    if settings.keep_tokens is not None:
        tokens = settings.keep_tokens
        reduced = keep_tokens(job.model, read_tokens(Path(tokens)) if isinstance(tokens, str) else tokens)
        job = _with(job, reduced.module, reduced.change)
    return job


def _with(job: Job, model: nn.Module, change: Declared) -> Job:
    """The job of a smaller model, proved beside the dense one."""
    with stage("proving"):
        proof = certify(job.model, model, change, job.inputs)
    task, inputs = copy(job.task), job.inputs
    if change.kind == "tokens":
        found = counted_for(job.model.get_submodule(change.part), change)
        tokens = TokenInputs.of(job.model, change, found, inputs)
        inputs = tokens.renumbered(tokens.with_kept_only(inputs))
        task.train_data = Renumbered(task.train_data, tokens)
        task.val_data = None if task.val_data is None else Renumbered(task.val_data, tokens)
    if task.teacher is not None and change.kind == "tokens" and change not in declared_of(task.teacher):
        task.teacher = smaller(task.teacher, change)  # it reads the same data
    return replace(job, model=model, inputs=inputs, task=task, declared=(*job.declared, proof))
