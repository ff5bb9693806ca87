"""What a run found out: the record that `report.json` holds and the closing table is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from atograph.passes.plan.html_table import html_table
from atograph.report import numbers
from atograph.report.declared import DeclaredProof
from atograph.report.saved import SavedReport
from atograph.spec.source import Source

FORMAT = "atograph report 2"

FROM_PYTHON = "the model"
"""What a report names where there was no SPEC."""


_OF_ONNX = ("slim_onnx", "runtime")
"""What an entry says of ONNX Runtime beside its target, for readers of both forms."""

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(_Record):
    """What was asked for and what came out, as shares of the dense model's total."""

    kind: str
    """Its name in the table of budgets."""
    asked: Share
    reached: Annotated[float, Field(ge=0.0)]
    """As measured, where that can be done (latency)."""
    smallest: Share
    predicted: float | None = None
    """Of a budget that is measured, what was predicted before anything was corrected by that."""


class Size(_Record):
    """What one network costs."""

    flops: Count
    """On a batch of one, as `torch.utils.flop_counter` counts: two per multiply-accumulate."""
    params: Count
    bytes: Count
    """Of its ONNX file; 0 where ONNX is no target of the run."""


class Metrics(_Record):
    """The validation metric of each form of the network; None where it was not measured."""

    name: str = "metric"
    """What it is called (`atograph.train.task.name_of_metric`)."""
    dense: float | None = None
    """The dense network trained the same way (``--baseline``); where it is pruned at once, or else before that."""
    masked: float | None = None
    """The trained network with its masked groups at zero."""
    slim: float | None = None
    onnx: float | None = None
    """The slim network in ONNX Runtime."""
    before_zeroing: float | None = None
    """When what was left of the masked groups was about to be set to zero, in the midst of the training."""
    after_zeroing: float | None = None
    """Right after that."""
    before_training: float | None = None
    """Of the dense network as it came: by chance alone where nobody had trained it."""

    @property
    def measured(self) -> bool:
        """Whether any form of the network has one: a regression without a metric of its own has none."""
        return any(value is not None for value in (self.dense, self.masked, self.slim, self.onnx))


class Latency(_Record):
    """Median milliseconds per call on the CPU."""

    runtime: str = "ONNX Runtime"
    """What the runtime is called."""
    batch: Count
    threads: Count
    dense: float
    slim: float
    dense_spread: float | None = None
    """Between the quartiles."""
    slim_spread: float | None = None
    dense_quartiles: tuple[float, float] | None = None
    """A quarter of all calls was faster than the first, a quarter slower than the second; older reports lack them."""
    slim_quartiles: tuple[float, float] | None = None


class RuntimeFault(_Record):
    """What a runtime gets wrong by itself: as wrong on the dense network with the same weights.

    Differences are relative to the largest value; None where one of the two is not finite.
    """

    title: str = "ONNX Runtime"
    """What the runtime is called."""
    dense: float | None
    """Masked dense network against the runtime on its own file."""
    slim: float | None
    """Slim program against the runtime."""
    compared: Share
    """Share of the values that it gets right of the dense network, and that the comparison of the slim one counts."""

    def __str__(self) -> str:
        dense, slim = ("no number" if each is None else f"{each:.1e}" for each in (self.dense, self.slim))
        return (
            f"{self.title} computes this model wrong, dense as it is: dense differs by {dense} from PyTorch, slim by "
            f"{slim} (relative); {100 * self.compared:.3g} % of the values are right in both"
        )


class InTarget(_Record):
    """The slim program against the file of one target."""

    label: str
    """What tables call the file."""
    difference: float
    """The largest, relative."""
    tolerance: float
    fault: RuntimeFault | None = None
    """What the runtime gets wrong of the dense network as well: ``difference`` is of all other values then."""

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


