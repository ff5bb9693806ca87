"""Where in the training we are, and what that means for the rate, for λ and for the mask."""

from __future__ import annotations

import math

from atograph.train.settings import TrainSettings


class Clock:
    """Turns (epoch, step) into a fraction of the whole training in [0, 1).

    Data without a length shows its number of steps in the first epoch only; until then each of its steps
    counts as the middle of that epoch.
    """

    def __init__(self, epochs: int, steps_per_epoch: int | None) -> None:
        self.epochs, self.steps = epochs, steps_per_epoch

    def fraction(self, epoch: int, step: int) -> float:
        """Share of the training that lies before this step (both counted from 0)."""
        within = 0.5 if self.steps is None else min(step / self.steps, 1.0 - 1e-9)
        return (epoch + within) / self.epochs

    def steps_between(self, start: float, end: float) -> int | None:
        """How many steps fall between two fractions; None while that is unknown."""
        return None if self.steps is None else round((end - start) * self.epochs * self.steps)


def lr_factor(settings: TrainSettings, t: float) -> float:
    """Multiplier of the peak rate at ``t``: linear warm-up, then half a cosine to zero, or constant."""
    if t < settings.warmup:
        return max(t / settings.warmup, 0.05)
    if settings.lr_schedule == "constant":
        return 1.0
    done = (t - settings.warmup) / max(1.0 - settings.warmup, 1e-9)
    return 0.5 * (1.0 + math.cos(math.pi * done))


def strength(settings: TrainSettings, t: float) -> float:
    """The projection's λ at ``t``: none, `lambda_start`, then a geometric rise from `search_end` to `zero`."""
    if t < settings.projection_start:
        return 0.0
    if t < settings.search_end:
        return settings.lambda_start
    span = max(settings.zero_from - settings.search_end, 1e-9)
    done = min((t - settings.search_end) / span, 1.0)
    return float(settings.lambda_search_end * (settings.lambda_end / settings.lambda_search_end) ** done)


def controller_interval(settings: TrainSettings, clock: Clock) -> int:
    """Training steps between two controller steps: the setting, or less where the phase is short."""
    steps = clock.steps_between(settings.controller_start, settings.search_end)
    if steps is None or settings.controller_min_steps == 0:
        return settings.controller_interval
    return max(1, min(settings.controller_interval, steps // settings.controller_min_steps))
