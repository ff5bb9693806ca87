"""Other ways that a model's code can go than the one that was traced: padding, another attention, a cache.

They are those of transformers, and of what is built like its models: an implementation of attention can be chosen
(``set_attn_implementation``), and ``forward`` takes ``attention_mask``, ``past_key_values`` and ``use_cache``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from atograph.passes.ir.interface import Example
from atograph.passes.ir.outputs import OutputPath
from atograph.repair.checks import Checks
from atograph.repair.observe.problem import Problem, failed
from atograph.values.difference import alike, tolerance
from atograph.values.eval_mode import eval_mode, forward_within, same_buffers
from atograph.values.structures import tensors_of

_ATTENTIONS = ("eager", "sdpa")
_TOKENS, _MASK = "input_ids", "attention_mask"
_OF_THE_CACHE = {"past_key_values", "use_cache"}
_CHOSEN = "_attn_implementation_internal"

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Path:
    """One way that a model's code can go.

    Attributes:
        name: in words; empty for the way that the example goes.
        attention: the implementation of attention, where it is another one.
        call: makes the call with the example's arguments, by name, or several of them, and gives a list of what they
            return; None for the plain one.
    """

    name: str = ""
    attention: str | None = None
    call: Callable[[Callable[..., object], Arguments], list[object]] | None = None

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Within it, the model goes this way when it is called with the example."""
        call, signature = self.call, inspect.signature(model.forward)
        with _attention(model, self.attention):
            if call is None:
                yield
                return
            with forward_within(model, lambda forward, args, kwargs: call(forward, _named(signature, args, kwargs))):
                yield


def paths_of(model: nn.Module, example: Example) -> list[Path]:
    """The ways that a model may go with an example, apart from the plain one."""
    signature = inspect.signature(model.forward)
    try:
        arguments = _named(signature, *example)
    except TypeError:
        return []
    takes, tokens = set(signature.parameters), arguments.get(_TOKENS)
    others = [each for each in _ATTENTIONS if _chosen(model) not in (None, each) and _can_choose(model, each)]
    if not isinstance(tokens, torch.Tensor) or tokens.dim() != 2 or tokens.shape[1] < 4 or _MASK not in takes:
        return [Path(f"with {each} attention", each) for each in others]
    masked, other_masked = ("with padding", _padded), ("without a mask", _unpadded)
    name, call = masked if arguments.get(_MASK) is None else other_masked
    paths = [Path(name, None, call), *(Path(f"with {each} attention and padding", each, _padded) for each in others)]
    tensors = {name for name, value in arguments.items() if isinstance(value, torch.Tensor)}
    if takes >= _OF_THE_CACHE and tensors <= {_TOKENS, _MASK} and "decoder_input_ids" not in takes:
        paths += [Path("with a cache", None, partial(_decoded, padded=False))]
        for each in (None, *others):
            attention = f" with {each} attention" if each else ""
            paths.append(Path(f"with a cache and padding{attention}", each, partial(_decoded, padded=True)))
    return paths


def unlike(
    paths: list[Path],
    module: nn.Module,
    masked: nn.Module,
    checks: Checks,
) -> dict[Path, Problem]:
    """The ways on which a slim module does not compute what the masked dense one does; those that it can go.

    Outputs that are left out are not compared.
    """
    example, whole, left_out = checks.example, checks.whole, checks.left_out
    problems = {}
    for path in paths:
        try:
            expected = checks.cut(_outputs(path, masked, whole, left_out))
        except Exception:  # the dense model does not go this way either
            continue
        try:
            results = _outputs(path, module, example, left_out)
        except Exception as error:
            problems[path] = Problem(f"{path.name}, {failed(error)}")
            continue
        close = tolerance([*expected, *masked.parameters()], finest=torch.float32)
        if alike(expected, results, close):
            continue
        if alike(expected, checks.cut(_outputs(path, masked, whole, left_out)), 0.0):
            problems[path] = Problem(f"{path.name}, it computes something else than the masked model")
    return problems


def _outputs(path: Path, model: nn.Module, example: Example, left_out: Collection[OutputPath]) -> list[torch.Tensor]:
    args, kwargs = example
    with eval_mode(model), same_buffers(model), torch.no_grad(), path.on(model):
        returned = model(*args, **kwargs)
        each = [returned] if path.call is None else returned
        return [tensor for one in each for tensor in tensors_of(one, left_out)]


def _named(signature: inspect.Signature, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Arguments:
    """Arguments by name, those of ``**kwargs`` among them."""
    bound = signature.bind(*args, **kwargs)
    named = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update(named.pop(name, {}))
        elif parameter.kind is parameter.VAR_POSITIONAL and named.pop(name, ()):
            raise TypeError("arguments without a name")
    return named


def _mask_of(tokens: torch.Tensor) -> torch.Tensor:
    """A mask in which some positions are padding, and none sees nothing else."""
    position = torch.arange(tokens.shape[1], device=tokens.device)
    return ((position < 1) | (position > tokens.shape[1] // 3)).long().expand(tokens.shape)


def _padded(forward: Callable[..., object], arguments: Arguments) -> list[object]:
    return [forward(**{**arguments, _MASK: _mask_of(arguments[_TOKENS])})]


def _unpadded(forward: Callable[..., object], arguments: Arguments) -> list[object]:
    return [forward(**{name: value for name, value in arguments.items() if name != _MASK})]


def _decoded(forward: Callable[..., Any], arguments: Arguments, *, padded: bool) -> list[object]:
    """All tokens but the last one, then that one with what was kept of the others."""
    tokens, given = arguments[_TOKENS], {**arguments, "use_cache": True}
    mask = _mask_of(tokens) if padded else None
    before = None if mask is None else mask[:, :-1]
    first = forward(**{**given, _TOKENS: tokens[:, :-1], _MASK: before})
    cache = first.past_key_values
    last = forward(**{**given, _TOKENS: tokens[:, -1:], _MASK: mask, "past_key_values": cache})
    return [{name: value for name, value in each.items() if isinstance(value, torch.Tensor)} for each in (first, last)]


def _chosen(model: nn.Module) -> str | None:
    """The implementation of attention that a model has, if another one can be chosen."""
    chosen = getattr(getattr(model, "config", None), _CHOSEN, None)
    return chosen if isinstance(chosen, str) and callable(getattr(model, "set_attn_implementation", None)) else None


def _can_choose(model: nn.Module, name: str) -> bool:
    """Whether a model has an implementation of attention: not every one of transformers has each."""
    try:
        with _attention(model, name):
            return True
    except Exception:  # whatever its code says
        return False


@contextmanager
def _attention(model: nn.Module, name: str | None) -> Iterator[None]:
    if name is None:
        yield
        return
    before = [(config, vars(config)[_CHOSEN]) for config in _configurations(model)]
    try:
        model.set_attn_implementation(name)  # type: ignore[operator]
        if _chosen(model) != name:
            raise ValueError(f"there is no {name} attention here")
        yield
    finally:
        for config, value in before:
            vars(config)[_CHOSEN] = value


def _configurations(model: nn.Module) -> list[object]:
    """The configurations of a model's modules, and those within them."""
    seen: dict[int, object] = {}
    waiting = [value for module in model.modules() for value in vars(module).values()]
    while waiting:
        value = waiting.pop()
        if _CHOSEN in getattr(value, "__dict__", {}) and id(value) not in seen and not isinstance(value, nn.Module):
            seen[id(value)] = value
            waiting += vars(value).values()
    return list(seen.values())
