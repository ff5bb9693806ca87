"""Watch a mixture of experts while it runs: what its routers choose, and what they would choose of fewer experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_PRODUCTS = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "addmm", "bmm"}
_SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_FORMS = {"to", "type", "float", "double", "half", "bfloat16", "t", "transpose", "contiguous", "detach", "__get__",
          "type_as", "permute", "unsqueeze", "view", "reshape"}  # fmt: skip
_CHOICES = {"topk": 1, "sort": 1, "max": 1, "argsort": None, "argmax": None}
"""What chooses experts, and at which place of the result the numbers of the chosen ones stand."""


class Routing(TorchFunctionMode):
    """While it is entered, notes what routers choose; with ``dropped``, some experts are out of the question.

    A router is known by its weights: what comes out of a product with them are its logits, one for each expert. Those
    of experts that are out are ``-inf`` there, and so where a correction for each expert is added later on.

    Args:
        model: that is run.
        routers: mixture → names of tensors in the model that have a row (weights) or a number (a correction) for each
            expert.
        size: number of experts.
        dropped: mixture → experts that are out of the question.

    Attributes:
        logits: mixture → of each call the logits, ``[tokens, experts]``, as the router gives them.
        chosen: mixture → of each call the numbers of the experts of each token, ``[tokens, k]``; of several choices the
            last one.
        finest: the narrowest type of floats that the model computes in.
    """

    def __init__(
        self,
        model: nn.Module,
        routers: Mapping[str, Sequence[str]],
        size: int,
        dropped: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        tensors = model.state_dict(keep_vars=True)
        self._of = {
            id(tensors[name]): (block, tensors[name].dim()) for block, names in routers.items() for name in names
        }
        self._held: list[Tensor] = []
        self._size, self._dropped = size, dropped or {}
        self._block: str | None = None
        self.logits: dict[str, list[Tensor]] = {block: [] for block in routers}
        self.chosen: dict[str, list[Tensor | None]] = {block: [] for block in routers}
        self.finest = torch.float64

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if isinstance(result, Tensor):
            if result.is_floating_point() and torch.finfo(result.dtype).bits < torch.finfo(self.finest).bits:
                self.finest = result.dtype
            given = [*args, *(kwargs or {}).values()]
            tracked = [self._of[id(each)] for each in given if isinstance(each, Tensor) and id(each) in self._of]
            if tracked:
                return self._from_router(name, *tracked[0], result)
        if name in _CHOICES:
            self._note_choice(name, args, result)
        return result

    def _from_router(self, name: str, block: str, dims: int, result: Tensor) -> Tensor:
        if name in _FORMS:
            self._of[id(result)] = block, dims
            self._held.append(result)  # its id is taken as long as it lives
        elif name in _PRODUCTS and dims == 2 and result.shape[-1] == self._size:
            self._block = block
            self.logits[block].append(result.detach().reshape(-1, self._size))
            self.chosen[block].append(None)
            return self._masked(block, result)
        elif name in _SUMS and dims == 1 and result.shape[-1] == self._size:
            return self._masked(block, result)
        return result

    def _masked(self, block: str, result: Tensor) -> Tensor:
        out = self._dropped.get(block)
        if not out:
            return result
        result = result.clone()
        result[..., list(out)] = -torch.inf
        return result

    def _note_choice(self, name: str, args: Sequence[Any], result: Any) -> None:
        if self._block is None or not args or not isinstance(args[0], Tensor) or args[0].shape[-1] != self._size:
            return
        at = _CHOICES[name]
        numbers = result if at is None else result[at] if isinstance(result, tuple) else None
        if isinstance(numbers, Tensor) and not numbers.is_floating_point() and numbers.numel():
            rows = len(self.logits[self._block][-1])
            if numbers.numel() % rows == 0:
                self.chosen[self._block][-1] = numbers.detach().reshape(rows, -1)
