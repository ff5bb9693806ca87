"""A model that decides by values: what it is given by the data has to decide as the example does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

import torch
from torch import nn

from atograph.passes.errors import UserError
from atograph.passes.ir.decisions import DecidesOtherwise
from atograph.passes.ir.interface import Example
from atograph.passes.ir.program import Program, copy_graph
from atograph.passes.ir.randomness import drop_dead_code
from atograph.passes.ir.run import ProgramModule
from atograph.passes.torch_private import pytree
from atograph.train.saved.seeding import order_kept, own_randomness
from atograph.train.task import Task
from atograph.values.batches import to_device
from atograph.values.eval_mode import eval_mode

_BATCHES = 8
"""How many batches of the training data are tried, and of the validation data."""


def check_decisions(model: nn.Module, task: Task, program: Program, *, where: str) -> None:
    """Try whether some batches of a task's data decide as the example does.

    Raises:
        UserError: one does not; with the line, and both values.
    """
    if not program.interface.decided or not program.interface.checked:
        return
    module = ProgramModule(_checks_alone(program))
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    for name, data in (("train_data", task.train_data), ("val_data", task.val_data)):
        with order_kept(data), own_randomness(), eval_mode(model), torch.no_grad():
            for number, batch in enumerate(islice(data or (), _BATCHES)):
                for args, kwargs in _calls(model, task, to_device(batch, device)):
                    try:
                        module(*args, **kwargs)
                    except DecidesOtherwise as error:
                        raise UserError(
                            f"batch {number} of {name} decides otherwise: {error.message}",
                            where=where,
                            hint=error.hint,
                        ) from error
                    except UserError:  # of other sizes, say: that is told where it matters
                        continue


def _checks_alone(program: Program) -> Program:
    """A program that returns nothing, and computes what its checks read."""
    graph, _nodes = copy_graph(program.graph)
    output = next(iter(reversed(graph.nodes)))
    output.args = ([],)
    drop_dead_code(graph)
    interface = replace(program.interface, writes=(), returns=pytree.tree_structure([]))
    return Program.build(graph, interface, program.state, root=program)


def _calls(model: nn.Module, task: Task, batch: object) -> Iterable[Example]:
    """What the loss of a batch calls the model with; nothing where it rejects the batch, which the training tells."""
    calls: list[Example] = []
    hook = model.register_forward_pre_hook(lambda _module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    try:
        task.checked_loss(model, batch)
    except Exception:
        return []
    finally:
        hook.remove()
    return calls
