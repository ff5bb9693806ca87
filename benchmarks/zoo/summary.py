"""What the zoo table says in total, and the reasons behind its exceptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median

from benchmarks.zoo.rows import Row
from benchmarks.zoo.verdict import (
    EXACT,
    EXACT_WITH_CASTS,
    PLANS,
    at_any_size,
    depth_verdict,
    in_onnx_at_any_size,
    onnx_agrees,
    onnx_excused,
    onnx_verdict,
    peer_verdict,
    reachable,
    sizes_of_export,
    verdict,
    why_unreachable,
)

PACKAGES = ("torch", "torchvision", "timm", "transformers")


def summary(rows: Sequence[Row]) -> str:
    """A paragraph, then the exceptions, model by model."""
    whole = [row for row in rows if "atograph" in row]
    first = [] if rows and not whole else [*_exactness(whole), *_coverage(whole), *_speed(whole)]
    sentences = [*first, *_onnx(rows), *_sizes(rows), *_depth(rows), *_peer(rows)]
    blocks = ["\n".join(sentences)]
    for title, note in _NOTES:
        listed = [f"- {row['model']}: {text}" for row in rows if (text := note(row))]
        if listed:
            blocks.append("\n".join([f"**{title}**", "", *listed]))
    blocks.append(f"Measured with {', '.join(_versions(rows))}; one thread.")
    return "\n\n".join(blocks)


def _sizes(rows: Sequence[Row]) -> list[str]:
    taken = [row for row in rows if "sizes" in row and sizes_of_export(row) == "yes"]
    if not taken:
        return []
    return [
        f"Of {len(taken)} models that torch.export takes with a dynamic length, or height and width, "
        f"{sum(map(at_any_size, taken))} come out slim with it and exact at three sizes, "
        f"{sum(map(in_onnx_at_any_size, taken))} in ONNX Runtime, too."
    ]


def _depth(rows: Sequence[Row]) -> list[str]:
    measured = [row for row in rows if "depth" in row]
    if not measured:
        return []
    emptied = [row for row in measured if row["depth"].get("emptied")]
    exact = sum(depth_verdict(row) == "exact" for row in emptied)
    slim = sum(bool(row["depth"].get("slim")) for row in emptied)
    nothing = sum(depth_verdict(row) == "nothing may go" for row in measured)
    return [
        f"Of {len(measured)} models {nothing} have no branch that may go. Without a random half of the branches that "
        f"may go, {exact} of the {len(emptied)} others are exact, and the module comes back on {slim}."
    ]


def _depth_note(row: Row) -> str:
    part = row.get("depth", {})
    if "depth" not in row or depth_verdict(row) == "nothing may go" or part.get("slim"):
        return ""
    return str(part.get("why_not") or part.get("error") or depth_verdict(row))


def _size_note(row: Row) -> str:
    part = row.get("sizes", {})
    if not part or sizes_of_export(row) != "yes" or in_onnx_at_any_size(row):
        return ""
    still = "; ".join(f"{name}: {why}" for name, why in part.get("still", {}).items())
    return still or part.get("onnx_error") or part.get("error") or "it differs"


STAGES = ("capture", "analysis", "plan", "rewrite")
"""From the model to its slim program."""


def seconds_to_program(row: Row) -> float | None:
    """From the model to its slim program, on first use; None where one of the stages has not ended."""
    taken = [row.get("atograph", {}).get("seconds", {}).get(stage) for stage in STAGES]
    return None if None in taken else float(sum(taken))


def speed_ratio(row: Row) -> float | None:
    """Torch-Pruning's seconds over ours to the slim program, where both came to an end."""
    ours, theirs = seconds_to_program(row), row.get("torch-pruning", {}).get("total")
    return theirs / ours if ours and theirs else None


def _exactness(rows: Sequence[Row]) -> list[str]:
    exact = sum(verdict(row) == "exact" for row in rows)
    double, single = _differences(rows, casts=False), _differences(rows, casts=True)
    sentences = [f"{exact} of {len(rows)} exact."]
    if double:
        sentences.append(f"Largest relative difference in float64: {max(double):.1e} (allowed: {EXACT:.0e}).")
    if single:
        sentences.append(
            f"In models that compute something in float32 all the same: {max(single):.1e} "
            f"(allowed: {EXACT_WITH_CASTS:.0e})."
        )
    return sentences


