"""ONNX files in, ONNX files out: ``python -m benchmarks.onnx_files [FILES] [--packages FOLDER] [--zoo NAMES]``.

Files that Python packages carry (``pip download --no-deps silero-vad rapidocr-onnxruntime nudenet ...``, unpacked into
a folder each) and models of the zoo, exported dense by our own writer, are imported, pruned to half of their FLOPs by
magnitude, and compared with the masked file in ONNX Runtime. Each runs in a process of its own, with a limit of time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "onnx-files.md"
MARKER = "<!-- table: python -m benchmarks.onnx_files -->"
ZOO = ("tv:resnet18", "tv:mobilenet_v2", "tv:squeezenet1_1", "tv:shufflenet_v2_x0_5", "hf:bert", "hf:gpt2", "hf:llama",
       "hf:vit")  # fmt: skip
LEAST = 10_000
"""Bytes of a file that is worth pruning."""


def main() -> None:
    """Measure what is not measured yet, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.onnx_files", description=__doc__)
    parser.add_argument("files", nargs="*", help="paths of ONNX files, or names of models of the zoo")
    parser.add_argument("--packages", type=Path, help="a folder with one unpacked package a folder")
    parser.add_argument("--zoo", action="store_true", help="some models of the zoo as well")
    parser.add_argument("--cache", type=Path, default=Path("build/onnx-files"), help="where results are kept")
    parser.add_argument("--limit", type=float, default=900, help="seconds for each file")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    names = [(Path(name).parent.name if Path(name).exists() else "zoo", name) for name in given.files]
    names += [] if given.packages is None else [*_of_packages(given.packages)]
    names += [("zoo", name) for name in ZOO] if given.zoo else []
    for package, name in names:
        measure(package, name, given.cache, given.limit)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(given.cache.glob("*.json"))]
    text = table(found)
    print(text)
    head = RESULTS.read_text(encoding="utf-8").partition(MARKER)[0] if RESULTS.exists() else ""
    RESULTS.write_text(f"{head}{MARKER}\n\n{text}\n", encoding="utf-8")


def _of_packages(folder: Path) -> Iterable[tuple[str, str]]:
    """Each file once, however many packages carry it."""
    seen = set[str]()
    for path in sorted(folder.rglob("*.onnx")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if path.stat().st_size >= LEAST and digest not in seen:
            seen.add(digest)
            yield path.relative_to(folder).parts[0].replace("_", "-"), str(path)


def measure(package: str, name: str, cache: Path, limit: float) -> None:
    """One file in a process of its own, unless it is measured."""
    key = f"{package}--{Path(name).stem if Path(name).exists() else name.replace(':', '-')}"
    result = cache / f"{key}.json"
    if result.exists() and "seconds" in json.loads(result.read_text(encoding="utf-8")):
        return
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.onnx_files.part", name, str(result)]
    why = ""
    try:
        done = subprocess.run(command, timeout=limit, capture_output=True, text=True, env={**os.environ}, check=False)
        if done.returncode:
            why = f"the process ended with {done.returncode}"
    except subprocess.TimeoutExpired:
        why = f"it takes longer than {limit:g} s"
    found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {"file": name, "stage": "reading"}
    found["package"] = package
    if why:
        found |= {"why": why, "seconds": limit}
    result.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(package, found["file"], found.get("kept"), found.get("files"), found.get("why", ""), flush=True)


def succeeds(found: dict[str, Any]) -> bool:
    """Whether a file was pruned to what was asked for, and the two files agree."""
    whole = (
        found.get("compared", 0.0 if found.get("faults") else 1.0) > 0.5
    )  # else ONNX Runtime is wrong of the dense file itself
    return bool(found.get("holds")) and found.get("files") is not None and found["kept"] <= 0.5 and whole


def table(found: Sequence[dict[str, Any]]) -> str:
    """The table, and what it adds up to."""
    heads = ("file", "opset", "ops", "ops known", "units prunable", "FLOPs kept", "weights kept",
             "masked file = slim file", "in float64", "frozen, or why not")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    ordered = sorted(found, key=lambda one: (one.get("package") == "zoo", one.get("package", ""), one["file"]))
    lines += ["| " + " | ".join(_cells(each)) + " |" for each in ordered]
    ops, unknown = sum(each.get("ops", 0) for each in found), Counter[str]()
    for each in found:
        unknown.update(each.get("unknown", {}))
    kinds = {kind for each in found for kind in each.get("kinds", ())}
    good = sum(map(succeeds, found))
    lines += [
        "",
        f"{good} of {len(found)} files prune to 0.5 and agree with the masked file in ONNX Runtime. They have {ops:,} "
        f"ops of {len(kinds)} kinds; {1 - sum(unknown.values()) / max(ops, 1):.1%} of the ops and "
        f"{len(kinds) - len(unknown)} of the kinds are known"
        + (f", not {', '.join(sorted(unknown))}." if unknown else "."),
    ]
    return "\n".join(lines)


def _cells(each: dict[str, Any]) -> list[str]:
    known = each["ops"] - sum(each["unknown"].values()) if "ops" in each else 0
    reasons = Counter(each.get("frozen", {})).most_common(3)
    why = each.get("why") or "; ".join(f"{reason} ({units:,})" for reason, units in reasons)
    if each.get("faults"):
        why += "; ONNX Runtime is wrong of the dense file: nothing is told by these inputs"
    elif "holds" in each and not each["holds"]:
        why += "; the files differ in float32 by more than 1e-4, and are exact in float64"
    if each.get("still"):
        why += f"; fixed: {', '.join(each['still'])}"
    return [
        f"{each.get('package', '')}: {each['file']}", str(each.get("opset", "")), f"{each.get('ops', 0):,}",
        f"{known / each['ops']:.0%}" if each.get("ops") else "",
        f"{each['prunable']:,} of {each['units']:,}" if "units" in each else "",
        f"{each['kept']:.1%}" if "kept" in each else "", f"{each['kept_params']:.1%}" if "kept" in each else "",
        f"{each['files']:.1e}" if each.get("files") is not None else "no" if "holds" in each else "",
        f"{each['float64']:.1e}" if each.get("float64") is not None else "",
        why.replace("|", "/"),
    ]  # fmt: skip
