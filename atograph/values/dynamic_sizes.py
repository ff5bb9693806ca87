"""What a user asks to be dynamic, in any of its forms, as texts: one a dim, which are kept in settings and plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from atograph.passes.errors import UserError

Dynamic: TypeAlias = Mapping[str, object] | Sequence[object] | bool | None
"""What people write: names by argument and dim (``{"x": {2: "32*height", 3: "32*width"}}``), `torch.export`'s
``dynamic_shapes``, or texts (``["x:2=32*height"]``). False: no size is dynamic, the batch included. None: the batch."""

STATIC = "static"
"""The text for no dynamic batch: alone for no dynamic size at all, beside others for these alone."""

FORM = 'Write dynamic={"input": {1: "length"}}: argument, dim, and a name; "32*height" for multiples of 32.'
UNNAMED = "_"
"""The name of a size that is to be called by its place."""


def texts_of(dynamic: Dynamic) -> tuple[str, ...]:
    """What is asked for as texts, one a dim: ``ids:1=sequence``, ``x:2=32*height``, ``ids:1=2<=n<=512``.

    Arguments are called by name or by position, what is within one as in Python: ``cache[0]['keys']:2=length``.

    Raises:
        UserError: it has none of the forms.
    """
    if dynamic is None or dynamic is False:
        return (STATIC,) if dynamic is False else ()
    if isinstance(dynamic, str):
        return (dynamic,)
    if isinstance(dynamic, (list, tuple)):
        if all(isinstance(each, str) for each in dynamic):
            return tuple(dynamic)
        dynamic = {str(position): each for position, each in enumerate(dynamic)}
    if not isinstance(dynamic, Mapping):
        raise UserError(f"dynamic={dynamic!r} does not say which sizes.", hint=FORM)
    return tuple(text for name, spoken in dynamic.items() for text in _texts_within(spoken, str(name)))


def _texts_within(spoken: object, where: str) -> Iterator[str]:
    if spoken is None:
        return
    if isinstance(spoken, (list, tuple)):
        spoken = dict(enumerate(spoken))
    if not isinstance(spoken, Mapping):
        raise UserError(f"dynamic says {spoken!r} of {where}, which names no dims.", hint=FORM)
    for key, meant in spoken.items():
        if isinstance(meant, (Mapping, list, tuple)):
            yield from _texts_within(meant, f"{where}[{key!r}]")
        elif not _is_static(meant):
            if not isinstance(key, int):
                raise UserError(f"{where} has no dim {key!r}, which dynamic names.", hint=FORM)
            yield f"{where}:{key}={_text_of(meant)}"


def _is_static(meant: object) -> bool:
    from torch.export import Dim  # where it is asked for: a command line needs no torch to say what it takes

    return meant is None or meant is Dim.STATIC or (isinstance(meant, int) and not isinstance(meant, bool))


def _text_of(meant: object) -> str:
    """A dim in words."""
    from torch.export import Dim

    if meant in (Dim.AUTO, Dim.DYNAMIC) or meant is True:
        return UNNAMED
    if isinstance(meant, str):
        return meant.strip()
    if isinstance(meant, Dim):
        root = getattr(meant, "root", meant)
        least = f"{root.min}<=" if root.min > 1 else ""
        most = f"<={root.max}" if root.max < 2**31 else ""
        if root is meant:
            return f"{least}{meant.__name__}{most}"
        derived: Any = meant
        if derived.fn(0) == 0:
            return f"{least}{derived.fn(1)}*{root.__name__}{most}"
    raise UserError(f"dynamic holds {meant!r}, which names no size.", hint=FORM)
