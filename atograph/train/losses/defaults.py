"""The loss and the metric of a task that brings none: classification on the usual forms of batches and
outputs.

Batches: ``(inputs, targets)``, ``(input, ..., targets)``, or a dict that is the model's keyword arguments. Of
an output that is not one tensor, the logits are its ``logits`` or ``out`` (named tuple, dict, or object), or
else its first tensor; auxiliary heads take no part.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from atograph.passes.errors import UserError
from atograph.train.losses.targets import IGNORED, refuse_other_targets, why_no_top1
from atograph.values.batches import describe, tensors

LABELS = ("labels", "label", "targets", "target")
OWN_LOSS = "define loss(model, batch) for it."
_TOKENS = "input_ids"
"""What models of transformers call the tokens of a batch."""


def named(output: object, name: str) -> object:
    """``output[name]`` or ``output.name``, None without it."""
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def logits_of(output: object) -> Tensor:
    """The tensor of a model's output that holds the logits (see the module's docstring).

    Raises:
        UserError: the output has no tensor.
    """
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "out"):
        if isinstance(value := named(output, name), Tensor):
            return value
    first = next(tensors(output), None)
    if first is None:
        raise UserError(f"the model's output, {describe(output)}, holds no tensor.", hint=OWN_LOSS.capitalize())
    return first


def split(batch: object) -> tuple[object, Tensor | None]:
    """Take a batch apart into the model's inputs and the targets (None: there are none to be seen)."""
    if isinstance(batch, Mapping):
        return batch, next((batch[name] for name in LABELS if isinstance(batch.get(name), Tensor)), None)
    if isinstance(batch, (list, tuple)) and len(batch) >= 2 and isinstance(batch[-1], Tensor):
        inputs = batch[0] if len(batch) == 2 else tuple(batch[:-1])
        return inputs, batch[-1]
    return batch, None


def call(model: nn.Module, inputs: object) -> object:
    """``model(**inputs)`` of a dict, ``model(*inputs)`` of a list or tuple, ``model(inputs)`` of the rest."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (list, tuple)):
        return model(*inputs)
    return model(inputs)


def logits_by(model: nn.Module, inputs: object) -> Tensor:
    """The logits that a model gives for a batch's inputs.

    What was captured (``captured``: the names of its inputs) gets no targets that it was captured without: they make
    a loss, and the logits are the same.

    Raises:
        UserError: the output has no tensor.
    """
    captured = getattr(model, "captured", None)
    if isinstance(inputs, Mapping) and isinstance(captured, frozenset):
        inputs = {name: value for name, value in inputs.items() if name in captured or name not in LABELS}
    return logits_of(call(model, inputs))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits [N, C, ...] with class indices [N, ...] or probabilities [N, C, ...].

    Raises:
        UserError: the targets are neither (`losses.targets.refuse_other_targets`).
    """
    refuse_other_targets(logits, targets)
    return nn.functional.cross_entropy(logits, targets if targets.is_floating_point() else targets.long())


def default_loss(model: nn.Module, batch: object) -> Tensor:
    """Loss of one batch: the output's own ``loss`` for a dict batch, or else cross-entropy with the targets.

    Raises:
        UserError: neither can be had from this batch and this output.
    """
    inputs, targets = split(batch)
    output = call(model, inputs)
    if isinstance(batch, Mapping) and isinstance(loss := named(output, "loss"), Tensor):
        return loss
    if targets is None:
        wanted = "a loss in the output or labels in the batch" if isinstance(batch, Mapping) else "(inputs, targets)"
        hint = OWN_LOSS.capitalize()
        if isinstance(batch, Mapping) and _TOKENS in batch:
            hint = f'A causal language model has its tokens as labels: {{..., "labels": {_TOKENS}}}. Else {OWN_LOSS}'
        raise UserError(f"the default loss needs {wanted}, but a batch is {describe(batch)}.", hint=hint)
    return cross_entropy(logits_of(output), targets)


def default_metric(model: nn.Module, batch: object) -> Tensor | None:
    """Top-1 accuracy of one batch, over all positions of dense targets but those marked -100; None where it
    makes none.

    It makes none without integer class targets of the logits' shape [N, C, ...] without C (regression, soft
    labels, sequence models, whose logits put C last), and of one column of logits; `why_no_metric` says which.
    """
    inputs, targets = split(batch)
    if targets is None or targets.is_floating_point() or targets.dtype is torch.bool:
        return None
    logits = logits_by(model, inputs)
    if why_no_top1(logits, targets):
        return None
    counted = targets != IGNORED
    right = (logits.argmax(dim=1) == targets) & counted
    return right.sum() / counted.sum().clamp(min=1)


def why_no_metric(model: nn.Module, batch: object) -> str:
    """Why the default metric makes none of a batch; empty where it makes one."""
    inputs, targets = split(batch)
    if targets is None:
        return f"a batch, {describe(batch)}, has no targets to be seen"
    return why_no_top1(logits_by(model, inputs), targets)
