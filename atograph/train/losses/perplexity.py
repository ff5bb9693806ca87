"""The perplexity of a language model, as a metric over all of the data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atograph.passes.errors import UserError
from atograph.passes.public import public
from atograph.train.losses.targets import IGNORED
from atograph.values.batches import describe


@public("atograph.train")
class Perplexity:
    """What a language model's loss per token comes to as a number of tokens that it wavers between: e to its power.

    It is of logits [N, T, C] and labels [N, T], so it measures an exported program and an ONNX file, which give logits,
    as it does the model. It is over all tokens together, and those marked -100 do not count.

    Args:
        shift: how many places on the token stands that a place predicts: 1 of a causal model of transformers, whose
            labels are its tokens; 0 where the labels stand where they are predicted (masked tokens, T5).

    >>> metric = Perplexity()
    >>> metric.update(torch.zeros(1, 3, 8), torch.tensor([[1, 2, 5]]))  # it takes any of eight tokens for as likely
    >>> round(metric.compute(), 3)
    8.0
    """

    higher_is_better = False

    def __init__(self, shift: int = 1) -> None:
        self._shift = shift
        self.reset()

    def reset(self) -> None:
        """Forget what was taken in."""
        self._loss, self._tokens = torch.zeros((), dtype=torch.float64), 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in the logits [N, T, C] and the labels [N, T] of a batch.

        Raises:
            UserError: they are of other shapes.
        """
        if outputs.ndim != 3 or outputs.shape[:2] != targets.shape:
            given = f"{describe(outputs)} and {describe(targets)}"
            raise UserError(f"perplexity is of logits [N, T, C] and labels [N, T], not of {given}.", where="metric")
        logits, labels = outputs[:, : outputs.shape[1] - self._shift], targets[:, self._shift :].long()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
        self._loss += loss.double().sum().cpu()
        self._tokens += int((labels != IGNORED).sum())

    def compute(self) -> float | None:
        """The perplexity of all that was taken in; None without a token, infinite where it is beyond a float."""
        return (self._loss / self._tokens).exp().item() if self._tokens else None
