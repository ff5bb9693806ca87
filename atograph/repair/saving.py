"""A slim model that no configuration describes is not saved as if one did.

``from_pretrained`` of transformers and its like makes a model from the configuration that ``save_pretrained`` wrote.
Where that says other widths, or computes something else at these widths, ``save_pretrained`` refuses instead.
"""

from __future__ import annotations

from typing import NoReturn

from torch import nn

from atograph.passes.errors import UserError
from atograph.repair.calls.corrections import is_corrected
from atograph.repair.config import shapes_of

_NAMES = ("save_pretrained", "push_to_hub")


class Refusal:
    """Stands in the place of ``save_pretrained`` and ``push_to_hub``; it is copied and pickled with the module.

    Args:
        kind: the class of the module.
        why: why no configuration describes it.
    """

    def __init__(self, kind: str, why: str) -> None:
        self.kind, self.why = kind, why

    def __call__(self, *_args: object, **_kwargs: object) -> NoReturn:
        """Refuse."""
        raise UserError(
            f"this slim {self.kind} cannot be saved with save_pretrained, because no configuration describes it: "
            f"{self.why}. What from_pretrained made of the files would be another model.",
            hint="slim.save(folder) writes the slim program, its weights and the plan; torch.save(module, path) writes "
            "the module. A configuration has one number for all layers: couple groups, so that layers stay alike, and "
            "freeze what it cannot say (a residual width, whose norms count the removed zeros). A Trainer that trains "
            'this module takes save_strategy="no".',
        )


def refuse_saving(dense: nn.Module, module: nn.Module, why: str) -> None:
    """Have ``save_pretrained`` refuse, in a slim module and in its parts that have one.

    Args:
        dense: the dense module; parts that are as they are there stay as they are.
        module: the slim module.
        why: why no configuration describes it.
    """
    for (name, part), before in zip(module.named_modules(), dense.modules(), strict=True):
        saving = [each for each in _NAMES if callable(getattr(type(part), each, None))]
        if saving and (shapes_of(part) != shapes_of(before) or any(is_corrected(each) for each in part.modules())):
            refusal = Refusal(type(part).__name__ + (f" ({name})" if name else ""), why)
            vars(part).update(dict.fromkeys(saving, refusal))


def allow_saving(module: nn.Module) -> None:
    """Let it save again what a configuration describes: a module that was made slim twice."""
    for part in module.modules():
        for name in _NAMES:
            if isinstance(vars(part).get(name), Refusal):
                del vars(part)[name]


def why_unsaved(module: nn.Module) -> str:
    """Why ``save_pretrained`` refuses a slim module; empty where it does not, or where there is none."""
    refusal = next((vars(part)[name] for part in module.modules() for name in _NAMES if name in vars(part)), None)
    return refusal.why if isinstance(refusal, Refusal) else ""
