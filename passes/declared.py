"""A declared change of meaning: whole experts or tokens that go, which no mask of zeros stands for. Data only."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atograph.passes.public import public

Id = Annotated[int, Field(ge=0)]


@public("atograph.passes")
class Declared(BaseModel):
    """Which experts of each mixture stay, or which tokens of a vocabulary.

    Attributes:
        kind: what goes.
        part: the module that has the configuration; empty for the model itself.
        field: the number in that configuration that counts them, ``text_config.num_experts`` where it is nested.
        size: how many there are in the dense model.
        kept: mixture → those that stay, increasing, by their numbers in the dense model; of tokens there is one entry,
            without a name. Place in the row is the number in the smaller model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["experts", "tokens"]
    part: str = ""
    field: str
    size: Annotated[int, Field(ge=1)]
    kept: dict[str, tuple[Id, ...]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.kept or len({len(ids) for ids in self.kept.values()}) > 1:
            raise ValueError("'kept' has to name equally many in every mixture, and one mixture at least")
        for ids in self.kept.values():
            if not ids or list(ids) != sorted(set(ids)) or ids[-1] >= self.size:
                raise ValueError(f"the {self.kind} that stay are not increasing numbers below {self.size}")
        return self

    @property
    def count(self) -> int:
        """How many stay, in each mixture."""
        return len(next(iter(self.kept.values())))

    def __str__(self) -> str:
        where = f" in each of {len(self.kept)} mixtures" if len(self.kept) > 1 else ""
        return f"{self.count:,} of {self.size:,} {self.kind}{where}"
