"""What is left of a model that loses experts or tokens before anything else, as declared: it, its inputs, its data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from atograph.declared.certificate import certify
from atograph.declared.experts import BATCHES, keep_experts
from atograph.declared.reduced import Reduced
from atograph.declared.smaller import counted_for, declared_of, smaller
from atograph.declared.token_inputs import Renumbered, TokenInputs
from atograph.declared.tokens import keep_tokens, read_tokens
from atograph.passes.declared import Declared
from atograph.passes.errors import UserError
from atograph.passes.plan.plan import Plan
from atograph.process.stages import stage
from atograph.report.declared import DeclaredProof
from atograph.run.job import Job
from atograph.spec.example_inputs import Inputs
from atograph.train.saved.seeding import order_kept
from atograph.train.settings import TrainSettings


@dataclass(frozen=True)
class Left:
    """A model after its changes.

    Attributes:
        model: what is left.
        inputs: of one call, as it takes them.
        changes: in order.
        proofs: of each change; none where nothing was to be proved.
        tokens: of each change of the vocabulary, the inputs that are tokens.
    """

    model: nn.Module
    inputs: Inputs
    changes: tuple[Declared, ...] = ()
    proofs: tuple[DeclaredProof, ...] = ()
    tokens: tuple[TokenInputs, ...] = ()

    def data(self, batches: Iterable[object]) -> Iterable[object]:
        """Batches of the dense model, as what is left takes them; readable as often as they are."""
        for tokens in self.tokens:
            batches = Renumbered(batches, tokens)
        return batches

    def checked(self, data: Iterable[object], name: str) -> Iterable[object]:
        """The same, after all of them were read through.

        Raises:
            UserError: they have tokens that are gone.
        """
        for tokens in self.tokens:
            with stage("reading the tokens of the data"), order_kept(data):
                tokens.check(data, name)
            data = Renumbered(data, tokens)
        return data

    def after(self, model: nn.Module, change: Declared, *, prove: bool, besides: str = "") -> Left:
        """The same after one more change, proved beside the model before it; ``besides`` as of `Reduced`."""
        proofs, inputs, tokens = self.proofs, self.inputs, self.tokens
        if prove:
            with stage("proving"):
                proof = certify(self.model, model, change, inputs)
            proofs = (*proofs, proof.model_copy(update={"besides": besides}))
        if change.kind == "tokens":
            found = counted_for(self.model.get_submodule(change.part), change)
            of_change = TokenInputs.of(self.model, change, found, inputs, model)
            inputs, tokens = of_change.renumbered(of_change.with_kept_only(inputs)), (*tokens, of_change)
        return Left(model, inputs, (*self.changes, change), proofs, tokens)


def left_of(
    model: nn.Module,
    inputs: Inputs,
    settings: TrainSettings,
    plan: Plan | None = None,
    *,
    batches: Callable[[], Iterable[object]] | None = None,
    prove: bool = True,
) -> Left:
    """What is left of a model after the changes of a plan, and those that its settings ask for.

    Args:
        model: the dense one, on the meta device where nothing is proved.
        inputs: of one call.
        settings: ``experts``, ``keep_tokens``.
        plan: that it is given; None: there is none.
        batches: makes those that routers are watched on; None: experts stay by their weights.
        prove: each change beside the model before it.

    Raises:
        UserError: the model has none of what is to go.
    """
    left = Left(model, inputs)
    for change in () if plan is None else plan.declared:
        left = left.after(smaller(left.model, change), change, prove=prove)
    if settings.experts is not None:
        with stage("choosing experts"):
            data = None if batches is None else left.data(batches())
            reduced = keep_experts(left.model, settings.experts, data)
        left = left.after(reduced.module, reduced.change, prove=prove)
    if settings.keep_tokens is not None:
        reduced = _without_tokens(left.model, settings.keep_tokens)
        left = left.after(reduced.module, reduced.change, prove=prove, besides=reduced.besides)
    return left


def _without_tokens(model: nn.Module, tokens: str | Iterable[int]) -> Reduced:
    """A model with some tokens; a file of them is named where they are not the model's."""
    if not isinstance(tokens, str):
        return keep_tokens(model, tokens)
    named = read_tokens(Path(tokens))
    try:
        return keep_tokens(model, named)
    except UserError as error:
        raise UserError(error.message, where=error.where or tokens, hint=error.hint) from error


def as_declared(job: Job) -> Job:
    """The job of the smaller model that its settings declare, or the plan that it is given.

    Raises:
        UserError: the model has none of what is to go, or the data has tokens that are to go.
    """
    task = job.task
    left = left_of(
        job.model, job.inputs, job.settings, job.selection.known,
        batches=lambda: task.some_batches(BATCHES) or [(job.inputs, None)],
    )  # fmt: skip
    if not left.changes:
        return job
    task = copy(task)
    task.train_data = left.checked(task.train_data, "train_data")
    task.val_data = None if task.val_data is None else left.checked(task.val_data, "val_data")
    for change in left.changes:
        if task.teacher is not None and change.kind == "tokens" and change not in declared_of(task.teacher):
            task.teacher = smaller(task.teacher, change)  # it reads the same data
    return replace(job, model=left.model, inputs=left.inputs, task=task, declared=left.proofs)
