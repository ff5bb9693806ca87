"""Models of other packages by name: ``timm:resnet50``, ``torchvision:resnet18``, ``transformers:FOLDER``.

They are made with random weights and never downloaded: of transformers a configuration is enough. Example inputs are of
the size that the model is made for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from atograph.passes.errors import UserError
from atograph.spec.lookup import Target
from atograph.values.user_code import one_line

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig, PreTrainedModel

EXAMPLES = 2
"""Samples of example inputs."""

_TOKENS = 16
"""Length of example sequences."""


def library_model(target: Target, *, offline: bool = False) -> tuple[ModuleType, str]:
    """What ``timm:resnet50`` names, as a module that a SPEC could be.

    Args:
        target: a model of a library.
        offline: never ask the hub for a configuration.

    Returns:
        A module with the functions ``model`` and ``example_inputs``, and a short name.

    Raises:
        UserError: the package is not installed, or has no such model.
    """
    text = target.text
    library, _colon, name = text.partition(":")
    if target.path is not None:
        name = str(target.path)
    try:
        found = _LIBRARIES[library](name, text, offline)
    except UserError:
        raise
    except Exception as error:  # torchvision of another build than torch raises a RuntimeError
        hint = f"pip install {library}" if isinstance(error, ImportError) else f"Does {library} fit this torch?"
        raise UserError(
            f"the package {library} cannot be used: {type(error).__name__}: {one_line(error)}.",
            where=text,
            hint=hint,
        ) from error
    return found, name.rstrip("/").rpartition("/")[2].removesuffix(".json")


def _module(text: str, model: Callable[[], object], example_inputs: Callable[[], object]) -> ModuleType:
    module = ModuleType(text)
    vars(module).update(model=model, example_inputs=example_inputs)
    return module


def _timm(name: str, text: str, _offline: bool) -> ModuleType:
    import timm

    known = timm.list_models()
    tagged = timm.list_models(pretrained=True)
    if name not in known and name not in tagged:
        raise _unknown(name, [*known, *tagged], text)
    size = timm.get_pretrained_cfg(name)
    shape = (3, 224, 224) if size is None else size.input_size
    return _module(text, lambda: timm.create_model(name, pretrained=False), lambda: _noise(*shape))


def _torchvision(name: str, text: str, _offline: bool) -> ModuleType:
    from torchvision import models

    known = models.list_models()
    if name not in known:
        raise _unknown(name, known, text)
    weights = models.get_model_weights(name)
    said = next(iter(weights)).transforms() if len(weights) else None
    side = getattr(said, "crop_size", [224])
    builder = models.get_model_builder(name)
    shape = (3, 16, 112, 112) if "video" in builder.__module__ else (3, *(side * 2)[:2])
    options = {option: None for option in ("weights", "weights_backbone") if option in signature(builder).parameters}
    return _module(text, lambda: builder(**options), lambda: _noise(*shape))


def _transformers(name: str, text: str, offline: bool) -> ModuleType:
    import transformers

    if name.startswith(("/", ".", "~")) and not Path(name).expanduser().exists():  # no name of the hub
        raise UserError("there is no such folder or file.", where=text)
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=offline)
    except (OSError, ValueError, KeyError) as error:
        why = " ".join(str(error).split()).partition(". ")[0]
        raise UserError(
            f"transformers cannot read a configuration there: {why.rstrip('.')}.", where=text,
            hint="Name a folder with a config.json, such a file, or (yourself, not by a report) a model of the hub.",
        ) from error  # fmt: skip
    config.use_cache = False  # what is kept for a next token is no part of the network
    kind = _named_class(getattr(config, "architectures", None))

    def model() -> nn.Module:
        make: Callable[[PreTrainedConfig], nn.Module] = transformers.AutoModel.from_config if kind is None else kind
        return make(config)

    main = "input_ids" if kind is None else kind.main_input_name
    inputs = _INPUTS.get(main)
    if inputs is None:
        raise UserError(
            f"atograph does not know what to give this model as {main}.", where=text,
            hint="Write a file with model() and example_inputs(), and name that.",
        )  # fmt: skip
    made = _module(text, model, lambda: inputs(config))
    made.dynamic = lambda: {  # type: ignore[attr-defined]
        name: {1: _LENGTHS.get(name, "sequence")} for name, value in inputs(config).items() if value.dim() == 2
    }
    return made


def _named_class(names: object) -> type[PreTrainedModel] | None:
    """The model that a configuration names; None where it names none, or something else of transformers."""
    import transformers

    first = names[0] if isinstance(names, list) and names else None
    found = getattr(transformers, first, None) if isinstance(first, str) else None
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None


def _noise(*shape: int) -> Tensor:
    import torch

    return torch.randn(EXAMPLES, *shape, generator=torch.Generator().manual_seed(0))


def _tokens(config: PreTrainedConfig) -> dict[str, Tensor]:
    import torch

    words = config.get_text_config().vocab_size
    ids = torch.randint(words, (EXAMPLES, _TOKENS), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids} | ({"decoder_input_ids": ids} if config.is_encoder_decoder else {})


def _image(config: PreTrainedConfig) -> dict[str, Tensor]:
    side = getattr(config, "image_size", 224)
    sides = (side, side) if isinstance(side, int) else tuple(side)
    return {"pixel_values": _noise(getattr(config, "num_channels", 3), *sides)}


_LENGTHS = {"decoder_input_ids": "target"}
"""What the length of an input is called where it is not that of a sequence."""

_INPUTS: Mapping[str, Callable[[PreTrainedConfig], dict[str, Tensor]]] = {
    "input_ids": _tokens,
    "pixel_values": _image,
    "input_values": lambda _config: {"input_values": _noise(16_000)},
}
"""What transformers calls a model's main input → example inputs of a configuration."""

_LIBRARIES: Mapping[str, Callable[[str, str, bool], ModuleType]] = {
    "timm": _timm, "torchvision": _torchvision, "transformers": _transformers,
}  # fmt: skip


def _unknown(name: str, known: list[str], text: str) -> UserError:
    near = get_close_matches(name, known, n=3)
    return UserError("there is no such model.", where=text, hint=f"Perhaps {', '.join(near)}?" if near else None)
