"""Objects that are copied, but not pickled: they hold a program, which has a file format of its own."""

from __future__ import annotations

from copy import deepcopy
from typing import ClassVar, NoReturn, Self, SupportsIndex

from atograph.passes.errors import UserError


class NotPickled:
    """A pickle of such an object is refused in words; ``copy`` works as of any other object."""

    instead: ClassVar[str]
    """What to do in its place."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise UserError(f"a {type(self).__name__} cannot be pickled: it holds a program.", hint=self.instead)

    def __copy__(self) -> Self:
        new = type(self).__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        vars(new).update(deepcopy(vars(self), memo))
        return new
