"""Initial weights from a file: all of them or none, and plain tensors only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from atograph.files.checkpoint import check_header
from atograph.files.mismatch import misfits
from atograph.files.pickled import NotPlain, load_plain
from atograph.files.reading import Unreadable, refusal
from atograph.passes.errors import UserError

_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_NO_WEIGHTS = "not a file that torch.load can read"

_WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")
"""Of `torch.compile`, of data-parallel training, and of what is in it."""

_NESTS = ("state_dict", "model_state_dict", "model")
_SHOWN = 3


def load_init(model: nn.Module, path: Path) -> None:
    """Load the parameters and buffers of ``model`` from a ``.safetensors`` or ``.pt`` file.

    A ``.pt`` file holds a state dict, or a dict with one under ``state_dict``, ``model_state_dict`` or
    ``model``. Where all names begin with ``module.`` or ``_orig_mod.``, they lose that. Tied parameters may stand in
    the file under one of their names only.

    Raises:
        UserError: the file cannot be read, holds more than plain tensors, or does not fit; nothing is loaded.
    """
    state = read_tensors(path)
    named = model.state_dict(keep_vars=True)  # the parameters themselves: tied ones are one object
    own = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    state = _without_wrappers(state, own)
    given_ids = {id(own[name]) for name in state if name in own}
    missing = [name for name, tensor in own.items() if name not in state and id(tensor) not in given_ids]
    unexpected = [name for name in state if name not in own]
    found = misfits(state, own, missing=missing, unexpected=unexpected, sides=("file", "model"), types=False)
    if found:
        raise UserError(
            f"the weights do not fit the model: {'; '.join(found)}.",
            where=str(path),
            hint="Nothing was loaded.",
        )
    model.load_state_dict(state, strict=False)  # strict in all but the second names of tied parameters


def _without_wrappers(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names without what a wrapper puts before all of them, where that makes them the model's own."""
    names = list(state)
    for wrapper in _WRAPPERS:
        if names and all(name.startswith(wrapper) for name in names):
            names = [name.removeprefix(wrapper) for name in names]
    known = any(name in own for name in names) and not any(name in own for name in state)
    return dict(zip(names, state.values(), strict=True)) if known else state


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors in a file, on the CPU.

    Raises:
        UserError: see `load_init`.
    """
    where = str(path)
    if not path.is_file():
        raise UserError("no such file.", where=where)
    if path.suffix == ".safetensors":
        check_header(path)  # safetensors itself lets a name stand twice
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"not a safetensors file: {error}.", where=where) from error
    if path.suffix not in _PICKLED:
        raise UserError(f"weights come as .safetensors or {', '.join(_PICKLED)}, not as `{path.suffix}`.", where=where)
    try:
        content = load_plain(path)
    except NotPlain as error:
        raise UserError(
            f"the file is {error}.", where=where, hint="Save the weights alone: torch.save(model.state_dict(), FILE)."
        ) from error
    except (OSError, Unreadable) as error:
        raise refusal(error, path, _NO_WEIGHTS) from error
    return _plain(content, where)


def _plain(content: object, where: str) -> dict[str, Tensor]:
    for nest in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
    if not isinstance(content, Mapping):
        raise UserError(f"the file holds a {type(content).__name__}, not a state dict.", where=where)
    others = [f"{name} ({type(value).__name__})" for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise UserError(f"the state dict holds other things than tensors: {', '.join(others[:_SHOWN])}.", where=where)
    state = {str(name): value for name, value in content.items()}
    if len(state) < len(content):
        raise UserError("two tensors in the state dict have the same name, as a text and as a number.", where=where)
    return state
