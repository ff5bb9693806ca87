"""Every choice of the training, in one frozen, checked record."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from atograph.passes.cost.share import number_of, share_of
from atograph.passes.errors import UserError


def _number(given: Any) -> Any:
    """``5%`` and ``0,05`` as the number that they are."""
    value = number_of(given)
    return given if value is None else value


def _share(given: Any, about: ValidationInfo) -> Any:
    return None if given is None else share_of(given, str(about.field_name))


Fraction = Annotated[float, Field(ge=0.0, le=1.0), BeforeValidator(_number)]
Share = Annotated[float, BeforeValidator(_share)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]

Budget: TypeAlias = Literal["flops", "params", "bytes", "latency"]


def _pairs(given: Any) -> Any:
    """Each ``A=B`` as a pair."""
    if not isinstance(given, (list, tuple)):
        return given
    texts = [each for each in given if isinstance(each, str)]
    for text in texts:
        if not all(text.partition("=")):
            raise ValueError(f"'{text}' is not of the form A=B")
    return tuple(
        tuple(part.strip() for part in each.split("=", 1)) if isinstance(each, str) else each for each in given
    )


class TrainSettings(BaseModel):
    """Options of `auto_train_once` and `dense_training`.

    Moments of the schedule are fractions of the whole training, so the same defaults serve ten epochs on a
    CPU and three hundred on a GPU. "Paper" is Wu et al., CVPR 2024, arXiv 2403.14729; "authors' code" is the
    code released with it. Where a default departs from both, the text says why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flops: Share | None = None
    """Largest share of the model's total FLOPs that the final mask keeps (authors' code: of the prunable ones). None:
    no such budget; 0.5 if there is no other one either."""
    params: Share | None = None
    """The same for parameters."""
    bytes: Share | None = None
    """The same for the peak memory of activations. With several budgets all hold, and the controller works at the one
    that is exceeded most."""
    latency: Share | None = None
    """The same for the latency in ONNX Runtime on this machine's CPU: predicted by a table of measured layers while the
    mask is searched for, and measured when it becomes final."""
    latency_batch: Annotated[int, Field(ge=1)] = 1
    """Samples per call where latency is measured."""
    latency_threads: Annotated[int, Field(ge=0)] = 1
    """Threads within an op there; 0 leaves the choice to ONNX Runtime."""
    latency_table: str | None = None
    """A file with what was measured (``latency.json`` of a run): it is read where it is there, and written else. With
    the same file and seed a run gives the same plan."""
    floor: Fraction = 0.05
    """Least share of each family's units that stays; one unit stays in any case."""
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Widths are multiples of this (8 suits tensor cores); ``auto``: of what ONNX Runtime is fastest with on this
    machine. None: ``auto`` with a budget of latency, else 1."""
    freeze_layers: tuple[str, ...] = ()
    """Names or globs of layers whose widths stay (`Graph.steered`)."""
    only: tuple[str, ...] = ()
    """Names or globs: groups stay whole unless all layers that make their units are among them."""
    min_units: Annotated[int, Field(ge=1)] = 1
    """Units that every group keeps at least."""
    couple: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_pairs)] = ()
    """Pairs (or ``"A=B"``) of groups, or of layers that make them: unit u of the one goes if and only if that of the
    other does."""
    prune_frozen: bool = False
    """Prune parameters that do not require gradients as well. Else they and the groups that they belong to stay as they
    are, unless no parameter at all requires one."""
    keep_module: bool = False
    """Keep whole what stands in the way of a slim module (`atograph.keep_module`)."""
    plain_module: bool = False
    """The slim module is to run without corrected calls, so that it is loaded where atograph is not installed."""

    epochs: Annotated[int, Field(ge=0)] = 10
    """0 trains nothing, which only a method that prunes at once can do (`METHODS`)."""
    metric_mode: Literal["max", "min"] | None = None
    """Keep the epoch whose validation metric is the largest, or the smallest, among those after everything masked is
    zero: before that the network is another one. None: keep the last epoch."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """With ``metric_mode``: stop after so many epochs without a better one, counted after everything masked is zero."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the initial weights, the order of the data, and the controller."""
    checkpoint_seconds: Annotated[float, Field(ge=0.0)] = 60.0
    """Time between two checkpoints, where the run has a folder; ``inf``: none are written."""
    device: str = "auto"
    """``auto`` (the first CUDA device, or else the CPU), or any name that `torch.device` takes."""

    # The weights.
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Used when the task brings no optimiser: SGD with Nesterov momentum 0.9 (as the paper), or AdamW."""
    lr: Positive | None = None
    """Peak rate; None: by the batch size, see `optim.default_lr`."""
    weight_decay: NotNegative | None = None
    """None: 5e-4 (SGD) or 0.05 (AdamW). Never applied to parameters of one dimension (norms, biases)."""
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    """The rate after the warm-up; it also scales the rates of an optimiser that the task brings."""
    warmup: Fraction = 0.05
    """Share of the training in which the rate climbs linearly from near zero."""

    # How steps are computed.
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches to a step, whose gradients are averaged; "steps" of the other settings are these."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the forward passes (`torch.autocast`); weights, gradients and the optimiser stay in float32. With float16 the
    loss is scaled (`torch.amp.GradScaler`)."""
    channels_last: bool = False
    """Keep images and convolutions with the channels last in memory: faster on GPUs with half precision."""
    compile: bool = False
    """Train with `torch.compile`, which takes a minute at the start and again for the slim module: for long runs."""

    # The search for the mask.
    controller: bool = True
    """False: no controller; the mask follows the prior alone (magnitude pruning within the same schedule)."""
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
    prior: Literal["taylor", "magnitude", "none"] = "taylor"
    """Where the controller's logits start. ``none``: nowhere in particular, as in the paper. Ours: the controller
    learns a correction to a score, centred on the budget, so that a run too short to teach it much ends at a good
    mask and not at a random one. ``taylor``: how much the loss depends on a unit, by the gradients of the training
    (Molchanov et al., arXiv 1906.10771), over what the unit costs. ``magnitude``: its norm over its family's mean."""
    prior_scale: Positive = 3.0
    """Logits per standard deviation of the prior; the noise has one of 1.8."""

    # The projection.
    projection_start: Fraction = 0.35
    """T_start: from here every optimiser step is followed by the projection (paper: 20 %). Here it waits for the final
    mask: what has been shrunk looks unimportant from then on, so that an early mask would stay."""
    freeze: Fraction = 0.35
    """The mask is final from here on (paper: 50 %; here the weights get the time to recover)."""
    zero: Fraction = 0.45
    """From here on everything masked is exactly zero and is held there."""
    slim_at: Literal["zero", "freeze", "never"] = "zero"
    """From when on the slim module is trained in the dense one's place, which costs less and changes nothing:
    once everything masked is exactly zero; or at the freeze already, where it is then zeroed at once; or never.
    Where the module cannot be made slim, the dense one is trained to the end."""
    lambda_start: NotNegative = 10.0
    """λ until the freeze, where the projection starts before it (authors' code: 10)."""
    lambda_freeze: Positive = 100.0
    """λ right after the freeze; it rises geometrically to `lambda_end` until `zero`."""
    lambda_end: Positive = 1000.0
    """λ in the end (authors' code: 1000 from the freeze on)."""
    paced: bool = True
    """After the freeze, shrink each masked group by at least its norm over the steps left until `zero`. With
    λ alone (False, as in the paper) a low rate or many families can leave norms that are then cut off at
    once."""

    @property
    def budgets(self) -> dict[Budget, float]:
        """``flops``, ``params``, ``bytes`` and ``latency``, those that are budgets."""
        given: dict[Budget, float | None] = {
            "flops": self.flops, "params": self.params, "bytes": self.bytes, "latency": self.latency,
        }  # fmt: skip
        return {what: share for what, share in given.items() if share is not None} or {"flops": 0.5}

    @property
    def rounding(self) -> int | Literal["auto"]:
        """`round_to`, where it is None what stands for it."""
        return self.round_to or ("auto" if self.latency is not None else 1)

    @property
    def steering(self) -> dict[str, Any]:
        """What the user wants of the groups, as `Graph.steered` takes it."""
        return {
            "freeze": self.freeze_layers, "only": self.only, "min_units": self.min_units, "couple": self.couple,
            "trained_only": not self.prune_frozen,
        }  # fmt: skip

    @property
    def zero_from(self) -> float:
        """The moment from which on everything masked is exactly zero."""
        return self.freeze if self.slim_at == "freeze" else self.zero

    @model_validator(mode="after")
    def _in_order(self) -> TrainSettings:
        """The search starts before the freeze, the freeze comes before `zero`, and so does the projection."""
        if not self.controller_start <= self.freeze <= self.zero:
            moments = f"{self.controller_start:g}, {self.freeze:g}, {self.zero:g}"
            raise ValueError(f"controller_start <= freeze <= zero must hold, got {moments}")
        if not self.epochs and self.freeze:
            raise ValueError(
                "epochs=0 trains nothing, but this method prunes while it trains (others: magnitude, taylor)"
            )
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
        """What says how latency is measured is of no use where none is."""
        unused = sorted(self.model_fields_set & {"latency_batch", "latency_threads", "latency_table"})
        if unused and self.latency is None and self.rounding != "auto":
            raise ValueError(
                f"{unused[0]} says how latency is measured, and neither latency nor round_to=auto asks for it"
            )
        return self


