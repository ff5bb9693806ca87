"""Whether a loop of one's own trains the slim module once that has taken the dense one's place."""

from __future__ import annotations

from torch import Tensor, nn

from atograph.passes.errors import UserError


class TakingOver:
    """Notes which of two modules the gradients of the first steps after the swap go to."""

    def __init__(self, dense: nn.Module, slim: nn.Module) -> None:
        self._reached: set[str] = set()
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._note(which))  # type: ignore[no-untyped-call]
            for which, module in (("dense", dense), ("slim", slim))
            for parameter in module.parameters()
            if parameter.requires_grad
        ]

    def check(self) -> None:
        """After a step: stop looking once the slim module is trained.

        Raises:
            UserError: the loop trains the dense module, and no optimiser of its parameters is left.
        """
        if self._reached == {"dense"}:
            raise UserError(
                "the loop goes on to train the dense model, and the slim module has taken its place: the optimiser "
                "holds the parameters of that one, so the steps since then have trained nothing.",
                hint="Compute the loss with ato.model, which is another module from then on; or give AutoTrainOnce "
                "slim_at='never', and the dense model is trained to the end.",
            )
        if "slim" in self._reached:
            self.remove()

    def remove(self) -> None:
        """Stop looking."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _note(self, which: str) -> _Note:
        return _Note(self._reached, which)


class _Note:
    """A hook that holds no module, so that a copy of a parameter with it copies nothing else."""

    def __init__(self, reached: set[str], which: str) -> None:
        self._reached, self._which = reached, which

    def __call__(self, _parameter: Tensor) -> None:
        self._reached.add(self._which)
