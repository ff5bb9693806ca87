"""The settings of progressive tightening."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from atograph.passes.cost.share import number_of
from atograph.train.settings.fields import TrainSettings
from atograph.train.settings.given import Fraction
from atograph.train.settings.method_table import OF_ATO


class ProgressiveSettings(TrainSettings):
    """Options of the method `progressive`, beside those of every training.

    There is no controller, and what is masked is zero at once: ``search_end`` and ``zero`` are ``tighten_end``.
    """

    tighten_start: Fraction = 0.02
    """When the first units go."""
    tighten_end: Fraction = 0.15
    """When the last units go: the network is as small as its budget from here on."""
    tighten_steps: Annotated[int, Field(ge=1)] = 8
    """In how many steps the budget is reached."""
    slim_apart: Annotated[int, Field(ge=1)] = 20
    """How many training steps a slim module has to be of use for: where the steps down are closer, what they mask is
    held at zero in the dense module until the last one. To make a module slim costs as much as some tens of steps."""

    @model_validator(mode="before")
    @classmethod
    def _moments_of_the_mask(cls, values: object) -> object:
        """The moments that every method has follow from the method's own."""
        if not isinstance(values, Mapping):
            return values
        end = number_of(values.get("tighten_end", cls.model_fields["tighten_end"].default))
        if end is None or not 0 <= end <= 1:
            return {"method": "progressive", **values}  # what is wrong with it is told where it stands
        unused = {name: cls.model_fields[name].default for name in OF_ATO} | {"controller": False}
        unused |= {"controller_start": 0.0, "projection_start": 0.0, "search_end": end, "zero": end}
        for name, value in unused.items():
            if values.get(name, value) == value:
                continue
            if name in ("search_end", "zero"):
                raise ValueError(f"the method progressive has tighten_end in place of {name}, which --method ato has")
            if name == "controller":
                raise ValueError("the method progressive has no controller, which --method ato has")
            raise ValueError(f"the method progressive has no use for {name}={values[name]}, which --method ato has")
        return {"method": "progressive", **values, "search_end": end, "zero": end}

    @model_validator(mode="after")
    def _start_before_end(self) -> ProgressiveSettings:
        """The first step comes before the last one."""
        if self.tighten_start > self.tighten_end:
            raise ValueError(f"tighten_start={self.tighten_start:g} lies after tighten_end={self.tighten_end:g}")
        return self
