"""What was found of a declared change of meaning: a record of ``report.json``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]


class DeclaredProof(BaseModel):
    """Experts or tokens that are gone, and the certificate of what is left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["experts", "tokens"]
    what: str
    """In words: ``4 of 8 experts in each of 2 mixtures``."""
    field: str
    """The number in the model's configuration."""
    size: Count
    count: Count
    difference: float
    """Largest one, relative: of experts, of the dense model that cannot choose those that are gone; of tokens, of the
    dense model's logits of those that stay, on inputs of those."""
    tolerance: float
    moved: float | None = None
    """How far the experts that are gone move the dense model's output: at zero the comparison shows nothing."""
    params: tuple[Count, Count]
    """Of the dense model, and of what is left."""
    samples: Count
    unused: Count | None = None
    """Samples of which no token met an expert that is gone; None where that was not seen, or tokens went."""
    unused_difference: float | None = None
    """Largest difference to the dense model as it is on these; large where a router weighs all experts and not only
    the chosen ones."""
    besides: str = ""
    """Of tokens: how many were named, and what stays with them, in words; empty where that is all, or not known."""

    @property
    def holds(self) -> bool:
        """Whether it is the same model where nothing is used that is gone."""
        return self.difference <= self.tolerance

    @property
    def kept(self) -> str:
        """``4 of 8 experts in each of 2 mixtures (52% of the parameters)``."""
        before, after = self.params
        return f"{self.what} ({after / max(1, before):.0%} of the parameters)"

    def __str__(self) -> str:
        """In one sentence."""
        if self.kind == "tokens":
            stay = f"{self.kept} stay: {self.besides}" if self.besides else f"{self.kept} stay"
            return f"{stay}; on these, logits and all else differ by {self.difference:.1e} (relative)"
        text = f"{self.kept} stay; the dense model without the others differs by {self.difference:.1e} (relative)"
        if self.unused_difference is None:
            return text if self.unused is None else f"{text}; each of {self.samples} samples met some of the others"
        return (
            f"{text}; {self.unused} of {self.samples} samples met none of the others, and differ by "
            f"{self.unused_difference:.1e} from the dense model as it is"
        )
