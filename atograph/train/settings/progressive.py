"""The settings of progressive tightening."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from atograph.train.settings.fields import Fraction, TrainSettings


class ProgressiveSettings(TrainSettings):
    """Options of the method `progressive`, beside those of every training."""

    tighten_start: Fraction = 0.02
    """When the first units go; the last ones do at `freeze`."""
    tighten_steps: Annotated[int, Field(ge=1)] = 8
    """In how many steps the budget is reached. Each costs about as much as making the model slim does once."""

    @model_validator(mode="after")
    def _start_before_end(self) -> ProgressiveSettings:
        """The first step comes before the last one."""
        if self.tighten_start > self.freeze:
            raise ValueError(f"tighten_start={self.tighten_start:g} lies after freeze={self.freeze:g}")
        return self
