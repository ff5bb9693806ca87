"""What the user gives: a model, its data and how to train it, as functions of one file or module."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from atograph.passes.errors import UserError
from atograph.spec.example_inputs import Inputs, as_inputs, inputs_of_batch
from atograph.spec.importing import as_script, import_file, import_module
from atograph.spec.library_models import library_model
from atograph.spec.lookup import Target, target_of
from atograph.spec.program_data import HINT
from atograph.spec.program_spec import program_spec
from atograph.values.dynamic_sizes import texts_of
from atograph.values.state_texts import state_texts
from atograph.values.user_code import kind_of, user_code

if TYPE_CHECKING:
    from torch import nn

    from atograph.train.settings import TrainSettings

_DYNAMIC = ("dynamic", "dynamic_shapes")
_TAKING_DATA = ("train_data", "val_data", "example_inputs", "teacher")


class Batches:
    """The batches of ``train_data()`` or ``val_data()``, readable again and again.

    A function that yields its batches is simply called again for each pass. What the user's code raises while
    making a batch is shown as theirs (`UserCodeError`). ``len()`` works where the user's object has one.
    """

    def __init__(self, spec: Spec, function: str) -> None:
        self._spec, self._function = spec, function
        made = spec._call(function)
        if not isinstance(made, Iterable):
            raise UserError(
                f"`{function}()` returned {kind_of(made)}, which cannot be iterated over.",
                where=spec.where,
                hint="Return an iterable of batches: a DataLoader, a list, or yield them.",
            )
        self._once = iter(made) is made
        self._made: Iterable[object] | None = made

    def __iter__(self) -> Iterator[object]:
        """Every batch of one pass, as the user's object gives it."""
        made, spec = self._made, self._spec
        if made is None:
            made = spec._call(self._function)
        elif self._once:
            self._made = None
        doing = f"reading a batch of {self._function}()"
        with user_code(doing, spec.where):
            batches = iter(made)
        while True:
            with user_code(doing, spec.where):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch

    def __len__(self) -> int:
        """Batches in one pass.

        Raises:
            TypeError: the user's object has no length, as for any object without one.
        """
        return len(self._made)  # type: ignore[arg-type]

    @property
    def made(self) -> Iterable[object] | None:
        """What the user's function returned, where that can be read again and again: a DataLoader, say."""
        return None if self._once else self._made

    def first(self) -> object:
        """The first batch of a pass of its own."""
        for batch in self:
            return batch
        raise UserError(f"`{self._function}()` gave no batch.", where=self._spec.where)


