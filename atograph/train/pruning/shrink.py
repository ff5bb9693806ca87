"""The rest of a training in the physically smaller module: the same weights, for less work.

Once every masked group is exactly zero it stays zero and touches nothing, so a step of the slim module changes what
stays as a step of the dense one would, to rounding: dropout aside, which draws other numbers for other shapes.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from atograph.passes.torch_private import tree_leaves, tree_map
from atograph.train.interfaces import P_contra
from atograph.train.saved.seeding import own_randomness
from atograph.train.saved.weights import set_weights, weights_of
from atograph.values.attributes import Attributes, Mark, Value, changed
from atograph.values.eval_mode import copy_of
from atograph.values.user_code import line_of_user, one_line

Cuts: TypeAlias = Sequence[Tensor | None]


class Small(Protocol):
    """A slim module (`atograph.slimming.index_map.Small`)."""

    @property
    def module(self) -> nn.Module:
        """It computes what the dense one does, whose masked groups are zero."""

    @property
    def kept(self) -> Mapping[str, Cuts]:
        """Dense parameter or buffer → per dimension the indices that stay, None for all."""


class CannotShrink(Exception):
    """The training goes on in the dense module; the text says why."""


class Shrink(Protocol[P_contra]):
    """Makes the model that is trained slim."""

    def __call__(self, plan: P_contra, /) -> Small:
        """The slim module.

        Raises:
            CannotShrink: there is none, and why.
        """


class Shrunk:
    """The slim module in the dense one's place, with the optimiser's state cut along.

    Args:
        dense: the model; what is masked is exactly zero.
        small: what was made of it.
        optimizers: of the dense model's parameters; from now on of the slim module's.
        loss: what is trained, tried once on copies of both modules in the mode in which they are; None: it was before.

    Raises:
        CannotShrink: nothing has changed then.
    """

    def __init__(
        self,
        dense: nn.Module,
        small: Small,
        optimizers: Sequence[torch.optim.Optimizer],
        loss: Callable[[nn.Module], Tensor] | None = None,
    ) -> None:
        _check_hooks(dense)
        device = next((parameter.device for parameter in dense.parameters()), torch.device("cpu"))
        self.dense, self.module = dense, small.module.to(device)
        self._cuts = {name: _on(cuts, device) for name, cuts in small.kept.items()}
        if loss is not None:
            _try(dense, self.module, loss)
        slim = dict(self.module.named_parameters())
        pairs: dict[Tensor, tuple[Tensor, Cuts]] = {
            old: (slim[name], self._cuts.get(name, ())) for name, old in dense.named_parameters() if name in slim
        }
        states = [_slim_state(optimizer, pairs) for optimizer in optimizers]
        for optimizer, state in zip(optimizers, states, strict=True):
            _move(optimizer, pairs, state)
        dense.zero_grad(set_to_none=True)  # no optimiser does so any more
        self._optimizers, self._pairs = optimizers, {old: new for old, (new, _cuts) in pairs.items()}
        self._cuts_of = {new: (old, cuts) for old, (new, cuts) in pairs.items()}
        self._trained = {old: old.requires_grad for old in self._pairs}
        self._versions = _versions(dense)
        self._dense_attributes, self._slim_attributes = Attributes(dense), Attributes(self.module)
        self._marks = self._dense_attributes.marks(), self._slim_attributes.marks()
        mine, its = self._dense_attributes.values(), self._slim_attributes.values()
        self._alike = {name for name in mine.keys() & its.keys() if _alike(mine[name], its[name])}

    def follow(self) -> None:
        """Take over what a loop has done to the dense module since the swap.

        What was written into its tensors (an earlier state, an average), and numbers and plain tensors in attributes,
        are the slim module's as well. Parameters that require gradients from now on, or no longer, do so there;
        dense ones that an optimiser was given become the slim ones.
        """
        versions = _versions(self.dense)
        written = [name for name, count in versions.items() if count > self._versions.get(name, count)]
        if written:
            dense, self._versions = weights_of(self.dense), versions
            slim = {name: dense[name][where(dense[name], self._cuts.get(name, ()))] for name in written}
            set_weights(self.module, slim)
        for old, new in self._pairs.items():
            if old.requires_grad != self._trained[old]:
                self._trained[old] = old.requires_grad
                new.requires_grad_(old.requires_grad)
        for group in (group for optimizer in self._optimizers for group in optimizer.param_groups):
            if any(parameter in self._pairs for parameter in group["params"]):
                group["params"] = [self._pairs.get(parameter, parameter) for parameter in group["params"]]
        self._carry(self._dense_attributes, self._slim_attributes, self._marks[0])

    def _carry(self, source: Attributes, target: Attributes, marks: Mapping[str, Mark]) -> None:
        """Give one module the attributes that have changed in the other; widths that were repaired are no such."""
        values = changed(marks, source.values())
        if values:
            target.put({name: value for name, value in values.items() if name in self._alike})
            self._marks = self._dense_attributes.marks(), self._slim_attributes.marks()

    @torch.no_grad()
    def write_back(self) -> None:
        """Give the dense model the weights, statistics and attributes of what stayed."""
        self.follow()
        self._carry(self._slim_attributes, self._dense_attributes, self._marks[1])
        dense, slim = weights_of(self.dense), weights_of(self.module)
        for name, cuts in self._cuts.items():
            if name in slim and slim[name].shape != dense[name].shape:
                whole = dense[name].clone()
                whole[where(whole, cuts)] = slim[name]
                slim[name] = whole
        set_weights(self.dense, slim)
        self._versions = _versions(self.dense)

    def undo(self) -> None:
        """Give the dense model the weights, and the optimisers its parameters again: their state is zero where units
        are gone."""
        self.write_back()
        for optimizer in self._optimizers:
            state = {}
            for new, entries in optimizer.state.items():
                old, cuts = self._cuts_of.get(new, (new, ()))
                state[old] = {
                    key: _whole(value, old, cuts) if isinstance(value, Tensor) and value.shape == new.shape else value
                    for key, value in entries.items()
                }
            for group in optimizer.param_groups:
                group["params"] = [self._cuts_of[new][0] if new in self._cuts_of else new for new in group["params"]]
            optimizer.state.clear()
            optimizer.state.update(state)

    def gradients(self) -> dict[str, Tensor]:
        """Dense parameter → gradient of what stays of it, zero elsewhere; the dense model gets the weights of now."""
        self.write_back()
        names = {id(old): name for name, old in self.dense.named_parameters()}
        return {
            names[id(old)]: _whole(new.grad, old, cuts)
            for new, (old, cuts) in self._cuts_of.items()
            if new.grad is not None
        }


def _whole(value: Tensor, like: Tensor, cuts: Cuts) -> Tensor:
    """What a slim parameter has, as the dense one has it: zero where units are gone."""
    if value.shape == like.shape:
        return value
    whole = value.new_zeros(like.shape)
    whole[where(whole, cuts)] = value
    return whole


def _versions(model: nn.Module) -> dict[str, int]:
    """How often each parameter and buffer was written; to move them elsewhere is no write."""
    return {name: -1 if value.is_inference() else value._version for name, value in weights_of(model).items()}


def _on(cuts: Cuts, device: torch.device) -> Cuts:
    return [None if cut is None else cut.to(device) for cut in cuts]


def where(tensor: Tensor, cuts: Cuts) -> tuple[Tensor | EllipsisType, ...]:
    """The index that takes what stays of a tensor: one open mesh over the dimensions that are cut."""
    cut = [dim for dim, kept in enumerate(cuts) if kept is not None]
    if not cut:
        return (...,)
    whole = [torch.arange(size, device=tensor.device) for size in tensor.shape]
    found = [whole[dim] if kept is None else kept for dim, kept in enumerate(cuts)]
    return tuple(index.reshape([-1 if d == dim else 1 for d in range(tensor.dim())]) for dim, index in enumerate(found))


def _try(dense: nn.Module, slim: nn.Module, loss: Callable[[nn.Module], Tensor]) -> None:
    """Compute the loss with copies of both: code that runs in training only may hold an old width."""
    values, drawn = [], False
    devices = sorted({p.device.index or 0 for p in dense.parameters() if p.device.type == "cuda"})
    for module in (dense, slim):
        tried = copy_of(module)
        with torch.random.fork_rng(devices=devices), torch.set_grad_enabled(module is slim):
            before = torch.get_rng_state()
            try:
                value = loss(tried)
                depends = module is dense or _depends(value, tried)
            except Exception as error:
                at = line_of_user(error)
                which = "it fails" if module is slim else "the loss fails, with a copy of the dense module too"
                text = f"{type(error).__name__}: {one_line(error)}" + (f" (raised at {at})" if at else "")
                raise CannotShrink(f"in training, {which}: {text}") from error
            drawn |= bool(devices) or not torch.equal(before, torch.get_rng_state())
            values.append(float(value.detach()))
            if module is slim and not depends:
                raise CannotShrink("the loss is not that of the model that it is given")
    if not drawn and abs(values[0] - values[1]) > 1e-3 * max(abs(values[0]), 1e-3):
        raise CannotShrink(f"in training, its loss is {values[1]:.4g} where it should be {values[0]:.4g}")


def _depends(value: Tensor, module: nn.Module) -> bool:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not value.requires_grad or not trained:
        return False
    value.backward()  # type: ignore[no-untyped-call]  # not autograd.grad: checkpoints of activations may refuse that
    return any(parameter.grad is not None for parameter in trained)


def _alike(dense: Value, slim: Value) -> bool:
    """Whether an attribute is the same in both modules: no width, and no table that was cut."""
    if isinstance(dense, Tensor) and isinstance(slim, Tensor):
        return dense.shape == slim.shape
    return type(dense) is type(slim) and not isinstance(dense, Tensor) and bool(dense == slim)


def _check_hooks(dense: nn.Module) -> None:
    """Refuse parameters with hooks on their gradients: no slim parameter has them, and some keep rows as they are.

    Raises:
        CannotShrink: naming one.
    """
    for name, parameter in dense.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise CannotShrink(f"{name} has a hook on its gradient, and a slim parameter would have none")


def _check_attributes(optimizer: torch.optim.Optimizer) -> None:
    """Refuse optimisers that remember tensors elsewhere than in their state, which is all that can be cut along.

    Raises:
        CannotShrink: naming the attribute.
    """
    for name, value in vars(optimizer).items():
        if name in ("state", "param_groups", "defaults") or not isinstance(value, (list, tuple, dict, Tensor)):
            continue
        by_parameter = isinstance(value, dict) and any(isinstance(key, Tensor) for key in value)
        if by_parameter or any(isinstance(leaf, Tensor) and leaf.numel() > 1 for leaf in tree_leaves(value)):
            raise CannotShrink(f"{type(optimizer).__name__} keeps tensors in an attribute of its own ('{name}')")


def _slim_state(
    optimizer: torch.optim.Optimizer, pairs: Mapping[Tensor, tuple[Tensor, Cuts]]
) -> dict[Tensor, dict[str, object]]:
    """What an optimiser remembers of what stays of the dense parameters, by the slim ones.

    Raises:
        CannotShrink: it would train the slim parameters otherwise.
    """
    if any(isinstance(value, torch.optim.Optimizer) for value in vars(optimizer).values()):
        raise CannotShrink(f"{type(optimizer).__name__} steps by another optimiser, which cannot be tried alone")
    _check_attributes(optimizer)
    state: dict[Tensor, dict[str, object]] = {}
    for old, entries in optimizer.state.items():
        new, cuts = pairs.get(old, (old, ()))
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.shape != old.shape and value.numel() > 1 and new.shape != old.shape:
                raise CannotShrink(f"{type(optimizer).__name__} keeps a '{key}' of a shape of its own")
        state[new] = {
            key: value[where(value, cuts)].clone() if isinstance(value, Tensor) and value.shape == old.shape else value
            for key, value in entries.items()
        }
    for group in optimizer.param_groups:
        _check_elementwise(optimizer, group, pairs, state)
    return state


def _move(
    optimizer: torch.optim.Optimizer,
    pairs: Mapping[Tensor, tuple[Tensor, Cuts]],
    state: Mapping[Tensor, dict[str, object]],
) -> None:
    """Let an optimiser train the slim parameters, with this state."""
    for group in optimizer.param_groups:
        group["params"] = [pairs[old][0] if old in pairs else old for old in group["params"]]
    optimizer.state.clear()
    optimizer.state.update(state)


def _check_elementwise(
    optimizer: torch.optim.Optimizer,
    group: Mapping[str, Any],
    pairs: Mapping[Tensor, tuple[Tensor, Cuts]],
    state: Mapping[Tensor, dict[str, object]],
) -> None:
    """Step with copies of a group's parameters, dense and slim, by the same random gradients.

    Raises:
        CannotShrink: the slim ones step otherwise: the optimiser looks at a parameter as a whole (Muon, LARS).
    """
    olds = [old for old in group["params"] if old.requires_grad]
    news = [pairs.get(old, (old, ())) for old in olds]
    if all(new.shape == old.shape for old, (new, _cuts) in zip(olds, news, strict=True)):
        return
    random = torch.Generator().manual_seed(0)
    gradients = [torch.randn(old.shape, generator=random, dtype=torch.float32).to(old) for old in olds]
    wheres = [where(old, cuts) for old, (_new, cuts) in zip(olds, news, strict=True)]
    try:
        with own_randomness():
            dense = _stepped(optimizer, group, olds, gradients, optimizer.state)
            cut = [gradient[index] for gradient, index in zip(gradients, wheres, strict=True)]
            slim = _stepped(optimizer, group, [new for new, _cuts in news], cut, state)
    except Exception as error:
        raise CannotShrink(f"{type(optimizer).__name__} cannot be tried: {type(error).__name__}: {error}") from error
    for old, index, one, other in zip(olds, wheres, dense, slim, strict=True):
        before, expected = old.detach()[index], one[index]
        rounding = 8 * torch.finfo(old.dtype).eps * expected.abs().amax() if expected.numel() else 0.0
        allowed = 1e-3 * (expected - before).abs().amax() + rounding if expected.numel() else 0.0
        if expected.numel() and bool((expected - other).abs().amax() > allowed):
            raise CannotShrink(
                f"{type(optimizer).__name__} looks at a parameter as a whole, so a slim one would be trained otherwise"
            )


def _stepped(
    optimizer: torch.optim.Optimizer,
    group: Mapping[str, object],
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: Mapping[Tensor, dict[str, object]],
) -> list[Tensor]:
    """What one step of an optimiser makes of copies of some parameters; nothing else notices."""
    copies = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    trial = object.__new__(type(optimizer))
    trial.__dict__ |= optimizer.__dict__
    trial.__dict__ |= {"_optimizer_step_pre_hooks": OrderedDict(), "_optimizer_step_post_hooks": OrderedDict()}
    trial.param_groups = [{**group, "params": copies}]
    trial.state = defaultdict(dict)
    for copied, gradient, parameter in zip(copies, gradients, parameters, strict=True):
        copied.grad = gradient.clone()
        if parameter in state:
            trial.state[copied] = tree_map(_cloned, state[parameter])
    type(optimizer).step(trial)  # not trial.step: a scheduler puts one in its place that is bound to the optimiser
    return [copied.detach() for copied in copies]


def _cloned(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value
