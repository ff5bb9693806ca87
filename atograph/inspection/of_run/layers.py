"""What each layer was and is: widths, parameters and FLOPs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atograph.inspection.overview import ModuleView, Overview, ParameterView
from atograph.report import numbers


@dataclass(frozen=True)
class Amount:
    """A cost before and after; ``share`` is what is left, 1 where there was none."""

    before: str
    after: str
    share: float


@dataclass(frozen=True)
class Layer:
    """One module with a weight, or that computes something by itself.

    Attributes:
        name: of the module; that of the network for the network itself.
        kind: its class.
        width: the sizes of its weight that can change: ``64 × 32 → 40 × 21``.
    """

    name: str
    kind: str
    width: str
    params: Amount
    flops: Amount


def layers(shown: Overview) -> list[Layer]:
    """The layers of a network with a plan, in the order in which they run; none without a plan."""
    return [] if shown.kept_flops is None else list(_layers(shown))


def _layers(shown: Overview) -> Iterator[Layer]:
    below: dict[str, list[ModuleView]] = {}
    for module in shown.modules:
        if module.name:
            below.setdefault(module.name.rpartition(".")[0], []).append(module)
    weights = {each.module: each for each in reversed(shown.parameters) if len(each.shape) > 1}
    for module in shown.modules:
        inner = below.get(module.name, ())
        flops, kept_flops = module.flops - _sum(inner, "flops"), (module.kept_flops or 0) - _sum(inner, "kept_flops")
        params = module.params - _sum(inner, "params")
        kept_params = (module.kept_params or 0) - _sum(inner, "kept_params")
        weight = weights.get(module.name)
        if flops or weight is not None:
            yield Layer(
                module.name or shown.name, module.type, "" if weight is None else width_text(weight),
                _amount(params, kept_params), _amount(flops, kept_flops),
            )  # fmt: skip


def _sum(modules: Sequence[ModuleView], what: str) -> int:
    return sum(getattr(module, what) for module in modules)


def _amount(before: int, after: int) -> Amount:
    return Amount(numbers.count(before), numbers.count(after), after / before if before else 1.0)


def width_text(weight: ParameterView) -> str:
    """The sizes of a weight that hold units, before and after; once where nothing changed."""
    dims = [dim for dim, groups in enumerate(weight.groups) if groups]
    before = " × ".join(f"{weight.shape[dim]:,}" for dim in dims)
    if weight.kept is None:
        return f"{before} → gone"
    after = " × ".join(f"{weight.kept[dim]:,}" for dim in dims)
    return before if after == before else f"{before} → {after}"
