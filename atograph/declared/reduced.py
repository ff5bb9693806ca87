"""What a declared change comes to: the smaller model, and the change, which can be carried out and proved again."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from atograph.declared.certificate import certify
from atograph.passes.plan.declared import Declared
from atograph.passes.public import public
from atograph.report.declared import DeclaredProof
from atograph.spec.example_inputs import as_inputs


@public("atograph")
@dataclass(frozen=True)
class Reduced:
    """A model with fewer experts or tokens.

    Attributes:
        dense: the model that it was made of, as it was.
        module: the smaller one; traced, trained and saved like any other. Its plans remember the change.
        change: what stays.
    """

    dense: nn.Module = field(repr=False)
    module: nn.Module = field(repr=False)
    change: Declared

    def certify(self, inputs: object) -> DeclaredProof:
        """Prove that the smaller model is the dense one wherever nothing is used that is gone.

        Of experts: the dense model whose routers are kept from choosing those that are gone gives what the smaller one
        gives; and how far apart both are on samples that met none of them. Of tokens: on inputs of tokens that stay,
        the logits of those that stay are the same, and so is every other output.

        Args:
            inputs: of one call of the dense model, a tensor, a tuple or a dict; tokens by their old numbers.

        Raises:
            UserError: the smaller model does not run, or routers cannot be watched, or no input is one of tokens.
            InternalError: they differ by more than roundings.
        """
        return certify(self.dense, self.module, self.change, as_inputs(inputs, where="the inputs"))

    def __str__(self) -> str:
        return str(self.change)
