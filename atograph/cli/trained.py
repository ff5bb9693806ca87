"""A model with trained weights and some of its data, as `sweep` and `sensitivity` look at it; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atograph.cli.apply import empty_model
from atograph.cli.compress import train_settings
from atograph.cli.inspect import check_choice
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.errors import UserError

if TYPE_CHECKING:
    from atograph.graph.graph import Graph
    from atograph.spec.example_inputs import Inputs
    from atograph.spec.spec import Spec
    from atograph.terminal.console import Console
    from atograph.train.settings import TrainSettings


@dataclass(frozen=True)
class Trained:
    """What was loaded.

    Attributes:
        spec: the file or module.
        settings: its own, and those that were typed.
        graph: of the model, steered as the settings say.
        batches: the first ones of ``train_data()``; none where nobody looks at any.
        val_data: batches that metrics are measured on; None where the SPEC has none.
    """

    spec: Spec
    settings: TrainSettings
    graph: Graph
    batches: list[Any]
    val_data: Iterable[object] | None


def load_trained(
    text: str,
    *,
    init: Path | None,
    data: Path | None,
    given: Mapping[str, object],
    batches: int,
    option: str,
    criteria: Sequence[str],
    looking: bool = False,
    weights: Path | None = None,
    console: Console,
) -> Trained:
    """Load a model and trace it.

    Args:
        text: the SPEC as it was typed.
        init: trained weights.
        data: for the functions of the SPEC that ask for it.
        given: settings as they were typed.
        batches: how many of ``train_data()`` are read.
        option: by which criteria are named.
        criteria: their names, which the SPEC may have registered.
        looking: whether any batch is read, whatever they need.
        weights: a checkpoint that is not loaded: the model is made without weights.
        console: is told what is done.

    Raises:
        UserError: any of that cannot be used.
    """
    if batches < 1:
        raise UserError(f"--batches {batches}: 1 batch or more is looked at.")

    from atograph.files.checkpoint import Checkpoint
    from atograph.run.declare import left_of
    from atograph.run.job import trace_to_train
    from atograph.spec.example_inputs import check_accepts
    from atograph.spec.init_weights import load_init
    from atograph.spec.spec import load_spec
    from atograph.train.saved.seeding import seed_everything

    if weights is not None:
        Checkpoint.open(weights)  # what is wrong with the files themselves shows before any work
    console.phase("loading the file")
    spec = load_spec(text, data=data)
    for name in criteria:
        check_choice(option, name, CRITERIA)
    looking = looking or any(CRITERIA.get(name).observes() is not None for name in criteria)
    if looking:
        spec.require_training()
    settings = spec.settings(train_settings(given, ()))
    seed_everything(settings.seed)  # weights and the order of batches are the user's code
    if weights is not None:
        _check_not_loaded(init, settings)
        model = empty_model(spec, console)
    else:
        model = spec.model()
    if init is not None:
        load_init(model, init)
    some = list(islice(spec.train_data(), batches)) if looking else []
    inputs = spec.inputs()
    if weights is None:
        check_accepts(model, inputs, where=spec.where)
    left = left_of(model, inputs, settings, batches=lambda: _to_route(spec, inputs))
    for proof in left.proofs:
        console.say(f"before: {proof}")
    graph = trace_to_train(left.model.eval(), left.inputs, settings).steered(**settings.steering)
    val_data = spec.val_data()
    checked = None if val_data is None else left.checked(val_data, "val_data")
    return Trained(spec, settings, graph, list(left.checked(some, "train_data")), checked)


def _check_not_loaded(init: Path | None, settings: TrainSettings) -> None:
    """Refuse what needs the weights in memory.

    Raises:
        UserError: naming it.
    """
    if init is not None:
        raise UserError("--init loads weights, and --weights leaves them in their files.", hint="Give one of them.")
    if settings.experts is not None or settings.keep_tokens is not None:
        raise UserError(
            "--experts and --keep-tokens compare the model before and after in memory, where --weights leaves nothing.",
            hint="Leave out --weights, or do without them.",
        )


def _to_route(spec: Spec, inputs: Inputs) -> list[Any]:
    """Batches that routers of experts are watched on: of the training, or else the example inputs."""
    if not hasattr(spec.module, "train_data"):
        return [(inputs, None)]
    from atograph.declared.experts import BATCHES

    return list(islice(spec.train_data(), BATCHES))
