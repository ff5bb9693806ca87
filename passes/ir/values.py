"""Tensors without values: what needs the weights themselves is refused while they are on the meta device."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from atograph.passes.errors import UserError

_LOAD = "Load the weights first: model.load_state_dict(weights, assign=True)."


def require_values(tensors: Mapping[str, torch.Tensor], doing: str, hint: str = _LOAD) -> None:
    """Refuse to go on with tensors that are on the meta device.

    Args:
        tensors: name → tensor.
        doing: what needs the values, as the start of a sentence: ``masking needs values``.
        hint: what the user can do.

    Raises:
        UserError: naming the first of them.
    """
    empty = [name for name, tensor in tensors.items() if tensor.is_meta]
    if empty:
        others = f" and {len(empty) - 1:,} other tensors have" if len(empty) > 1 else " has"
        raise UserError(f"{doing}, but {empty[0]}{others} none: the model is on the meta device.", hint=hint)
