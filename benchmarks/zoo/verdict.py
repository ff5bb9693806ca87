"""What the findings of a zoo row amount to: limits, and a line for each part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXACT = 1e-9
"""Largest relative difference in float64."""

EXACT_WITH_CASTS = 1e-6
"""The same where the model itself computes something in float32."""

MOVED = 1e-4
"""A plan that moves the output less shows nothing; a hundred times the wider limit."""

ALIVE = 1e-6
"""Nor does a slim model whose output depends less on its input."""

AGREES = 1e-3
"""Largest relative difference between float32 in torch and in ONNX Runtime."""

PLANS = {"random": "random half", "magnitude": "0.3 of the FLOPs"}

Row = Mapping[str, Any]


def verdict(row: Row) -> str:
    """``exact``, or what failed."""
    part = row.get("atograph", {})
    if "error" in part:
        return f"{part['stage']}: {part['error']}" if "stage" in part else str(part["error"])
    failures = []
    for name, title in PLANS.items():
        failures += [f"{title}: {problem}" for problem in _problems(part.get(name), limit(part))]
    if "no_float64" in part:
        failures.append(f"in float32 only ({part['no_float64']})")
    return "; ".join(failures) or "exact"


def limit(part: Row) -> float:
    """The largest difference that a row is allowed."""
    return EXACT_WITH_CASTS if part.get("float32_inside") else EXACT


def _problems(plan: Row | None, allowed: float) -> list[str]:
    if plan is None:
        return ["not measured"]
    if "refused" in plan:
        return []  # how much can go is another question; the table lists these with their reasons
    if "error" in plan and "difference" not in plan:
        return [plan["error"]]
    found = []
    if not plan["difference"] <= allowed:
        found.append(f"differs by {plan['difference']:.1e}")
    if not plan["moved"] >= MOVED:
        found.append(f"moved the output by {plan['moved']:.1e} only")
    if not plan["alive"] >= ALIVE:
        found.append("the slim output does not depend on the input")
    if plan["predicted"] != plan["counted"]:
        found.append(f"FLOPs predicted {plan['predicted']:,}, counted {plan['counted']:,}")
    return found


def depth_verdict(row: Row) -> str:
    """``exact`` without whole branches, ``nothing may go``, or what failed."""
    part = row.get("depth", {})
    if "error" in part and "difference" not in part:
        return f"{part['stage']}: {part['error']}" if "stage" in part else str(part["error"])
    if not part.get("emptied"):
        return "nothing may go" if not part.get("may_go") else "nothing went"
    return "; ".join(_problems(part, limit(part))) or "exact"


def reachable(row: Row) -> bool:
    """Whether 0.3 of the FLOPs can be reached, and not by one unit everywhere."""
    plan = row.get("atograph", {}).get("magnitude", {})
    return "kept" in plan and not plan["degenerate"]


def why_unreachable(row: Row) -> str:
    """Why it cannot, with the commonest reasons for which groups are frozen."""
    part = row.get("atograph", {})
    plan = part.get("magnitude", {})
    if "refused" not in plan:
        return "one unit is left of every group" if plan.get("degenerate") else "not measured"
    frozen = [f"{text} ({count})" for text, count in list(part["frozen"].items())[:3]]
    return f"{plan['refused']} Frozen groups: {', '.join(frozen) or 'none'}."


def onnx_agrees(row: Row) -> bool:
    """Whether ONNX Runtime gives what the slim program gives, at every batch size."""
    part = row.get("onnx", {})
    return "error" not in part and bool(part.get("differences")) and max(part["differences"].values()) <= AGREES


def onnx_excused(row: Row) -> bool:
    """Whether the dense model does not get through torch.onnx and ONNX Runtime either."""
    return not onnx_agrees(row) and row.get("onnx", {}).get("dense", "agrees") != "agrees"


def onnx_verdict(row: Row) -> str:
    """The largest difference, or what failed, and whether the dense model fails, too."""
    part = row.get("onnx", {})
    if not part:
        return ""
    what = part.get("error") or f"{max(part['differences'].values()):.1e}"
    if onnx_agrees(row):
        return what
    return f"dense as well: {part['dense']}" if onnx_excused(row) else f"FAILS: {what}"


def peer_verdict(row: Row) -> str:
    """``ran``, ``pruned nothing``, ``timeout``, ``died`` or ``failed``."""
    part = row.get("torch-pruning", {})
    if not part:
        return ""
    if part.get("killed"):
        return str(part["killed"])
    return str(part.get("outcome", "failed"))


def sizes_of_export(row: Row) -> str:
    """Which sizes torch.export makes dynamic in the dense model: ``yes`` for all that were asked for, else why not."""
    part = row["sizes"]
    if not part["asked"]:
        return "nothing to ask for"
    return part.get("dense", part.get("error", "not measured")) or "yes"


def at_any_size(row: Row) -> bool:
    """Whether the slim model has all sizes dynamic that were asked for, and is exact at three of each."""
    part = row["sizes"]
    exact = EXACT_WITH_CASTS if part.get("float32_inside") else EXACT
    return not part.get("still", {"?": ""}) and part.get("largest", 1.0) <= exact


def in_onnx_at_any_size(row: Row) -> bool:
    """The same of its ONNX file."""
    return at_any_size(row) and row["sizes"].get("largest_onnx", 1.0) <= AGREES
