"""Which inputs of a model are tokens, found by watching what its vocabulary is indexed by; and their new numbers."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from atograph.declared.counted import Counted
from atograph.declared.smaller import counted_for
from atograph.passes.declared import Declared
from atograph.passes.errors import UserError
from atograph.spec.example_inputs import Inputs
from atograph.values.eval_mode import eval_mode
from atograph.values.structures import copied, tensors_of
from atograph.values.user_code import one_line

_IGNORED = -100
"""The label that a loss leaves out."""

HINT = "Keep every token of the data, or leave out or replace what has others."

LIMIT = 10_000
"""Batches that are read through before a training; in later ones, a token that is gone stops it where it comes up."""


@dataclass(frozen=True)
class TokenInputs:
    """The inputs of a model that are tokens.

    Attributes:
        names: of these arguments.
        head: whether the model gives logits of its vocabulary, so that labels are tokens, too.
        new: old number → new one, ``[size]``; -1 for tokens that are gone.
        parameters: names of the model's positional arguments.
    """

    names: frozenset[str]
    head: bool
    new: Tensor
    parameters: tuple[str, ...]

    @classmethod
    def of(
        cls, model: nn.Module, change: Declared, found: Counted, inputs: Inputs, small: nn.Module | None = None
    ) -> TokenInputs:
        """Run a dense model once, and see; of one on the meta device, inputs are known by their names.

        Args:
            model: before the change.
            change: what stays.
            found: what the number of tokens counts.
            inputs: of one call.
            small: after the change, to see which outputs have columns for tokens; None: all that are as wide.

        Raises:
            UserError: no input is what the vocabulary is indexed by.
        """
        names, outputs = _names_of(model, model.get_submodule(change.part).state_dict(keep_vars=True), found, inputs)
        new = torch.full((change.size,), -1)
        new[list(change.kept[""])] = torch.arange(change.count)
        wide = [at for at, tensor in enumerate(outputs) if tensor.shape[-1:] == (change.size,)]
        made = cls(names, bool(wide), new, _parameters(model))
        if small is None or not wide:
            return made
        left = outputs_of(small, made.renumbered(made.with_kept_only(inputs)), change)
        cut = any(left[at].shape[-1:] != (change.size,) for at in wide)
        return replace(made, head=cut)

    def renumbered(self, inputs: Inputs) -> Inputs:
        """Inputs with the new numbers.

        Raises:
            UserError: a token of them is gone.
        """
        return self._with(inputs, lambda name, value: self._new(value, name))

    def with_kept_only(self, inputs: Inputs) -> Inputs:
        """Inputs, by old numbers, with tokens that stay in place of those that do not."""
        kept = (self.new >= 0).nonzero().flatten()

        def replaced(_name: str, value: Tensor) -> Tensor:
            gone = self.new.to(value.device)[value] < 0
            return torch.where(gone, kept.to(value)[value % len(kept)], value)

        return self._with(inputs, replaced)

    def batch(self, batch: Any) -> Any:
        """A batch of data with the new numbers: inputs, and labels where the model gives logits of tokens.

        Raises:
            UserError: a token of it is gone.
        """
        if isinstance(batch, Mapping):
            return type(batch)({name: self._entry(name, value) for name, value in batch.items()})  # type: ignore[call-arg]
        if isinstance(batch, Tensor):
            return self._new(batch, "the batch")
        if isinstance(batch, Sequence) and len(batch) == 2:
            inputs, targets = batch
            if isinstance(inputs, Mapping):
                inputs = self.batch(inputs)
            elif isinstance(inputs, Tensor):
                inputs = self._new(inputs, "the inputs")
            else:
                inputs = self.renumbered(Inputs(tuple(inputs), {})).args
            return inputs, self._entry("labels", targets)
        return batch

    def check(self, data: Iterable[object], where: str) -> None:
        """Read data through, and refuse all tokens at once that are gone; those of its first `LIMIT` batches.

        Args:
            data: batches, readable again.
            where: what the data is called.

        Raises:
            UserError: there are some, or numbers that are no tokens.
        """
        counts, batches, met = Counter[int](), 0, 0
        looking = _Looking(self.names, self.head, self.new, self.parameters, counts)
        for batch in islice(data, LIMIT):
            before = counts.total()
            looking.batch(batch)
            batches, met = batches + 1, met + (counts.total() > before)
        if not counts:
            return
        first = ", ".join(str(token) for token, _count in counts.most_common(8)) + ", ..." * (len(counts) > 8)
        raise UserError(
            f"{met:,} of {batches:,} batches have tokens that do not stay: {first} ({len(counts):,} in all, "
            f"{counts.total():,} times).",
            where=where,
            hint=HINT,
        )

    def _entry(self, name: str, value: Any) -> Any:
        if name in self.names:
            return self._new(value, name)
        if self.head and name.endswith("labels") and isinstance(value, Tensor) and not value.is_floating_point():
            left_out = value == _IGNORED
            return torch.where(left_out, value, self._new(torch.where(left_out, self._any, value), name))
        return value

    @property
    def _any(self) -> int:
        return int((self.new >= 0).nonzero()[0])

    def _new(self, value: Tensor, name: str) -> Tensor:
        self._check_known(value, name)
        new = self.new.to(value.device)[value.long()]
        gone = value[new < 0]
        if gone.numel():
            others = sorted(set(gone.tolist()))
            more = f" and {len(others) - 1} more tokens" if len(others) > 1 else ""
            raise UserError(
                f"the data has the token {others[0]}{more} in {name}, which do not stay."
                if more
                else f"the data has the token {others[0]} in {name}, which does not stay.",
                hint=HINT,
            )
        return new.to(value.dtype)

    def _check_known(self, value: Tensor, name: str) -> None:
        beyond = value[(value < 0) | (value >= len(self.new))]
        if beyond.numel():
            raise UserError(f"the data has {int(beyond[0])} in {name}, which is no token of the model.")

    def _with(self, inputs: Inputs, change: Callable[[str, Tensor], Tensor]) -> Inputs:
        def entry(name: str, value: object) -> object:
            return change(name, value) if name in self.names and isinstance(value, Tensor) else value

        positional = zip(self.parameters, inputs.args, strict=False)
        return Inputs(
            tuple(entry(name, value) for name, value in positional),
            {name: entry(name, value) for name, value in inputs.kwargs.items()},
        )


def outputs_of(small: nn.Module, inputs: Inputs, change: Declared) -> list[Tensor]:
    """The tensors that a smaller model gives, in eval mode.

    Raises:
        UserError: it does not run.
    """
    args, kwargs = copied(inputs.example)
    try:
        with eval_mode(small), torch.no_grad():
            return list(tensors_of(small(*args, **kwargs)))
    except (NotImplementedError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"the model does not run with {change}: {type(error).__name__}: {one_line(error)}.",
            hint="Keep more of them, or a number that its code takes.",
        ) from error


def _parameters(model: nn.Module) -> tuple[str, ...]:
    return tuple(inspect.signature(model.forward).parameters)


def _names_of(
    model: nn.Module, tensors: Mapping[str, Tensor], found: Counted, inputs: Inputs
) -> tuple[frozenset[str], Sequence[Tensor]]:
    """The inputs that the vocabulary of a model is indexed by, and what the model gives (nothing on the meta device).

    Raises:
        UserError: there are none.
    """
    named = {**dict(zip(_parameters(model), inputs.args, strict=False)), **inputs.kwargs}
    integers = {name: value for name, value in named.items() if isinstance(value, Tensor) and _is_integer(value)}
    outputs: Sequence[Tensor] = ()
    if any(tensor.is_meta for tensor in tensors.values()):  # there are no values to look at
        names = {name for name in integers if name.endswith("input_ids")} or {*integers}
        names = names if len(names) == 1 or all(name.endswith("input_ids") for name in names) else set()
    else:
        args, kwargs = copied(inputs.example)
        with _Lookups([tensors[name] for name in found.rows]) as lookups, eval_mode(model), torch.no_grad():
            outputs = tensors_of(model(*args, **kwargs))
        names = {name for name, value in integers.items() if any(_same(value, each) for each in lookups.indices)}
        names = names or {  # in another order: transposed, say
            name for name, value in integers.items() if any(_same(*_sorted(value, each)) for each in lookups.indices)
        }
    if not names:
        raise UserError(
            f"none of the inputs ({inputs}) is what the vocabulary is indexed by, so tokens have no new numbers.",
            hint="Give the tokens themselves, not embeddings.",
        )
    return frozenset(names), outputs


def with_old_numbers(small: nn.Module, change: Declared, found: Counted, inputs: Inputs) -> Inputs:
    """Inputs of what is left of a model, as the dense one takes them.

    Args:
        small: after the change.
        change: of its vocabulary.
        found: what the number of tokens counts.
        inputs: of one call.
    """
    old = torch.tensor(change.kept[""])
    names, _outputs = _names_of(small, small.get_submodule(change.part).state_dict(keep_vars=True), found, inputs)
    back = TokenInputs(names, False, old, _parameters(small))
    return back._with(inputs, lambda _name, value: old.to(value.device)[value.long()].to(value.dtype))


def after_changes(model: nn.Module, changes: Sequence[Declared], inputs: Inputs) -> Inputs:
    """Inputs of a dense model as the smaller one takes them, with tokens that stay in place of those that are gone."""
    for change in changes:
        if change.kind == "tokens":
            found = counted_for(model.get_submodule(change.part), change)
            tokens = TokenInputs.of(model, change, found, inputs)
            inputs = tokens.renumbered(tokens.with_kept_only(inputs))
    return inputs


@dataclass(frozen=True)
class _Looking(TokenInputs):
    """Looks at batches, and counts tokens that are gone in place of refusing them."""

    counts: Counter[int]

    def _new(self, value: Tensor, name: str) -> Tensor:
        self._check_known(value, name)
        gone = value[self.new.to(value.device)[value.long()] < 0]
        self.counts.update(gone.tolist())
        return value


class Renumbered:
    """Batches with the new numbers of tokens, readable as often as the data is."""

    def __init__(self, data: Iterable[object], tokens: TokenInputs) -> None:
        self._data, self._tokens = data, tokens

    def __iter__(self) -> Any:
        return (self._tokens.batch(batch) for batch in self._data)

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[arg-type]


class _Lookups(TorchFunctionMode):
    """While it is entered, notes what some tables are indexed by."""

    def __init__(self, tables: Iterable[Tensor]) -> None:
        super().__init__()
        self._tables = {id(table) for table in tables}
        self.indices: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") == "embedding":
            index, table = (*args, *(kwargs or {}).values())[:2]
            if id(table) in self._tables:
                self.indices.append(index.detach().flatten())
        return func(*args, **(kwargs or {}))


def _is_integer(value: Tensor) -> bool:
    return not value.is_floating_point() and value.dtype != torch.bool


def _sorted(*values: Tensor) -> tuple[Tensor, ...]:
    return tuple(value.flatten().sort().values for value in values)


def _same(value: Tensor, index: Tensor) -> bool:
    return value.numel() == index.numel() and bool((value.flatten() == index).all())
