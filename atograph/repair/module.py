"""A module with its tensors cut, the widths that torch's own layers remember set, and its code repaired."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from atograph.capture import batch_of, with_batch
from atograph.comparing import relative_difference
from atograph.copying import copy_of, eval_mode
from atograph.passes.program import Program
from atograph.repair.comparisons import Comparisons
from atograph.repair.config import fit_config
from atograph.repair.corrections import correct_calls
from atograph.repair.needs import needs_of
from atograph.repair.remembered import Slot
from atograph.repair.samples import samples_of
from atograph.repair.search import Example, Problem, attributes, calls_of, corrections
from atograph.repair.training import same_in_training
from atograph.structures import tensors_of


class NotRepaired(Exception):
    """The module's own code keeps a width that cannot be reached; the text says where.

    Attributes:
        problems: one by one.
    """

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(dict.fromkeys(problem.text for problem in problems)))
        self.problems = problems


@dataclass(frozen=True)
class Repaired:
    """A slim module.

    Attributes:
        module: of the user's own class, in the mode that the dense one is in.
        attributes: in words, the attributes of the user's modules that were set to another width.
        calls: in words, the calls to torch that are made in another way, because no attribute holds what they need.
    """

    module: nn.Module
    attributes: tuple[str, ...]
    calls: tuple[str, ...]


def slim_module(model: nn.Module, dense: Program, slimmed: Program, masked: Callable[[], nn.Module]) -> Repaired:
    """A slim copy of the user's module, checked against the slim program, call by call.

    Args:
        model: the dense module; left as it is.
        dense: the program that was captured from it.
        slimmed: the slim program.
        masked: makes the dense module with what the plan drops at zero.

    Raises:
        NotRepaired: the module does not run with its slim parameters, or does not agree with the program.
    """
    if any(tensor.is_meta for tensor in slimmed.state.values()):
        raise NotRepaired(Problem("the weights are on the meta device, so the module cannot be checked"))
    example = slimmed.interface.example
    if example is None:
        raise NotRepaired(Problem("there are no example inputs to check the module with"))
    replaced = {name: value for name, value in _named_state(model) if name in slimmed.state}
    module = copy_of(model, shared=replaced.values())
    comparisons, words = Comparisons(), dict[str, str]()
    calls, lost = calls_of(module, needs_of(dense, slimmed, batch_of(example) or 1), example, comparisons)
    _replace_state(module, slimmed)
    words |= _set(attributes([wish for each in calls.values() for call in each for wish in call.wishes()]))
    for part in module.modules():
        _correct_widths(part)
    expected, samples = samples_of(slimmed, *example)
    close = 1e-9 if all(value.dtype == torch.float64 for value in tensors_of(expected)) else 1e-4
    found = corrections(module, calls, example, samples, 10 * close, comparisons)
    if more := {slot: value for slot, value in attributes(comparisons.wishes).items() if str(slot) not in words}:
        words |= _set(more)
        found = corrections(module, calls, example, samples, 10 * close, comparisons)
    for name, each in found.calls.items():
        correct_calls(module.get_submodule(name), each)
    wrong = _difference(module, example, tensors_of(expected), close)
    batch = batch_of(example)
    if not wrong and batch is not None and not slimmed.interface.fixed:
        other = with_batch(example, batch + 1)
        wrong = _difference(module, other, tensors_of(samples_of(slimmed, *other)[0]), close)
    fails = ""
    try:
        if not wrong and not same_in_training(module, masked(), *example):
            wrong = [
                Problem("in training mode its code goes another way, and computes something else than the masked model")
            ]
    except Exception as error:
        fails = f"in training mode it fails: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if wrong or found.wrong:
        raise NotRepaired(*found.doubts, *found.wrong, *lost, *wrong)
    set_ = fit_config(model, module, lambda fresh: not _difference(fresh, example, tensors_of(expected), close))
    lines = {(name, place): call.need.line for (name, place), each in calls.items() for call in each}
    corrected = tuple(
        f"{f'{name}: ' if name else ''}{place[-1]}{lines[name, place] and f' ({lines[name, place]})'} {correction}"
        for name, each in found.calls.items()
        for place, times in each.items()
        for correction in dict.fromkeys(filter(None, times))
    )
    return Repaired(module, (*words.values(), *set_), (*corrected, *filter(None, [fails])))


def _set(changed: Mapping[Slot, int]) -> dict[str, str]:
    """Set attributes; each with what was done in words."""
    words = {str(slot): f"{slot}: {slot.read()} → {value}" for slot, value in changed.items()}
    for slot, value in changed.items():
        slot.write(value)
    return words


def _replace_state(module: nn.Module, slimmed: Program) -> None:
    """Put the slim tensors in, under every name that a tied tensor has."""
    names = {name: id(value) for name, value in _named_state(module)}
    replacement = {names[name]: value.detach().clone() for name, value in slimmed.state.items() if name in names}
    for name, identity in names.items():
        if identity not in replacement:
            continue
        owner_name, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        old, value = getattr(owner, leaf), replacement[identity]
        if isinstance(old, nn.Parameter):
            if not isinstance(value, nn.Parameter):
                value = nn.Parameter(value, requires_grad=old.requires_grad)
                replacement[identity] = value
            setattr(owner, leaf, value)  # a recurrent layer keeps its weights in a list as well, and watches for this
        elif leaf in owner._buffers:
            owner._buffers[leaf] = value
        else:
            setattr(owner, leaf, value)


def _named_state(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def _correct_widths(part: nn.Module) -> None:
    """Set the integers in which torch's own layers repeat their parameters' sizes."""
    weight = getattr(part, "weight", None)
    shape = tuple(weight.shape) if isinstance(weight, torch.Tensor) else ()
    match part:
        case _ConvNd() if shape:
            first, second = (1, 0) if part.transposed else (0, 1)
            part.out_channels = shape[first] * (part.groups if part.transposed else 1)
            part.in_channels = shape[second] * (1 if part.transposed else part.groups)
        case nn.RNNBase():
            rows, part.input_size = part.get_parameter("weight_ih_l0").shape
            part.hidden_size = rows // _GATES[part.mode]
            part.proj_size = part.get_parameter("weight_hr_l0").shape[0] if part.proj_size else 0
        case nn.Linear() if shape:
            part.out_features, part.in_features = shape
        case _NormBase():
            stored = part.running_mean if part.running_mean is not None else weight
            if isinstance(stored, torch.Tensor):
                part.num_features = stored.shape[0]
        case nn.GroupNorm():
            part.num_channels = shape[0] if shape else part.num_channels
        case nn.LayerNorm() if shape:
            part.normalized_shape = shape
        case nn.Embedding() if shape:
            part.num_embeddings, part.embedding_dim = shape
        case nn.PReLU() if shape:
            part.num_parameters = shape[0]


def _difference(module: nn.Module, example: Example, expected: list[torch.Tensor], close: float) -> list[Problem]:
    """Whether the module gives something else than the program, or nothing at all."""
    args, kwargs = example
    with eval_mode(module), torch.no_grad():
        try:
            found = tensors_of(module(*args, **kwargs))
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            return [Problem(f"its forward keeps an old width: {type(error).__name__}: {first}")]
    for a, b in zip(expected, found, strict=False):
        if a.shape != b.shape or relative_difference(a, b) > close:
            return [Problem("the module does not compute what the program does")]
    return []
