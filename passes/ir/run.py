"""A program as a module that runs."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import reduce
from typing import Any, Self

import torch
from torch import fx, nn
from torch.fx import traceback

from atograph.passes.errors import UserError
from atograph.passes.ir.decisions import raising
from atograph.passes.ir.fake.factories import traced
from atograph.passes.ir.interface import DynamicSize, Example, Interface, Ways, broken, ways_in_words
from atograph.passes.ir.program import Program
from atograph.passes.ir.sizes import BATCH, is_dynamic, text
from atograph.passes.public import public
from atograph.passes.torch_private import pytree


@public("atograph.passes")
class ProgramModule(nn.Module):
    """A program with the inputs and outputs of the user's model, and its tensors under the user's names.

    ``train()`` and ``eval()`` change nothing; ``to()`` moves the tensors, which are the program's own until then.

    Args:
        program: what to run.
        checked: whether it raises where the inputs decide otherwise than the example did; as the program says, unless
            given.
    """

    def __init__(self, program: Program, *, checked: bool | None = None) -> None:
        super().__init__()
        checked = program.interface.checked if checked is None else checked
        self._called = (program,)  # in a tuple: no submodule, whose tensors would be the program's placeholders
        self._raising = (raising(program, checked=checked),)
        for name in program.interface.state.values():
            _register(self, name, program.state[name], trained=name in program.interface.parameters)

    def forward(self, *args: object, **kwargs: object) -> Any:
        """Run the program.

        Raises:
            UserError: the arguments are not of the structure that the program was captured with, or the model's code
                would decide otherwise by their values.
        """
        (program,), interface = self._called, self._called[0].interface
        values = {placeholder: _lookup(self, name) for placeholder, name in interface.state.items()}
        values |= self.inputs_of(args, kwargs)
        inputs = [values[node.name] for node in program.graph.nodes if node.op == "placeholder"]
        results = self._results(program, inputs)
        written = len(interface.writes)
        for placeholder, value in zip(interface.writes, results[:written], strict=True):
            values[placeholder].copy_(value)
        return pytree.tree_unflatten(results[written:], interface.returns)

    @property
    def program(self) -> Program:
        """The program that it runs, with the tensors that it was made with."""
        return self._called[0]

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors that it has now, by the names of the program's state."""
        return {name: _lookup(self, name) for name in self.program.interface.state.values()}

    def example_of(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Example:
        """The arguments of a call in the structure that the program was captured with.

        Raises:
            UserError: they are not those of the program.
        """
        example: Example = pytree.tree_unflatten(self._leaves(args, kwargs), self.program.interface.takes)
        return example

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo.update((id(program), program) for program in (*self._called, *self._raising))  # they are never changed
        copied = memo[id(self)] = type(self).__new__(type(self))
        vars(copied).update(deepcopy(vars(self), memo))
        return copied

    def inputs_of(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, torch.Tensor]:
        """The arguments of a call by their placeholders.

        Raises:
            UserError: they are not of the structure, or of the sizes, that the program was captured with.
        """
        (program,), interface = self._called, self._called[0].interface
        leaves = self._leaves(args, kwargs)
        values = {name: leaf for name, leaf in zip(interface.inputs, leaves, strict=True) if name is not None}
        if not torch.compiler.is_exporting():
            _check_sizes({node: values[node.name] for node in program.input_nodes()}, interface)
        return values

    def _results(self, program: Program, inputs: list[torch.Tensor]) -> Any:
        if torch.compiler.is_exporting():  # node by node, so that each knows where it came from
            with traceback.preserve_node_meta():
                return _Traced(program).run(*inputs)
        called = program if torch.compiler.is_compiling() else self._raising[0]
        try:
            return called(*inputs)
        except RuntimeError as error:
            other = self._of_other_types(program, inputs)
            if not other:
                raise
            raise UserError(
                f"the program takes {' and '.join(other)}.",
                hint="Cast the inputs to that. A program keeps the types that it was traced in, whatever its slim "
                "module is cast to: for another type, cast the model and trace that.",
            ) from error

    def _of_other_types(self, program: Program, inputs: list[torch.Tensor]) -> list[str]:
        """In words, the inputs that are of another type than when it was captured, or than its tensors were cast to."""
        cast = {program.state[name].dtype: _lookup(self, name).dtype for name in program.interface.state.values()}
        placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
        own = set(program.input_nodes())
        types = [
            (node.name, cast.get(node.meta["val"].dtype, node.meta["val"].dtype), value.dtype)
            for node, value in zip(placeholders, inputs, strict=True)
            if node in own and isinstance(node.meta.get("val"), torch.Tensor)
        ]
        return [f"{name} of {_word(a)}, and was called with {_word(b)}" for name, a, b in types if a != b]

    def _leaves(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> list[Any]:
        interface = self._called[0].interface
        parameters = interface.signature.parameters
        own = {called: name for name, called in interface.called.items() if called not in parameters}
        kwargs = {own.get(name, name): value for name, value in kwargs.items()}
        leaves, structure = pytree.tree_flatten((args, kwargs))
        if structure == interface.takes:
            return self._checked(leaves)
        as_captured = pytree.tree_unflatten(range(len(interface.inputs)), interface.takes)
        try:  # the same arguments, by name or by position
            bound = interface.signature.bind(*args, **kwargs)
            left_out = set(bound.arguments)
            bound.apply_defaults()
            given = dict(bound.arguments)
            names = list(given)[: len(as_captured[0])]
            left_out -= {*names, *as_captured[1]}
            if left_out:
                raise UserError(
                    f"the program was captured without {', '.join(sorted(left_out))}, and cannot take it now.",
                    hint="Trace the model with all arguments that it is to be called with.",
                )
            leaves, structure = pytree.tree_flatten(
                (tuple(given[name] for name in names), {name: given[name] for name in as_captured[1]})
            )
        except (TypeError, KeyError):
            pass
        if structure != interface.takes:
            raise UserError(
                f"the program takes {_described(interface.takes)}, and was called with {_described(structure)}.",
                hint="Call it with arguments of the structure that it was traced with.",
            )
        return self._checked(leaves)

    def _checked(self, leaves: list[Any]) -> list[Any]:
        """Tensors where there were tensors; what is none was fixed at capture."""
        interface = self._called[0].interface
        captured = pytree.tree_leaves(interface.example) if interface.example is not None else leaves
        for name, leaf, before in zip(interface.inputs, leaves, captured, strict=True):
            if name is not None and leaf is None:
                raise UserError(
                    f"the program was traced with a tensor for {name}, and was called without one.",
                    hint="What the model does without it is another program: call the slim module instead "
                    "(slim.module), or trace the model without it.",
                )
            if name is not None and not isinstance(leaf, torch.Tensor):
                raise UserError(f"the program takes a tensor for {name}, and was called with a {type(leaf).__name__}.")
            if name is None and not isinstance(leaf, torch.Tensor) and not _equal(leaf, before):
                raise UserError(
                    f"the program was captured with {before!r}, and was called with {leaf!r} in its place.",
                    hint="Arguments that are no tensors were fixed when the model was traced: trace it with these.",
                )
        return leaves


class _Traced(fx.Interpreter):
    """A program as torch.export is to see it: what it would make constants of sizes for has another form."""

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_function":
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            result = traced(n, args, kwargs)
            if result is not NotImplemented:
                return result
        return super().run_node(n)


def _equal(a: object, b: object) -> bool:
    """Whether two arguments are the same, not-a-number and arrays included."""
    if a is b or (a != a and b != b) is True:
        return True
    equal = a == b
    return bool(equal.all() if hasattr(equal, "all") else equal)


def _check_sizes(inputs: Mapping[fx.Node, object], interface: Interface) -> None:
    """A size that was fixed at capture is not checked by any op, and another one would give something else."""
    known: dict[str, tuple[int, str]] = {}
    for node, value in inputs.items():
        wanted = node.meta.get("val")
        if not isinstance(wanted, torch.Tensor) or not isinstance(value, torch.Tensor):
            continue
        sizes = {
            place.dim: (size, place.multiple)
            for size in interface.dynamic
            for place in size.places
            if place.placeholder == node.name
        }
        if len(wanted.shape) != len(value.shape):
            raise _other_shape(node, wanted, value, sizes)
        for dim, (captured, given) in enumerate(zip(wanted.shape, value.shape, strict=True)):
            if dim in sizes:
                size, multiple = sizes[dim]
                if given % multiple or given < multiple * size.least or given > multiple * (size.most or given):
                    raise _other_shape(node, wanted, value, sizes)
                _check_same(known, size.name, given // multiple, node)
            elif captured == BATCH:
                _check_same(known, "batch", given, node)
            elif captured != given and not is_dynamic(captured):
                raise _other_shape(node, wanted, value, sizes)
    counts = {name: count for name, (count, _where) in known.items()}
    check_ways(interface.ways, counts)
    for name, total in interface.sums(counts).items():
        if name in known and known[name][0] != total:
            count, where = known[name]
            words = next(str(each) for each in interface.dynamic if each.name == name)
            raise UserError(
                f"the program was called with {where} of {name} = {count}, and the other inputs make it {total}.",
                hint=f"{words}: it was so when the model was traced.",
            )


def check_ways(ways: Ways, sizes: Mapping[str, int]) -> None:
    """Refuse sizes, by name, at which the model's code may go another way than the program.

    Raises:
        UserError: naming what does not hold.
    """
    unmet = broken(ways, sizes)
    if unmet is not None:
        at = ", ".join(f"{name} = {sizes[name]}" for name in sorted(unmet.names))
        raise UserError(
            f"the program takes sizes of which this holds: {ways_in_words(ways)}; it was called with {at}.",
            hint="The model's code decides by that, and a program has one way of it: trace it with an example of such "
            "a size for these.",
        )


def _check_same(known: dict[str, tuple[int, str]], name: str, size: int, node: fx.Node) -> None:
    """One name stands for one size wherever it occurs."""
    before, where = known.setdefault(name, (size, node.name))
    if before != size:
        what = "Inputs whose first dimension was the same at capture are taken for one batch."
        raise UserError(
            f"the program takes inputs of one {name} size, and was called with {where} of {before}, "
            f"{node.name} of {size}.",
            hint=what if name == "batch" else f"Sizes that are both called {name} are the same one.",
        )


def _other_shape(
    node: fx.Node, wanted: torch.Tensor, given: torch.Tensor, sizes: Mapping[int, tuple[DynamicSize, int]]
) -> UserError:
    shape = [_in_words(*sizes[dim]) if dim in sizes else text(size) for dim, size in enumerate(wanted.shape)]
    limits = [
        f"{size.name} from {size.least} to {size.most}" if size.most else f"{size.name} from {size.least}"
        for size, _multiple in sizes.values()
        if size.most or size.least > 1
    ]
    within = "".join(f", {limit}," for limit in limits)
    return UserError(
        f"the program takes {node.name} of the shape [{', '.join(shape)}]{within or ','} and was called with "
        f"{list(given.shape)}.",
        hint="Sizes that are written as numbers were fixed when the model was traced: trace it with such inputs, or "
        "name them in dynamic=.",
    )


def _in_words(size: DynamicSize, multiple: int) -> str:
    return size.name if multiple == 1 else f"{multiple}*{size.name}"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _described(structure: pytree.TreeSpec) -> str:
    args, kwargs = pytree.tree_unflatten(["·"] * structure.num_leaves, structure)
    return f"({', '.join([*map(str, args), *(f'{name}={value}' for name, value in kwargs.items())])})".replace("'", "")


def _register(module: nn.Module, name: str, value: torch.Tensor, *, trained: bool) -> None:
    """Put a tensor into a module under a dotted name, with the modules on the way."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]  # type: ignore[assignment]
    if trained:
        needs_grad = value.requires_grad and (value.is_floating_point() or value.is_complex())
        module.register_parameter(
            leaf, value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=needs_grad)
        )
    else:
        module.register_buffer(leaf, value)


def _lookup(module: nn.Module, name: str) -> torch.Tensor:
    value = reduce(getattr, name.split("."), module)
    assert isinstance(value, torch.Tensor)
    return value