_AT_ONCE = {"controller": False, "controller_start": 0.0, "projection_start": 0.0, "freeze": 0.0, "zero": 0.0}

METHODS: Mapping[str, Mapping[str, Any]] = {
    "ato": {},
    "magnitude": {**_AT_ONCE, "prior": "magnitude"},
    "taylor": {**_AT_ONCE, "prior": "taylor"},
}
"""What ``--method`` sets: ``ato`` prunes while it trains; the others prune the initial weights at once, by the norms of
their groups or by the gradients of a few batches, and all epochs train the slim network (fine-tuning)."""


def settings_of(values: Mapping[str, Any]) -> TrainSettings:
    """Settings from values that a user gave; ``method`` is one of `METHODS`, which other values override.

    Raises:
        UserError: naming the first setting that does not exist or does not fit.
    """
    values = dict(values)
    method = values.pop("method", "ato")
    if method not in METHODS:
        raise UserError(f"there is no method {method!r}.", hint=f"There are: {', '.join(METHODS)}.")
    values = {**METHODS[method], **values}
    try:
        return TrainSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        place = str(first["loc"][0]) if first["loc"] else ""
        about = [
            each for each in error.errors() if each["loc"][:1] == first["loc"][:1]
        ]  # of "this or that" one for each
        if first["type"] == "extra_forbidden":
            near = get_close_matches(place, TrainSettings.model_fields, n=3)
            hint = f"Perhaps {', '.join(near)}? " if near else ""
            raise UserError(f"there is no training setting {place!r}.", hint=f"{hint}{LISTED}") from error
        if first["type"] == "value_error":
            message = ", or: ".join(each["msg"].removeprefix("Value error, ") for each in about)
            raise UserError(
                f"training setting {place}: {message}." if place else f"training settings: {message}."
            ) from error
        expected = " or ".join(dict.fromkeys(map(_expected, about)))
        raise UserError(
            f"training setting {place}: expected {expected}, got {first['input']!r}.", hint=_example(place, expected)
        ) from error


LISTED = 'The README tells of them under "Settings that matter", and atograph/train/settings.py lists them all.'
"""Where they are listed."""

_KINDS = {
    "float": "a number", "finite": "a finite number", "int": "a whole number", "bool": "true or false",
    "string": "a text", "tuple": "a list of names",
}  # fmt: skip


def _expected(error: Mapping[str, Any]) -> str:
    """What would have been right, of an error of pydantic: ``a whole number``, ``a value greater than 0``."""
    kind = _KINDS.get(error["type"].partition("_")[0])
    if kind is not None:
        return kind
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    return text if error["type"] == "literal_error" else f"a value {text}"


def _example(name: str, expected: str) -> str | None:
    """How one writes it: with its default, or else a value of its kind."""
    default = TrainSettings.model_fields[name].default
    if isinstance(default, tuple):
        return f'In Python: {name}=["stem"].'
    if default is None:
        default = expected.split(" ")[-1].strip("'") if "'" in expected else 10 if "whole" in expected else 0.1
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return f"An example: --set {name}={text}, in Python {name}={default!r}."


def needs_data(settings: TrainSettings) -> bool:
    """Whether a run reads training batches."""
    return settings.epochs > 0 or settings.prior == "taylor"
