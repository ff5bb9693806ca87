"""Copies of the user's model."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from atograph.passes.errors import UserError

M = TypeVar("M", bound=nn.Module)


def copy_of(model: M) -> M:
    """A deep copy of a model.

    Raises:
        UserError: the model holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise UserError(
            f"the model cannot be copied: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
            hint="A common cause is the old torch.nn.utils.weight_norm; torch.nn.utils.parametrizations has a new one.",
        ) from error
