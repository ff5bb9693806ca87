"""What a declared change comes to: the smaller model, and the change, which can be carried out and proved again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from atograph.declared.certificate import certify
from atograph.declared.tokenizer import OLD_NUMBERS, write_tokenizer
from atograph.files.loaded_from import loaded_from
from atograph.passes.declared import Declared
from atograph.passes.errors import UserError
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
        besides: how many tokens were named, and what stays with them, in words; empty where no more stay.
    """

    dense: nn.Module = field(repr=False)
    module: nn.Module = field(repr=False)
    change: Declared
    besides: str = ""

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
        proof = certify(self.dense, self.module, self.change, as_inputs(inputs, where="the inputs"))
        return proof.model_copy(update={"besides": self.besides})

    def save_tokenizer(self, folder: str | Path, tokenizer: str | Path | None = None) -> None:
        """Write the tokenizer of what is left, and ``tokens.json``: the old number of each token.

        Args:
            folder: where to write; it is there.
            tokenizer: the folder of the dense one's ``tokenizer.json``; None: where the model was loaded from.

        Raises:
            UserError: no tokens went; or there is no such tokenizer, or it is of a kind that cannot be cut. Then
                ``tokens.json`` is written all the same.
        """
        if self.change.kind != "tokens":
            raise UserError("its tokens are those of the dense model.", hint="Copy the tokenizer's files.")
        source = loaded_from(self.dense.get_submodule(self.change.part)) if tokenizer is None else Path(tokenizer)
        why = write_tokenizer(source, self.change, Path(folder))
        if why:
            raise UserError(
                f"no tokenizer is written: {why}.",
                hint=f"{OLD_NUMBERS}.",
            )

    def __str__(self) -> str:
        return str(self.change)
