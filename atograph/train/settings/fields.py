"""Every choice of the training, in one frozen, checked record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)  # fmt: skip

from atograph.passes.budgets.budget import BUDGETS, DEFAULT, rounding_of
from atograph.passes.cost.share import DEPTH, share_of
from atograph.passes.criteria.table import CRITERIA
from atograph.passes.errors import UserError
from atograph.train.settings.given import (
    SAYS_WHAT_GOES,
    Fraction,
    Listed,
    Method,
    Names,
    NotNegative,
    Pairs,
    Pipeline,
    Positive,
    Prior,
    Sizes,
    State,
    Tokens,
    floors_by_layer,
)
from atograph.train.settings.option import Option
from atograph.values.dynamic_sizes import STATIC

if TYPE_CHECKING:
    from atograph.passes.plan.fitting import Rounding


class TrainSettings(BaseModel):
    """Options of `auto_train_once` and `dense_training`.

    Moments of the schedule are fractions of the whole training, so the same defaults serve ten epochs on a
    CPU and three hundred on a GPU. "Paper" is Wu et al., CVPR 2024, arXiv 2403.14729; "authors' code" is the
    code released with it. Where a default departs from both, the text says why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: Annotated[Method, Option(metavar="NAME")] = "ato"
    """How to train and prune: progressive (the command's and `compress`'s own) step by step at the beginning; ato while
    it trains; the name of a criterion (magnitude, taylor, ...) the initial weights at once, and all epochs fine-tune.
    The table is `train.methods`."""
    budgets: Mapping[str, float] = DEFAULT
    """Name of a budget (`passes.budgets`) → the largest share of the dense model's cost that the final mask keeps; with
    several, all hold, and the controller works at the one that is exceeded most. Each is given, and recorded, under its
    own name: ``flops=0.3`` (authors' code: of the prunable FLOPs), ``params=0.5``. None at all: half of the FLOPs."""
    latency_batch: Annotated[int, Field(ge=1), Option()] = 1
    """Samples per call where latency is measured; 1 unless given."""
    latency_target: Annotated[str | None, Option(metavar="NAME")] = None
    """Where latency is measured, of the run's targets; the first one that is timed unless given, else ONNX Runtime."""
    latency_threads: Annotated[int, Field(ge=0), Option()] = 1
    """Threads within an op there; 1 unless given, 0 leaves the choice to the runtime."""
    latency_table: Annotated[str | None, Option(metavar="FILE")] = None
    """A file with what was measured (latency.json of a run): read where it is there, written else. With
    the same file and seed a run gives the same plan."""
    floor: Annotated[Fraction, Option(metavar="SHARE")] = 0.05
    """Least share of each group's units that stays, or of some layers' (0.1,backbone.c2=0.5); 0.05 unless given. One
    unit stays in any case but with depth."""
    round_to: Annotated[Annotated[int, Field(ge=1)] | Literal["fit", "auto"] | None, Option(metavar="N|fit|auto")] = (
        None
    )
    """Widths are multiples of this; fit: of up to 16, as suits the network's own widths and the blocks of kernels;
    auto: of what is fastest on this machine, measured as latency is. None: ``auto`` with a latency budget, else
    ``fit``."""
    freeze_layers: Annotated[Names, Option("--freeze", "GLOB")] = ()
    """Layers whose widths stay: all of them, or GLOB:in, GLOB:out; repeatable. See `Graph.steered`."""
    only: Annotated[Names, Option(metavar="GLOB")] = ()
    """Prune units of no other layers; repeatable. Groups stay whole unless all layers that make their units are among
    them."""
    min_units: Annotated[int, Field(ge=1), Option()] = 1
    """Units that every group keeps at least."""
    depth: Annotated[bool, Option()] = False
    """Groups may lose all of their units where the model allows it, whatever the floor is: whole branches go."""
    depth_share: Annotated[Fraction, Option(metavar="SHARE")] = DEPTH
    """With depth, about how much of what is saved whole branches give, those first whose units score least; 0.5 unless
    given."""
    drop: Annotated[Names, Option(metavar="GLOB")] = ()
    """Layers that go altogether, where the model allows it (blocks.3); repeatable. Without a budget nothing else goes.
    See `Graph.steered`."""
    couple: Annotated[Pairs, Option(metavar="A=B")] = ()
    """Two groups, or layers that make them, keep the same units; repeatable. In Python a list of pairs, or of texts
    ``"A=B"``: unit u of the one goes if and only if that of the other does."""
    width: Annotated[Names, Option(metavar="NAME=WIDTH")] = ()
    """How wide layers are: layers.*.mlp=128, =50%, =64..128, or =max for all units; repeatable. See `Graph.steered`."""
    uniform: Annotated[bool, Option()] = False
    """The same widths in all layers, so that one number of a configuration says each: groups that are alike in all
    layers keep equally many units, each its own best ones, and heads stay as wide as they are."""
    experts: Annotated[Fraction | None, Option(metavar="SHARE")] = None
    """Share of the experts of each mixture that stay, those that routers send most to: another function, as declared.
    A budget is then of what is left; without one nothing else is cut. See `atograph.keep_experts`."""
    keep_tokens: Annotated[Tokens, Option(metavar="FILE")] = None
    """A file with the numbers of the tokens that stay, a JSON list or one a line: the rest of the vocabulary goes, and
    the data gets new numbers. In Python the numbers themselves, too. See `atograph.keep_tokens`."""
    outputs: Annotated[Listed, Option(metavar="NAMES")] = ()
    """Outputs that the deployment reads, by the names of the ONNX file or by globs; repeatable. The others freeze
    nothing and are in no file; the training gets all of them. None named: all. See `trace`."""
    dynamic: Annotated[Sizes, Option(metavar="INPUT:DIM=NAME")] = ()
    """Sizes of inputs that are dynamic besides the batch (ids:1=sequence, x:2=32*height); repeatable. Without it they
    are the example's. See `trace`."""
    state: Annotated[State, Option(metavar="OUT=IN")] = ()
    """Outputs that become inputs of the next call, a cache say (present=past); repeatable. Their widths go along with
    the model's. See `trace`."""
    passes: Annotated[Pipeline, Option(metavar="PIPELINE")] = ""
    """Passes that the program goes through before its groups are found (canonicalize,my-pass). They change no
    parameter, and the plan remembers them. See `trace`."""
    checks: Annotated[Literal["keep", "drop"], Option(metavar="keep|drop")] = "keep"
    """Where the model's code decides by values: whether the slim model raises where inputs decide otherwise than the
    example did (keep), or does not look (drop)."""
    batch: Annotated[Annotated[int, Field(ge=1)] | None, Option(metavar="N")] = None
    """Samples that the slim model takes at a time, for a static file: no size is dynamic then. Without it the batch
    is dynamic."""
    prune_frozen: Annotated[bool, Option()] = False
    """Prune parameters that do not require gradients as well. Else they and the groups that they belong to stay as they
    are, unless no parameter at all requires one."""
    keep_module: Annotated[bool, Option()] = False
    """Keep whole what stands in the way of a slim module. See `atograph.keep_module`."""
    plain_module: bool = False
    """The slim module is to run without corrected calls, so that it is loaded where atograph is not installed."""

    epochs: Annotated[int, Field(ge=0), Option()] = 10
    """Epochs of training; 10 unless given. 0 trains nothing, which only a method that prunes at once can do."""
    metric_mode: Annotated[Literal["max", "min"] | None, Option(metavar="max|min")] = None
    """Keep the epoch with the best validation metric, among those after everything masked is zero. Before that the
    network is another one. None: keep the last epoch."""
    patience: Annotated[Annotated[int, Field(ge=1)] | None, Option()] = None
    """With metric_mode: stop after so many such epochs without a better one."""
    seed: Annotated[int, Field(ge=0, lt=2**63), Option()] = 0
    """Seed of everything random: of the initial weights, the order of the data, and the controller."""
    checkpoint_seconds: Annotated[float, Field(ge=0.0)] = 60.0
    """Time between two checkpoints, where the run has a folder; ``inf``: none are written."""
    device: Annotated[str, Option()] = "auto"
    """auto (the first CUDA device, or else the CPU), or a name that torch takes: cpu, cuda:1."""

    # The weights.
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Used when the task brings no optimiser: SGD with Nesterov momentum 0.9 (as the paper), or AdamW."""
    lr: Annotated[Positive | None, Option()] = None
    """Peak learning rate; by the batch size unless given. See `optim.default_lr`."""
    weight_decay: NotNegative | None = None
    """None: 5e-4 (SGD) or 0.05 (AdamW). Never applied to parameters of one dimension (norms, biases)."""
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    """The rate after the warm-up; it also scales the rates of an optimiser that the task brings."""
    warmup: Fraction = 0.05
    """Share of the training in which the rate climbs linearly from near zero."""

    clip: Annotated[Positive | None, Option(metavar="NORM")] = None
    """Clip the norm of all gradients of a step (`torch.nn.utils.clip_grad_norm_`); unlimited unless given."""
    ema: Annotated[Annotated[float, Field(gt=0.0, lt=1.0)] | None, Field(examples=[0.99]), Option(metavar="DECAY")] = (
        None
    )
    """Keep a moving average of the weights, of which a step changes 1 - DECAY (0.99, say), and hand it over. It begins
    where the network is the one that comes out, and the metric is that of the average from then on. After n steps of it
    no more than (1 + n) / (10 + n) is kept, so that it forgets where it began."""
    distill: Annotated[bool, Option()] = False
    """Learn from a teacher as well: ``teacher()`` in the SPEC, or the model with the weights that it comes with."""
    distill_weight: Fraction = 0.5
    """Share of the loss that is the teacher's (Hinton et al., arXiv 1503.02531)."""
    distill_temperature: Positive = 2.0
    """Temperature of the probabilities that are compared with the teacher's."""
    distill_hidden: NotNegative = 0.0
    """Weight of hidden states beside that: how far the outputs of blocks are from the teacher's, at the units that stay
    (FitNets, Romero et al., arXiv 1412.6550; TinyBERT, Jiao et al., arXiv 1909.10351). 0: they are not looked at."""
    distill_layers: Listed = ()
    """Names or globs of the teacher's modules whose outputs are compared (layer3.*). None named: its blocks, or in a
    network without any all layers but the last one. See `Teacher`."""

    # How steps are computed.
    shard: Annotated[bool, Option()] = False
    """Several processes hold a part of the model each (`torch.distributed.fsdp.fully_shard`): for one that fits on no
    single device. See docs/large-models.md."""
    accumulate: Annotated[int, Field(ge=1), Option()] = 1
    """Batches whose gradients make one step. They are averaged; "steps" of the other settings are these."""
    precision: Annotated[Literal["float32", "bfloat16", "float16"], Option()] = "float32"
    """float32, bfloat16 or float16 (mixed precision). It is that of the forward passes (`torch.autocast`); weights,
    gradients and the optimiser stay in float32. With float16 the
    loss is scaled (`torch.amp.GradScaler`)."""
    channels_last: Annotated[bool, Option()] = False
    """Keep channels last in memory. For images and convolutions: faster on GPUs with half precision."""
    compile: Annotated[bool, Option()] = False
    """Train with torch.compile. It takes a minute at the start and again for the slim module: for long runs."""

    # The search for the mask.
    controller: bool | Literal["auto"] = True
    """False: no controller; the mask follows the prior alone (magnitude pruning within the same schedule). auto: the
    controller learns, and the mask follows it where what it was taught is more than noise."""
    controller_search: Literal["budget", "penalty"] = "penalty"
    """budget: the controller decides the widths of families, and every mask that it tries is on the budget. penalty: it
    decides on units one by one, and is punished for what they cost (paper)."""
    controller_spread: Positive = 1.5
    """With controller_search=budget, standard deviation of the widths that are tried, in logits of the prior."""
    controller_masked: Fraction = 0.0
    """Share of the steps of the search that train under a mask that the controller tries, so that the network knows
    such masks when they are compared (Gomez et al., targeted dropout, arXiv 1905.13678)."""
    controller_start: Fraction = 0.1
    """T_w: the controller's first step (paper: 10 %)."""
    controller_interval: Annotated[int, Field(ge=1)] = 20
    """Training steps between two controller steps (authors' code: 20)."""
    controller_min_steps: Annotated[int, Field(ge=0)] = 40
    """A short run steps the controller more often, so that it steps this often in its phase, where it can."""
    controller_lr: Positive = 1e-3
    """Rate of the controller's AdamW (paper)."""
    controller_weight_decay: NotNegative = 1e-2
    """Weight decay of the controller's AdamW (authors' code)."""
    controller_data: Literal["train", "val"] = "train"
    """What the controller learns from: training batches set aside during the warm-up (authors' code: a fixed
    5 % of the training set), or ``val``, the task's validation data: no longer independent of the mask
    then."""
    controller_batches: Annotated[int, Field(ge=1)] = 16
    """Most batches that are set aside (in main memory)."""
    controller_norms: Literal["batch", "running"] = "batch"
    """What batch norms normalise a masked network by: the batch at hand, or their running statistics, which are those
    of the whole network (authors' code). The loss by the batch tells better how a network will do once it is trained on
    (EagleEye, Li et al., arXiv 2007.02491)."""
    controller_drop: Fraction = 0.9
    """Share of the controller's phase after which its rate is a tenth (authors' code: near its end)."""
    temperature: Positive = 0.4
    """T of the Gumbel-sigmoid (authors' code)."""
    offset: Annotated[float, Field(allow_inf_nan=False)] = 3.0
    """Added to the logits when there is no prior, so that the mask starts from all ones (authors' code)."""
    gamma: NotNegative = 8.0
    """Weight of ``|log(F(mask) / target)|`` (authors' code: 2 × 4)."""
    prior: Prior = "taylor"
    """Where the controller's logits start. ``none``: nowhere in particular, as in the paper. Ours: the controller
    learns a correction to a score, centred on the budget, so that a run too short to teach it much ends at a good
    mask and not at a random one. The score is that of a criterion (`passes.criteria`). ``taylor``: how much the loss
    depends on a unit, by the gradients of the training (Molchanov et al., arXiv 1906.10771), over what the unit
    costs."""
    prior_scale: Positive = 3.0
    """Logits per standard deviation of the prior; the noise has one of 1.8."""

    # The projection.
    projection_start: Fraction = 0.35
    """T_start: from here every optimiser step is followed by the projection (paper: 20 %). Here it waits for the final
    mask: what has been shrunk looks unimportant from then on, so that an early mask would stay."""
    search_end: Fraction = 0.35
    """The mask is final from here on (paper: 50 %; here the weights get the time to recover)."""
    zero: Fraction = 0.45
    """From here on everything masked is exactly zero and is held there."""
    slim_at: Annotated[Literal["zero", "search_end", "never"], Option()] = "zero"
    """Train the slim module in the dense one's place from there on: zero (everything masked is zero), `search_end`, or
    never. It costs less and changes nothing. At `search_end`, what is masked is zeroed at once.
    Where the module cannot be made slim, the dense one is trained to the end."""
    lambda_start: NotNegative = 10.0
    """λ until `search_end`, where the projection starts before it (authors' code: 10)."""
    lambda_search_end: Positive = 100.0
    """λ right after `search_end`; it rises geometrically to `lambda_end` until `zero`."""
    lambda_end: Positive = 1000.0
    """λ in the end (authors' code: 1000 from `search_end` on)."""
    paced: bool = True
    """After `search_end`, shrink each masked group by at least its norm over the steps left until `zero`. With
    λ alone (False, as in the paper) a low rate or many families can leave norms that are then cut off at
    once."""

    if TYPE_CHECKING:

        def __init__(self, **settings: object) -> None: ...

    else:

        def __getattr__(self, name: str) -> Any:
            """``settings.flops``: the share, None where it is no budget."""
            return self.budgets.get(name) if name in BUDGETS else super().__getattr__(name)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values, which are not checked; budgets by their names."""
        update = dict(update or {})
        shares = {
            **update.pop("budgets", self.budgets),
            **{name: update.pop(name) for name in [*update] if name in BUDGETS},
        }
        update["budgets"] = {name: share_of(share, name) for name, share in shares.items() if share is not None}
        return super().model_copy(update=update, deep=deep)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def rounding(self) -> Rounding:
        """`round_to`, where it is None what suits the budgets."""
        return self.round_to or rounding_of(self.budgets)

    @property
    def measured(self) -> bool:
        """Whether a budget is measured, so that a final plan is more than a prediction."""
        return any(BUDGETS.get(name).measured for name in self.budgets)

    @property
    def dynamic_texts(self) -> tuple[str, ...]:
        """What is dynamic besides the batch, as `trace` takes it; nothing at all where the batch is given."""
        return self.dynamic if self.batch is None else (STATIC,)

    @property
    def tracing(self) -> dict[str, Any]:
        """How the model is captured, as `trace` takes it."""
        return {
            "outputs": self.outputs, "dynamic": self.dynamic_texts, "state": self.state, "passes": self.passes,
            "checks": self.checks,
        }  # fmt: skip

    @property
    def steering(self) -> dict[str, Any]:
        """What the user wants of the groups, as `Graph.steered` takes it."""
        return {
            "freeze": self.freeze_layers, "only": self.only, "min_units": self.min_units, "couple": self.couple,
            "trained_only": not self.prune_frozen, "depth": self.depth and self.depth_share, "drop": self.drop,
            "uniform": self.uniform, "width": self.width,
        }  # fmt: skip

    @property
    def zero_from(self) -> float:
        """The moment from which on everything masked is exactly zero."""
        return self.search_end if self.slim_at == "search_end" else self.zero

    @model_validator(mode="before")
    @classmethod
    def _gather_budgets(cls, values: object) -> object:
        """Budgets are given by their names."""
        if not isinstance(values, Mapping):
            return values
        taken = [name for name in BUDGETS if name in cls.model_fields]  # those of a method's own section
        if taken:
            raise UserError(f"the budget {taken[0]!r} has the name of a setting.", hint="Call it something else.")
        given = values.get("budgets") or {}
        if not isinstance(given, Mapping) or not set(given) <= set(BUDGETS):
            raise ValueError(f"budgets are given by their names ({', '.join(BUDGETS)}): flops=0.3")
        shares = {**given, **{name: values[name] for name in values if name in BUDGETS}}
        shares = {name: share_of(share, name) for name, share in shares.items() if share is not None}
        rest = {name: value for name, value in values.items() if name not in BUDGETS}
        rest = floors_by_layer(rest)
        if not shares and any(rest.get(name) not in (None, (), []) for name in SAYS_WHAT_GOES):
            shares = {"flops": 1.0}
        return {**rest, "budgets": shares} if shares else {name: rest[name] for name in rest if name != "budgets"}

    @model_serializer(mode="wrap")
    def _spread_budgets(self, serialise: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Written as they are given; parts are asked for by the same names."""
        written: dict[str, Any] = serialise(self)
        shares = written.pop("budgets", {})
        shares |= {name: share for name, share in self.budgets.items() if name in (info.include or ())}
        return {**{name: shares[name] for name in shares if name not in (info.exclude or ())}, **written}

    @model_validator(mode="after")
    def _in_order(self) -> TrainSettings:
        """The search starts before it ends, it ends before `zero`, and so does the projection."""
        if not self.controller_start <= self.search_end <= self.zero:
            moments = f"{self.controller_start:g}, {self.search_end:g}, {self.zero:g}"
            raise ValueError(f"controller_start <= search_end <= zero must hold, got {moments}")
        if not self.epochs and self.search_end:
            raise ValueError(
                f"epochs=0 trains nothing, but this method prunes while it trains (others: {', '.join(CRITERIA)})"
            )
        if self.controller and self.controller_search == "budget" and self.prior == "none":
            raise ValueError("controller_search=budget decides widths, and prior=none says nothing of which units")
        if self.projection_start > self.zero:
            raise ValueError(f"projection_start={self.projection_start:g} lies after zero={self.zero:g}")
        return self

    @model_validator(mode="after")
    def _which_is_better(self) -> TrainSettings:
        """Nobody knows how long there was no better epoch without knowing what is better."""
        if self.patience is not None and self.metric_mode is None:
            raise ValueError(
                "patience waits for a better metric, so metric_mode has to say which is better: max or min"
            )
        return self

    @model_validator(mode="after")
    def _of_use(self) -> TrainSettings:
        """What says how latency is measured is of no use where none is; nor is a share of branches where none goes."""
        if self.depth_share != DEPTH and not self.depth:
            raise ValueError(
                "depth_share says how much whole branches are to give, and depth is off: give --depth, too"
            )
        taught = ("distill_weight", "distill_temperature", "distill_hidden", "distill_layers")
        unused = [name for name in taught if getattr(self, name) != type(self).model_fields[name].default]
        if unused and not self.distill:
            raise ValueError(f"{unused[0]} is about a teacher, and there is none: give --distill, too")
        if self.distill_layers and not self.distill_hidden:
            raise ValueError("distill_layers says which hidden states are compared, and distill_hidden is 0: none is")
        if self.distill_hidden and self.compile:
            raise ValueError(
                "distill_hidden reads what blocks give, and compile leaves no blocks: train without one of them"
            )
        about = ("latency_batch", "latency_table", "latency_threads")
        unused = [name for name in about if getattr(self, name) != type(self).model_fields[name].default]
        if unused and not self.measured and self.rounding != "auto":
            raise ValueError(
                f"{unused[0]} says how latency is measured, and neither latency nor round_to=auto asks for it"
            )
        return self
