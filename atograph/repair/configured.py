"""The configuration of a slim module, or those of its parts that are made from one, set to what they are now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial

from torch import nn

from atograph.repair.config import configured_parts, fit_config, follow_config
from atograph.repair.saving import allow_saving, refuse_saving


def say_in_configuration(
    dense: nn.Module,
    module: nn.Module,
    same: Callable[[nn.Module], bool],
    ratios: Collection[Fraction] = (),
    odd: str = "",
) -> tuple[str, ...]:
    """Set the numbers of configurations that say what a slim module is; where none do, ``save_pretrained`` refuses.

    A model may be one that is made from a configuration, or hold some: each of these is looked at by itself.

    Args:
        dense: the dense module.
        module: the slim one.
        same: whether a module computes what the slim one does.
        ratios: as for `fit_config`.
        odd: why no configuration says it, where that is known; empty where it is not.

    Returns:
        In words, what was set.
    """
    allow_saving(module)
    words, parts, whole = list[str](), dict(configured_parts(dense)), "it is made without a configuration"
    for path, part in parts.items():
        own = module.get_submodule(path)
        fit = odd or fit_config(part, own, partial(_same, module, path, same), ratios)
        if isinstance(fit, str):
            whole = fit
            refuse_saving(part, own, fit)
            continue
        prefix = f"{path}." if path else ""
        words += [prefix + word for word in follow_config(part, own, fit)]
    if "" not in parts:
        refuse_saving(dense, module, odd or whole, but=parts)
    return tuple(words)


def _same(module: nn.Module, path: str, same: Callable[[nn.Module], bool], fresh: nn.Module) -> bool:
    """Whether a module computes the same with another one as a part of it."""
    if not path:
        return same(fresh)
    with _in_place_of(module, path, fresh):
        return same(module)


@contextmanager
def _in_place_of(module: nn.Module, path: str, part: nn.Module) -> Iterator[None]:
    outer, _dot, name = path.rpartition(".")
    holder = module.get_submodule(outer)
    before = getattr(holder, name)
    setattr(holder, name, part)
    try:
        yield
    finally:
        setattr(holder, name, before)
