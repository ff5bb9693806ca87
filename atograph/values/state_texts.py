"""What a user declares to be state, in any of its forms, as texts: one a pair, which are kept in settings and plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from atograph.passes.errors import UserError

FORM = 'Write state={"present": "past"}: an output, or what holds some, and the input that it becomes.'

State: TypeAlias = Mapping[str, str] | Sequence[str] | str | None
"""What people write: output → input (``{"present": "past"}``), or texts (``["present=past"]``). None: there is none."""


def state_texts(state: State) -> tuple[str, ...]:
    """What is state as texts, ``output=input`` each.

    Raises:
        UserError: it has none of the forms.
    """
    if isinstance(state, Mapping):
        state = [f"{output}={taken}" for output, taken in state.items()]
    texts = (state,) if isinstance(state, str) else state or ()
    if not isinstance(texts, (list, tuple)) or not all(isinstance(each, str) and "=" in each for each in texts):
        raise UserError(f"state={state!r} does not say which output becomes which input.", hint=FORM)
    return tuple(texts)