class Comparison(_Record):
    """Largest differences on real inputs of one size, relative to the reference's largest value."""

    batch: Count
    sizes: dict[str, Count] = {}
    """Other dynamic sizes, where they are not the example's."""
    steps: Count = 1
    """Calls in a row, each with the state that the last one has returned; the differences are the largest of them."""
    made: str = ""
    """What these inputs are of the example's, in words, where they were made to take other branches; else empty."""
    branches: list[str] = []
    """The branches of ``cond`` that these inputs take and none before."""
    masked_slim: float
    """Masked dense program against slim program."""
    targets: dict[str, InTarget]
    """Slim program against the file of each target of the run, by the target's name."""
    source: InTarget | None = None
    """The ONNX file that the model came from, with the plan's zeros in it, against the slim one, in ONNX Runtime."""
    tolerance: float
    """Of masked against slim; of a target, unless it has its own."""
    moved: float
    """Unmasked against masked: how far the plan moved the output. At zero the comparison shows nothing."""

    @property
    def at(self) -> str:
        """The sizes in words: ``batch of 2, sequence 12``; and what else is not as in the example."""
        besides = [*([f"{self.steps} steps"] if self.steps > 1 else []), *([self.made] if self.made else [])]
        return ", ".join([f"batch of {self.batch}", *(f"{name} {size}" for name, size in self.sizes.items()), *besides])

    @model_validator(mode="before")
    @classmethod
    def _by_target(cls, data: object) -> Any:
        """Reports of runs that had ONNX Runtime alone say ``slim_onnx`` and ``runtime``; later ones repeat them."""
        if not isinstance(data, Mapping):
            return data
        entry = {key: value for key, value in data.items() if key not in _OF_ONNX}
        if "targets" not in data and "slim_onnx" in data:
            onnx = {"label": "ONNX", "difference": data["slim_onnx"], "tolerance": data.get("tolerance")}
            entry["targets"] = {"onnx": onnx | {"fault": data.get("runtime")}}
        return entry

    @computed_field  # type: ignore[prop-decorator]
    @property
    def slim_onnx(self) -> float | None:
        """Slim program against ONNX Runtime; None where that is no target of the run."""
        return self.targets["onnx"].difference if "onnx" in self.targets else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def runtime(self) -> RuntimeFault | None:
        """What ONNX Runtime gets wrong by itself."""
        return self.targets["onnx"].fault if "onnx" in self.targets else None

    @property
    def faults(self) -> list[RuntimeFault]:
        """What the runtimes get wrong by themselves."""
        compared = [*self.targets.values(), *([] if self.source is None else [self.source])]
        return [each.fault for each in compared if each.fault is not None]

    @property
    def holds(self) -> bool:
        """Whether all differences are within their tolerances."""
        compared = [*self.targets.values(), *([] if self.source is None else [self.source])]
        return self.masked_slim <= self.tolerance and all(each.holds for each in compared)


class Rounding(_Record):
    """What a plan in multiples of something came to, as shares of the dense model's."""

    latency: float
    flops: float


class FrozenGroup(_Record):
    """A group that could not be pruned."""

    group: str
    units: Count
    reason: str
    where: str


class Width(_Record):
    """Groups of one size whose layers differ in the numbers of their blocks only, and what stays of each."""

    layers: str
    """Those that make the units → those that read them."""
    groups: Count
    dense: Count
    least: Count
    most: Count


