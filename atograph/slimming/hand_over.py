"""What is handed over of a slim module: its weights as they are now, under the names that its slim program has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from atograph.passes.errors import UserError
from atograph.passes.ir.program import Program
from atograph.repair.checks import Checks
from atograph.repair.tensors import named_state
from atograph.values.eval_mode import copy_of

_PLAIN = (bool, int, float, str, type(None))

_HINT = (
    "The slim program cannot follow that. Undo it for the hand-over (merge adapters, make masks permanent), or export "
    "the module as it is by torch.export or torch.onnx."
)


class AsMade:
    """A slim module and what it was when it was made: its parts, the shapes of its tensors, its plain attributes."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._parts = _parts(module)
        self._tensors = {name: (value.shape, value.dtype, value.device) for name, value in named_state(module)}
        self._attributes = self._checked = _attributes(module)

    def follow(self, program: Program) -> Program:
        """The slim program with the weights that the module has now; the very same where nothing has changed.

        Raises:
            UserError: the module has other parts or shapes than when it was made, no values, or does not compute what
                the program does any more: its code, or what that reads, has changed.
        """
        differences = list(self._differences(program))
        if differences:
            raise _changed("; ".join(differences[:3]))
        weights, attributes = self._new_weights(program), _attributes(self.module)
        if not weights and attributes == self._checked:
            return program
        if weights:
            program = program.rewritten(program.graph, {**program.state, **weights})
        self._check(program, attributes)
        self._checked = attributes
        return program

    def _new_weights(self, program: Program) -> dict[str, Tensor]:
        """The module's tensors that are not the program's any more, in the program's types and on its devices."""
        now, changed = dict(named_state(self.module)), {}
        for name, old in program.state.items():
            if name not in now:  # a constant of the code
                continue
            if now[name].is_meta and not old.is_meta:
                raise _changed(f"{name} is on the meta device, without values")
            value = now[name].detach().to(old.device, old.dtype)
            if not torch.equal(value, old):
                changed[name] = like(old, value)
        return changed

    def _check(self, program: Program, attributes: Mapping[str, object]) -> None:
        """Run module and program on the example inputs."""
        example = program.interface.example
        assert example is not None  # the module was checked with it
        if not Checks(program, example).same(self._in_the_programs_types()):
            names = [name for name, value in attributes.items() if self._attributes.get(name) != value]
            what = f"; {', '.join(names[:3])} changed" if names else ""
            raise _changed(f"with the same weights it does not compute what its slim program does{what}")

    def _differences(self, program: Program) -> Iterator[str]:
        state = dict(named_state(self.module))
        now, tensors = _parts(self.module), {name: value.shape for name, value in state.items()}
        for name, kind in self._parts.items():
            if name not in now:
                yield f"{name or 'the module'} is gone"
            elif now[name] is not kind:
                yield f"{name or 'the module'} was {kind.__name__}, and is {now[name].__name__}"
        yield from (f"{name} is new" for name in now if name not in self._parts)
        for name, (shape, _dtype, _device) in self._tensors.items():
            if name not in tensors:
                yield f"{name} is gone"
            elif tensors[name] != shape and (name in program.state or isinstance(state[name], nn.Parameter)):
                yield f"{name} was {list(shape)}, and is {list(tensors[name])}"
        yield from (f"{name} is new" for name in tensors if name not in self._tensors)

    def _in_the_programs_types(self) -> nn.Module:
        """The module, or a copy in the types and on the devices that it was made in."""
        state = named_state(self.module)
        if all(self._tensors[name][1:] == (value.dtype, value.device) for name, value in state):
            return self.module
        copied, same = copy_of(self.module), dict[int, Tensor]()
        for name, value in named_state(copied):
            _shape, dtype, device = self._tensors[name]
            if id(value) not in same:  # a tied tensor stays one
                same[id(value)] = like(value, value.detach().to(device, dtype))
            path, _, leaf = name.rpartition(".")
            setattr(copied.get_submodule(path), leaf, same[id(value)])
        return copied


def _changed(what: str) -> UserError:
    return UserError(f"the module has changed since it was made slim: {what}.", where="slim.module", hint=_HINT)


def _parts(module: nn.Module) -> dict[str, type]:
    return {name: type(part) for name, part in module.named_modules(remove_duplicate=False)}


def _attributes(module: nn.Module) -> dict[str, object]:
    """Numbers and text that its parts hold, but for the mode that they are in; and code of others that runs in them."""
    return {
        f"{name}.{key}" if name else key: value
        for name, part in module.named_modules()
        for key, value in (*_plain(part), *_code(part))
    }


def _plain(part: nn.Module) -> Iterator[tuple[str, object]]:
    for key, value in vars(part).items():
        if key != "training" and not key.startswith("_") and _is_plain(value):
            yield key, value


def _code(part: nn.Module) -> Iterator[tuple[str, object]]:
    """Hooks, and a ``forward`` of the part's own: what comes of them only a run tells."""
    yield "forward", vars(part).get("forward")
    yield "hooks", (*part._forward_pre_hooks.values(), *part._forward_hooks.values())


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(isinstance(each, _PLAIN) for each in value))


def like(old: Tensor, value: Tensor) -> Tensor:
    """A copy of a value, as a parameter where ``old`` is one."""
    copied = value.clone()
    return nn.Parameter(copied, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else copied


def own_tensors(program: Program, shared: Mapping[str, Tensor]) -> None:
    """Give a program copies of those of its parameters and buffers that are another program's as well."""
    names = program.interface.parameters | program.interface.buffers
    for name, value in program.state.items():
        if name in names and value is shared.get(name) and not value.is_meta:
            program.state[name] = like(value, value.detach())
