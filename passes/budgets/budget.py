"""What a budget is, and the table of them. Rows import late what is heavy: ``--help`` shows their texts."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from atograph.passes.authors import tell_errors
from atograph.passes.public import public
from atograph.passes.registry import Registry

if TYPE_CHECKING:
    from atograph.passes.ir.polynomial import Counts, Number
    from atograph.passes.ir.program import Program

Plan = TypeVar("Plan")
T = TypeVar("T", bound="Budget")


@public("atograph.passes")
class Budget(abc.ABC):
    """A cost of a program that a plan can be held to, as a share of the dense program's.

    Attributes:
        name: the option, the keyword and the setting that limits it: ``flops``.
        title: in tables and sentences: ``FLOPs``.
        unit: of the numbers that are shown; ``per_unit`` is how much of the cost one of them is.
        help: what its option says.
        priced: whether each unit has a price of its own. A peak has one at one place only.
        rounding: what widths are rounded to where nothing is asked for: a multiple; ``"fit"``, by the network;
            ``"auto"``, what is measured to be fastest.
        measured: whether a plan can be measured, so that `settle` knows better than `cost`.
        closing: its row in a run's closing table; empty: it has none beside what is always there.
        program: with the fact of ``estimate-cost``.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    help: ClassVar[str]
    per_unit: ClassVar[float] = 1.0
    priced: ClassVar[bool] = True
    rounding: ClassVar[int | Literal["fit", "auto"]] = "fit"
    measured: ClassVar[bool] = False
    closing: ClassVar[str] = ""

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        tell_errors(cls, "budget", ("cost", "reached", "predicted", "settle"))

    def __init__(self, program: Program) -> None:
        self.program = program

    @abc.abstractmethod
    def cost(self, counts: Counts) -> Number:
        """The cost when group ``g`` keeps ``counts[g]`` units, and all of them where it is not mentioned.

        It must not fall where a count rises: plans are chosen by adding units while they fit.

        Args:
            counts: integers, floats, or 0-dim tensors in which the result is then differentiable.

        Returns:
            A number of the same kind, 0 or more; 0 for the dense program means that there is nothing to reduce.
        """

    def reached(self, counts: Counts, timed: Mapping[int, float]) -> float:
        """The share of the dense program's cost that a finished plan is left with.

        Args:
            counts: of the plan.
            timed: samples per call → the latency that was measured in the end, over that of the dense program.
        """
        return float(self.cost(counts)) / float(self.cost({}))

    def predicted(self, counts: Counts) -> float | None:
        """Of a budget that is measured, the share that was predicted; None for all others."""
        return None

    def settle(self, choose: Callable[[], Plan], share: float) -> Plan:
        """A plan within the budget, measured where that can be done: by default the one that is chosen.

        Args:
            choose: the plan by `cost` as it stands; asked again after what was measured has corrected that.
            share: largest share of the dense program's cost.
        """
        return choose()


_ARGUMENTS = (
    "baseline by checks data depth example_inputs floor force keep kept loss measured metric metric_name model "
    "on_swap opset optimizer out plan quiet random resume round_to scores self state steps targets teacher "
    "tensorboard train_data uniform val_data weights width within"
)
"""Of functions that take budgets as keywords: `Graph.plan`, `compress`, `AutoTrainOnce`."""

_SETTINGS = (
    "accumulate batch budgets channels_last checkpoint_seconds clip compile controller controller_batches "
    "controller_data controller_drop controller_interval controller_lr controller_masked controller_min_steps "
    "controller_norms controller_search controller_spread controller_start controller_weight_decay couple depth "
    "depth_share device distill distill_hidden distill_layers distill_temperature distill_weight drop dynamic ema "
    "epochs experts floor freeze_layers gamma keep_module keep_tokens lambda_end lambda_search_end lambda_start "
    "latency_batch latency_table latency_target latency_threads lr lr_schedule method metric_mode min_units "
    "offset only optimizer outputs paced passes patience plain_module precision prior prior_scale "
    "projection_start prune_frozen round_to search_end seed shard slim_apart slim_at temperature "
    "tighten_end tighten_start tighten_steps uniform warmup weight_decay width zero"
)
"""Of a training."""

BUDGETS = Registry[Budget](
    "budget",
    "budgets",
    group="atograph.budgets",
    base="atograph.passes.budgets.budget:Budget",
    ours={
        "flops": "atograph.passes.budgets.flops:Flops",
        "params": "atograph.passes.budgets.params:Params",
        "bytes": "atograph.passes.budgets.bytes:Bytes",
    },
    reserved=(*_ARGUMENTS.split(), *_SETTINGS.split()),
)


@public("atograph.passes")
def budget(kind: type[T]) -> type[T]:
    """Add a budget under its ``name``: a decorator of its class.

    Raises:
        UserError: the name is taken, or means something else.
    """
    return BUDGETS.register(kind)


DEFAULT: Mapping[str, float] = {"flops": 0.5}
"""Where no budget is named."""


def rounding_of(names: Iterable[str]) -> int | Literal["fit", "auto"]:
    """What suits some budgets: ``"auto"`` if one wants it, else the largest multiple that is named, else ``"fit"``."""
    wanted = [BUDGETS.get(name).rounding for name in names]
    if "auto" in wanted:
        return "auto"
    return max((multiple for multiple in wanted if isinstance(multiple, int)), default="fit")
