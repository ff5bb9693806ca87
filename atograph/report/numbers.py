"""Numbers as people read them: three digits and a unit."""

from __future__ import annotations

import math

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K"), (1.0, ""))


def three_digits(value: float) -> str:
    """``41.3``, ``0.783``, ``128``: three significant digits, never an exponent for what is above 0.001."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.3g}")  # first, so that 99.96 is 100 and not 100.0
    decimals = 2 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{min(max(decimals, 0), 6)}f}"


def scale_of(value: float) -> tuple[float, str]:
    """The divisor and the letter (T, G, M, K or none) that bring ``value`` to 1 or more."""
    return next(((divisor, letter) for divisor, letter in _SCALES if abs(value) >= divisor), (1.0, ""))


def count(value: float) -> str:
    """``272 K``, ``41.3 M``: a count with its scale; below a thousand, it is exact."""
    if abs(value) < 1000 and value == int(value):
        return str(int(value))
    divisor, letter = scale_of(value)
    return f"{three_digits(value / divisor)} {letter}".rstrip()


def macs(flops: float) -> str:
    """``41.3 MMACs``: FLOPs as multiply-accumulates, two FLOPs each."""
    divisor, letter = scale_of(flops / 2)
    return f"{three_digits(flops / 2 / divisor)} {letter}MACs"


def median_text(median: float, quartiles: tuple[float, float] | None) -> str:
    """``1.99 (1.80–2.31)``: a median with its quartiles, where they are known."""
    if quartiles is None:
        return three_digits(median)
    return f"{three_digits(median)} ({three_digits(quartiles[0])}–{three_digits(quartiles[1])})"


def percent(share: float) -> str:
    """``30.0 %``."""
    return f"{100 * share:.1f} %"


def size(length: float) -> str:
    """``1.07 MB``: bytes, decimal units."""
    divisor, letter = scale_of(length)
    return f"{three_digits(length / divisor)} {letter}B"


def clock(seconds: float) -> str:
    """``0:17``, ``1:02:05``."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def budget(share: float, dense: float, smallest: float, *, unit: str) -> str:
    """Say a budget back in both directions.

    Args:
        share: what is to stay, of ``dense``.
        dense: MACs, parameters or bytes of the dense model.
        smallest: the smallest share that can be reached.
        unit: ``MACs``, ``parameters`` or ``B of activations``.

    Returns:
        ``keep 30.0 % = 12.4 of 41.3 MMACs, remove 70.0 %; smallest reachable 4.1 %``.
    """
    divisor, letter = scale_of(dense)
    scaled = f"{letter}{unit}" if unit[0].isupper() else f"{letter} {unit}".lstrip()
    kept, whole = three_digits(share * dense / divisor), three_digits(dense / divisor)
    return (
        f"keep {percent(share)} = {kept} of {whole} {scaled}, remove {percent(1 - share)}; "
        f"smallest reachable {percent(smallest)}"
    )
