"""What a method is. Its file imports late what is heavy: settings are read before anything else is."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from atograph.passes.authors import tell_errors
from atograph.passes.errors import UserError
from atograph.passes.public import public
from atograph.train.settings import TrainSettings
from atograph.train.settings.method_table import METHODS

if TYPE_CHECKING:
    from atograph.train.hook import Pruning
    from atograph.train.interfaces import Graph, P, Training
    from atograph.train.pruning.shrink import Shrink

T = TypeVar("T", bound="Method")


@public("atograph.train")
class Method(abc.ABC):
    """A way to train and prune in one run.

    Attributes:
        name: of the method, in the table and on the command line.
        help: what it does, in a few words: ``prunes while it trains``.
        settings: its settings: `TrainSettings`, or a subclass with a section of its own.
        presets: what it sets, unless one sets it otherwise.
        takes_plans: whether a plan or scores may be given in place of what it would choose by (``run.selection``).
    """

    name: ClassVar[str]
    help: ClassVar[str]
    settings: ClassVar[type[TrainSettings]] = TrainSettings
    presets: ClassVar[Mapping[str, object]] = {}
    takes_plans: ClassVar[bool] = False

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        tell_errors(cls, "method", ("hook",))

    @abc.abstractmethod
    def hook(self, run: Training, graph: Graph[P], shrink: Shrink[P] | None) -> Pruning[P]:
        """What happens around the steps of one run.

        Args:
            run: the run: its model on the device, its settings, data, clock and optimisers.
            graph: of the model.
            shrink: makes the model slim by a plan; None: it stays dense to the end.

        Raises:
            UserError: this model or these settings are nothing for it; a budget that is out of reach shows here.
        """


@public("atograph.train")
def method(kind: type[T]) -> type[T]:
    """Add a method under its ``name``: a decorator of its class.

    Raises:
        UserError: the name is taken, by a criterion, say.
    """
    return METHODS.register(kind)


def hook_of(run: Training, graph: Graph[P], shrink: Shrink[P] | None) -> Pruning[P]:
    """The hook of the method that a run's settings name."""
    chosen: Method = METHODS.get(run.settings.method)()
    hook: object = chosen.hook(run, graph, shrink)
    if not callable(getattr(hook, "before_step", None)) or not hasattr(hook, "plan"):
        raise UserError(
            f"hook() of the method '{chosen.name}' gave {hook!r}, and not a Pruning with a plan.",
            hint="See docs/write-a-method.md.",
        )
    return cast("Pruning[P]", hook)