@dataclass(frozen=True)
class Spec:
    """A loaded specification; each method calls the user's function of that name, and checks what it returns.

    Args:
        text: as the user gave it.
        name: short name for folders and titles: ``digits`` of ``examples/digits.py``.
        where: the file or module, as error messages name it.
        module: the imported module.
        target: where it was found.
        factory: name of the function that makes the model, ``model`` unless ``:factory`` says otherwise.
        data: what ``--data`` gave; passed to each function that has a parameter ``data``.
    """

    text: str
    name: str
    where: str
    module: ModuleType = field(repr=False)
    target: Target = field(repr=False)
    factory: str = "model"
    data: Path | None = None

    def model(self) -> nn.Module:
        """A fresh model, as its function returns it."""
        return self._module(self.factory)

    def teacher(self) -> nn.Module | None:
        """A trained network to learn from; None where the file has no ``teacher``."""
        return self._module("teacher") if self.has_teacher else None

    @property
    def has_teacher(self) -> bool:
        """Whether the file has a ``teacher``, which is not made for that."""
        return hasattr(self.module, "teacher")

    def _module(self, function: str) -> nn.Module:
        from torch import nn

        made = self._call(function)
        if not isinstance(made, nn.Module):
            raise UserError(f"`{function}()` returned {kind_of(made)}, not a torch.nn.Module.", where=self.where)
        return made

    def train_data(self) -> Batches:
        """The training batches, readable once per epoch."""
        self.require_training()
        return Batches(self, "train_data")

    def val_data(self) -> Batches | None:
        """The batches that metrics are measured on; None where the file has no ``val_data``."""
        return Batches(self, "val_data") if hasattr(self.module, "val_data") else None

    def example_inputs(self) -> Inputs | None:
        """The arguments of one call of the model; None where the file has no ``example_inputs``."""
        if not hasattr(self.module, "example_inputs"):
            return None
        return as_inputs(self._call("example_inputs"), where=f"{self.where}: example_inputs()")

    def inputs(self) -> Inputs:
        """The arguments to trace with: ``example_inputs()``, or else those in the first training batch."""
        given = self.example_inputs()
        if given is not None:
            return given
        if not hasattr(self.module, "train_data"):
            raise UserError(
                "the file defines neither `example_inputs` nor `train_data`: the inputs are unknown.",
                where=self.where,
                hint="Define example_inputs() returning a tensor, a tuple or a dict.",
            )
        return inputs_of_batch(self.train_data().first(), where=f"{self.where}: train_data()")

    @property
    def loss(self) -> Callable[..., Any] | None:
        """``loss(model, batch)``, a 0-dim tensor; None for the default."""
        return self._optional("loss")

    @property
    def metric(self) -> Any:
        """``metric(model, batch)``, a mean over the batch; None for the default.

        Or an object that measures all batches together, or a class of such (`train.losses.metrics.DatasetMetric`).
        """
        from atograph.train.losses.metrics import is_dataset_metric

        metric = getattr(self.module, "metric", None)
        if not is_dataset_metric(metric):
            return self._optional("metric")
        if not isinstance(metric, type):
            return metric
        with user_code("calling metric()", self.where):
            return metric()

    @property
    def metric_name(self) -> str | None:
        """What the file calls its metric: a text ``metric_name``; None without one.

        Raises:
            UserError: it is no text.
        """
        name = getattr(self.module, "metric_name", None)
        if name is not None and not isinstance(name, str):
            raise UserError(f"`metric_name` is {kind_of(name)}, not a text.", where=self.where)
        return name

    @property
    def optimizer(self) -> Callable[..., Any] | None:
        """``optimizer(params)``, a `torch.optim.Optimizer`; None for the default."""
        return self._optional("optimizer")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that the deployment reads: a list ``outputs``, or a function that gives one; none: all.

        Raises:
            UserError: it is no list of names.
        """
        names = getattr(self.module, "outputs", ())
        if callable(names):
            names = self._call("outputs")
        names = (names,) if isinstance(names, str) else names
        if not isinstance(names, (list, tuple)) or not all(type(name) in (str, int) for name in names):
            raise UserError(
                f"`outputs` is {kind_of(names)}, not a list of names.",
                where=self.where,
                hint='It names the outputs that the deployment reads: outputs = ["logits"].',
            )
        return tuple(map(str, names))

    @property
    def dynamic(self) -> tuple[str, ...]:
        """What is dynamic besides the batch: ``dynamic``, or a function that gives it; a text a dim.

        ``dynamic_shapes``, as `torch.export` has it, is the same.

        Raises:
            UserError: it has no form that `trace` takes; or both names are there.
        """
        names = [name for name in _DYNAMIC if hasattr(self.module, name)]
        if len(names) > 1:
            raise UserError(
                "the file says `dynamic` and `dynamic_shapes`, which are the same.", where=self.where,
                hint="Leave one of them out.",
            )  # fmt: skip
        return self._texts(names[0], texts_of) if names else ()

    @property
    def state(self) -> tuple[str, ...]:
        """Which outputs become which inputs of the next call: ``state``, or a function that gives it; a text a pair.

        Raises:
            UserError: it has no form that `trace` takes.
        """
        return self._texts("state", state_texts)

    def _texts(self, name: str, read: Callable[[Any], tuple[str, ...]]) -> tuple[str, ...]:
        """What the file declares under a name, or a function of it gives, as texts."""
        declared = getattr(self.module, name, None)
        if callable(declared):
            declared = self._call(name)
        try:
            return read(declared)
        except UserError as error:
            raise UserError(error.message, where=self.where, hint=error.hint) from error

    def settings(self, given: TrainSettings) -> TrainSettings:
        """Settings with what the file declares, where nothing else was given."""
        declared = {"outputs": self.outputs, "dynamic": self.dynamic, "state": self.state}
        return given.model_copy(update={name: own for name, own in declared.items() if not getattr(given, name)})

    def require_training(self) -> None:
        """Refuse a file that cannot train."""
        if not hasattr(self.module, "train_data"):
            if self.target.kind == "program":
                raise UserError(
                    "a program brings no data, and this needs some.",
                    where=self.where,
                    hint=f"{HINT} Without data: --method magnitude.",
                )
            raise UserError(
                "the file defines no `train_data`.",
                where=self.where,
                hint="Define train_data() returning an iterable of batches, a DataLoader say.",
            )

    def _optional(self, name: str) -> Callable[..., Any] | None:
        function = getattr(self.module, name, None)
        if function is None:
            return None
        _check_callable(function, name, self.where)

        @functools.wraps(function)
        def guarded(*args: object, **kwargs: object) -> object:
            with user_code(f"calling {name}()", self.where):
                return function(*args, **kwargs)

        return guarded

    def _call(self, name: str) -> Any:
        function = _find(self.module, name)
        _check_callable(function, name, self.where)
        signature = _signature(function)
        kwargs = {"data": self.data} if self.data is not None and "data" in signature.parameters else {}
        try:
            signature.bind(**kwargs)
        except TypeError as error:
            if self.data is None and "data" in signature.parameters:
                hint = "Give --data DIR."
            else:
                hint = "Only a parameter named `data` is filled in, from --data."
            raise UserError(
                f"`{name}{signature}` cannot be called without arguments: {error}.",
                where=self.where,
                hint=hint,
            ) from error
        with user_code(f"calling {name}()", self.where), as_script(self.target.path):
            return function(**kwargs)


def load_spec(text: str, *, data: Path | None = None) -> Spec:
    """Import what ``text`` names.

    Args:
        text: ``model.py``, ``package.module``, or either with ``:factory``, the maker of the model; or a model of
            another package by its name, ``timm:resnet50`` (`library_models`); or a program, a ``.pt2`` file say
            (`programs`).
        data: handed to each of the file's functions that has a parameter ``data``.

    Raises:
        UserError: no such file or module, no model in it, or ``data`` that nothing in it takes.
        UserCodeError: the file raised while it was imported, a syntax error included.
    """
    return load_target(target_of(text), data=data)


def load_target(
    target: Target, *, data: Path | None = None, outside: Path | None = None, offline: bool = False
) -> Spec:
    """Import what was looked up.

    Args:
        target: what to import.
        data: as for `load_spec`.
        outside: a folder that never gets on the path of imports: that of a run.
        offline: never ask a hub for a configuration.

    Raises:
        UserError: as `load_spec`.
    """
    if target.kind == "library":
        module, name = library_model(target, offline=offline)
        return Spec(text=target.text, name=name, where=target.text, module=module, target=target, data=data)
    if target.kind == "program":
        assert target.path is not None
        module, name = program_spec(target.path, data)
        return Spec(text=target.text, name=name, where=target.text, module=module, target=target, data=data)
    if target.kind == "file":
        assert target.path is not None
        module, name, where = import_file(target.path, target.name, outside), target.path.stem, target.name
    else:
        module = import_module(target.name, target.root, outside)
        name, where = target.name.rpartition(".")[2], target.name
    factory = target.factory
    name = name if factory is None else f"{name}-{factory.replace('.', '-')}"
    spec = Spec(
        text=target.text, name=name, where=where, module=module, target=target, factory=factory or "model", data=data
    )
    _check(spec)
    return spec


def _check(spec: Spec) -> None:
    if _find(spec.module, spec.factory) is None:
        own = [
            name
            for name, value in vars(spec.module).items()
            if callable(value) and getattr(value, "__module__", None) == spec.module.__name__ and name[0] != "_"
        ]
        hint = "Define model() returning a torch.nn.Module"
        hint += f", or name a function of the file, as in {spec.where}:{own[0]}." if own else "."
        raise UserError(f"the file defines no `{spec.factory}`.", where=spec.where, hint=hint)
    if spec.data is not None:
        functions = [_find(spec.module, name) for name in {spec.factory, *_TAKING_DATA}]
        if not any(callable(function) and "data" in _signature(function).parameters for function in functions):
            raise UserError(
                "--data was given, but none of the file's functions has a parameter `data`.", where=spec.where
            )


def _find(module: ModuleType, name: str) -> Any:
    """What a dotted name stands for, None for nothing."""
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def _check_callable(function: object, name: str, where: str) -> None:
    from torch import nn

    if isinstance(function, nn.Module) or not callable(function):
        raise UserError(
            f"`{name}` is {kind_of(function)}, not a function.",
            where=where,
            hint=f"Write `def {name}(...)`; atograph calls it.",
        )


def _signature(function: Callable[..., object]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except ValueError:  # some functions written in C have none
        return inspect.Signature()