def _differences(rows: Sequence[Row], *, casts: bool) -> list[float]:
    parts = [row["atograph"] for row in rows if row.get("atograph", {}).get("float32_inside") is casts]
    plans = [part.get(name, {}) for part in parts if "no_float64" not in part for name in PLANS]
    return [plan["difference"] for plan in plans if "difference" in plan]


def _coverage(rows: Sequence[Row]) -> list[str]:
    known = [row["atograph"] for row in rows if "unknown" in row.get("atograph", {})]
    reached = sum(reachable(row) for row in rows)
    degenerate = sum(part.get("magnitude", {}).get("degenerate", False) for part in known)
    return [
        f"0.3 of the FLOPs reachable on {reached} of {len(rows)}, by one unit everywhere on {degenerate}.",
        f"An op without a rule on {sum(bool(part['unknown']) for part in known)}.",
        *_modules([row["module"] for row in rows if "module" in row]),
    ]


def _modules(parts: Sequence[Row]) -> list[str]:
    slim = [part for part in parts if part.get("slim")]
    plain = sum(not part["calls"] for part in slim)
    return [
        f"A slim module on {len(slim)} of {len(parts)}, on {plain} of them without a corrected call; "
        "the slim program on the others."
    ] * bool(parts)


def _speed(rows: Sequence[Row]) -> list[str]:
    sentences = []
    analysis = [
        (row["atograph"]["seconds"]["analysis warm"] * 1e3, row["model"])
        for row in rows
        if "analysis warm" in row.get("atograph", {}).get("seconds", {})
    ]
    total = [(seconds, row["model"]) for row in rows if (seconds := seconds_to_program(row)) is not None]
    if analysis:
        middle, (most, where) = median(value for value, _model in analysis), max(analysis)
        sentences.append(f"Analysis, warm: median {middle:.0f} ms, at most {most:.0f} ms ({where}).")
    if total:
        middle, (most, where) = median(value for value, _model in total), max(total)
        sentences.append(f"Model to slim program: median {middle:.2f} s, at most {most:.2f} s ({where}).")
    return sentences


def _onnx(rows: Sequence[Row]) -> list[str]:
    measured = [row for row in rows if "onnx" in row]
    if not measured:
        return []
    excused = sum(onnx_excused(row) for row in measured)
    return [
        f"ONNX Runtime agrees on {sum(map(onnx_agrees, measured))} of {len(measured)}; "
        f"on {excused} others the dense model does not get through torch.onnx and ONNX Runtime either."
    ]


def _peer(rows: Sequence[Row]) -> list[str]:
    measured = [row for row in rows if "torch-pruning" in row]
    if not measured:
        return []
    outcomes = Counter(peer_verdict(row) for row in measured)
    sentences = [
        f"Torch-Pruning out of the box, on {len(measured)}: "
        + ", ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common())
        + "."
    ]
    ratios = [ratio for row in measured if (ratio := speed_ratio(row)) is not None]
    if ratios:
        faster = sum(ratio > 1 for ratio in ratios)
        sentences.append(
            f"Where it prunes to the end, atograph is faster on {faster} of {len(ratios)} "
            f"({faster / len(ratios):.0%}), by a median of {median(ratios):.1f} times."
        )
    return sentences


def _without_rule(row: Row) -> str:
    return ", ".join(f"{op} ×{count}" for op, count in row.get("atograph", {}).get("unknown", {}).items())


def _unreachable(row: Row) -> str:
    return why_unreachable(row) if "magnitude" in row.get("atograph", {}) and not reachable(row) else ""


def _no_module(row: Row) -> str:
    part = row.get("module", {})
    return str(part.get("why_not") or part.get("error", ""))


def _onnx_exceptions(row: Row) -> str:
    return "" if onnx_agrees(row) else onnx_verdict(row)


def _peer_failures(row: Row) -> str:
    return str(row.get("torch-pruning", {}).get("error", ""))


_NOTES: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("Not exact", lambda row: "" if "atograph" not in row or verdict(row) == "exact" else verdict(row)),
    ("Ops without a rule, and on how many nodes", _without_rule),
    ("Why 0.3 of the FLOPs is not reached", _unreachable),
    ("Why ONNX Runtime has nothing to compare", _onnx_exceptions),
    ("Why not at any size", _size_note),
    ("Why there is no slim module", _no_module),
    ("Why there is no module without the branches", _depth_note),
    ("Why Torch-Pruning fails", _peer_failures),
)


def _versions(rows: Sequence[Row]) -> list[str]:
    peer = ("torch-pruning",) if any("torch-pruning" in row for row in rows) else ()
    found = []
    for package in (*PACKAGES, *peer):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found