class Report(_Record, SavedReport):
    """Everything about one finished run."""

    format: Literal["atograph report 2"] = "atograph report 2"
    spec: str
    """As given on the command line."""
    source: Source | None = None
    """Where it lies, and the data; None for a run of Python."""
    name: str
    plan: str = ""
    """Digest of the plan beside it."""
    chosen_by: str = ""
    """The plan or the scores that were given to say which units stay; empty: a criterion did, within the budgets."""
    versions: dict[str, str]
    targets: list[str] = Field(default_factory=list)
    """Names of what the run exports to and is proved in; a report of a run that had ONNX Runtime alone does not say."""
    seed: int
    device: str
    settings: dict[str, object] = Field(default_factory=dict)
    declared: list[DeclaredProof] = Field(default_factory=list)
    """Experts and tokens that went before everything else, as declared; what is dense here is what was left."""
    budgets: list[Budget]
    round_to: Count = 1
    """The multiple that widths were rounded to."""
    rounding: dict[int, Rounding] = Field(default_factory=dict)
    """With ``auto``: what was measured for each multiple that was tried, on plans by magnitude."""
    dense: Size
    slim: Size
    groups: Count
    """Prunable groups (axes)."""
    metrics: Metrics
    latency_ms: list[Latency] = Field(default_factory=list)
    certificate: list[Comparison]
    not_proved: str = ""
    """Why the training, which is finished, ended without a proof, and what goes on from there; empty for a proof."""
    identity: dict[str, object] = Field(default_factory=dict)
    """Of a run that is not proved: what must be the same for a run that goes on."""
    notes: list[str] = Field(default_factory=list)
    """What one should know of the figures."""
    float64: float | None = None
    """Largest relative difference of masked and slim in float64; None for a model that only runs in float32."""
    slim_from: float | None = None
    """The fraction of the training from which on the slim module was trained; None: the dense one was, to the end."""
    best_epoch: int | None = None
    """The epoch whose weights were kept, the best one by the metric; None: the last."""
    why_dense: str = ""
    """Why there was no slim module to train, where one was asked for."""
    module: str
    """``slim``, or why the user's own module could not be made slim."""
    repairs: list[str] = Field(default_factory=list)
    """What was repaired in its code, in words."""
    frozen: list[FrozenGroup]
    widths: list[Width] = Field(default_factory=list)
    """Before and after, in the order of the model; a report of an older version has none."""
    numbers: dict[str, bool | int | float] = Field(default_factory=dict)
    """Numbers in attributes of the model's modules that the training has changed, by path: no weights hold them."""
    curves: list[dict[str, object]] = Field(default_factory=list)
    """One entry for each epoch, with the fields of `train.EpochRow`: what `log.csv` holds."""
    seconds: float

    @property
    def training_cost(self) -> float | None:
        """FLOPs of the networks that the steps trained, over those of a dense training of as many; None: unknown."""
        costs = [cost for row in self.curves if isinstance(cost := row.get("cost"), float)]
        return sum(costs) / len(costs) if costs and len(costs) == len(self.curves) else None

    def __repr__(self) -> str:
        """As `str`, marked as a report."""
        return f"<Report of {self}>"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        dense, slim, metrics = self.dense, self.slim, self.metrics

        def worth(value: float | None) -> str:
            return "" if value is None else f"{value:.4g}"

        sizes = (numbers.size(dense.bytes), numbers.size(slim.bytes))
        files = [("ONNX file", *sizes, numbers.percent(slim.bytes / dense.bytes))] if dense.bytes else []
        cells = [
            ("FLOPs", numbers.count(dense.flops), numbers.count(slim.flops), numbers.percent(slim.flops / dense.flops)),
            ("parameters", numbers.count(dense.params), numbers.count(slim.params),
             numbers.percent(slim.params / max(dense.params, 1))),
            *files,
            (metrics.name, worth(metrics.dense), worth(metrics.slim), ""),
        ]  # fmt: skip
        equal = all(entry.holds for entry in self.certificate) if self.certificate else None
        proof = {
            True: f"{' = '.join(self.forms)}, within the tolerance",
            False: "the certificate does not hold",
            None: f"not proved: {self.not_proved}" if self.not_proved else "no certificate",
        }
        return html_table(f"{self.name}: {proof[equal]}", ("", "dense", "slim", "slim / dense"), cells, right=(1, 2, 3))

    def __str__(self) -> str:
        """In one line: what was kept, and whether it was proved. The closing table is what `Result` prints."""
        equal = bool(self.certificate) and all(entry.holds for entry in self.certificate)
        proof = " = ".join(self.forms) if equal and not self.not_proved else "not proved"
        shares = [
            f"{100 * slim / max(dense, 1):.1f} % of the {what}"
            for what, slim, dense in (
                ("FLOPs", self.slim.flops, self.dense.flops),
                ("parameters", self.slim.params, self.dense.params),
            )
        ]
        return f"{self.name}: {' and '.join(shares)}, {proof}"

    @property
    def forms(self) -> list[str]:
        """What the certificate compares: ``masked``, ``slim``, and the file of each target."""
        entry = next(iter(self.certificate), None)
        return ["masked", "slim", *([] if entry is None else [each.label for each in entry.targets.values()])]
