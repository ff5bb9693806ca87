"""Language models of transformers whose cache goes in and comes out as tensors, so that it can be state."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from atograph.passes.errors import UserError

Cache = list[dict[str, Tensor]]
"""For each layer that keeps some its ``key`` and its ``value``."""
CrossCache = list[dict[str, dict[str, Tensor]]]
"""For each layer that of its own tokens, ``decoder``, and that of the encoder's, ``encoder``."""


class CachedModel(nn.Module):
    """A decoder of transformers with a cache of keys and values for an argument.

    It takes ``past_key_values`` as a list of ``{"key", "value"}``, one a layer, and returns ``{"logits", "present"}``,
    in which ``present`` is such a list: ``trace(CachedModel(model), ..., state={"present": "past_key_values"})``. One
    program reads the prompt, with an empty cache, and goes on token by token. `example` gives inputs to trace with.

    It is trained like the model that it holds: without a past and a mask it takes tokens alone, and with ``labels`` it
    returns a ``loss``, too.

    Layers with a sliding window keep all tokens, too; their mask hides what is out of the window. Positions are counted
    along ``attention_mask``, where the model takes some, so that padding on the left changes nothing.

    Args:
        model: of the kind ``AutoModelForCausalLM``; it is held as ``model``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **others: object,
    ) -> Any:
        """The logits, the cache with what is new, and the loss where there are ``labels``.

        Args:
            input_ids: the new tokens.
            attention_mask: over the tokens of the past and the new ones; None: all of them count.
            past_key_values: an empty one (`cache`), or one that was returned; None: there is no past.
            **others: arguments of the model.
        """
        cache = _cache(self.model, past_key_values)
        if attention_mask is None:
            past = 0 if past_key_values is None else past_key_values[0]["key"].shape[2]
            attention_mask = input_ids.new_ones(len(input_ids), past + input_ids.shape[1])
        if "position_ids" in inspect.signature(self.model.forward).parameters:
            others.setdefault("position_ids", _positions(attention_mask, input_ids))
        result = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True, **others
        )
        loss = {} if result.loss is None else {"loss": result.loss}
        return {**loss, "logits": result.logits, "present": _tensors(cache)}

    def example(self, batch: int = 2) -> dict[str, Any]:
        """Inputs to trace with: three new tokens after five that are kept, sizes that can be told from each other."""
        ids = _token(self.model, batch).expand(batch, 3).contiguous()
        return {"input_ids": ids, "attention_mask": ids.new_ones(batch, 8), "past_key_values": self.cache(batch, 5)}

    def prompt(self, input_ids: Tensor) -> dict[str, Any]:
        """All inputs of a first call, with an empty cache.

        Args:
            input_ids: tokens without padding, ``[batch, tokens]``.
        """
        mask, cache = torch.ones_like(input_ids), self.cache(len(input_ids))
        return {"input_ids": input_ids, "attention_mask": mask, "past_key_values": cache}

    @torch.no_grad()
    def cache(self, batch: int, length: int = 0) -> Cache:
        """A cache of zeros.

        Args:
            batch: samples.
            length: tokens that it holds; example inputs need two or more.

        Raises:
            UserError: a layer of the model keeps something else than keys and values.
        """
        cache = _cache(self.model)
        self.model(input_ids=_token(self.model, batch), past_key_values=cache, use_cache=True)
        return [_zeros(layer, length) for layer in _tensors(cache)]


class CachedEncoderDecoder(nn.Module):
    """An encoder-decoder of transformers with a cache of keys and values for an argument.

    It takes ``past_key_values`` as a list of ``{"decoder", "encoder"}``, one a layer, each with a ``key`` and a
    ``value``, and returns ``{"logits", "present"}``, in which ``present`` is such a list. What of it is of the encoder
    comes of ``encoder_inputs`` alone, once a sequence; the logits come of the past alone. So one program holds both
    halves, with the encoder's keys and values as state between them, and one plan cuts both. Two files are made of it:
    ``slim.to_onnx("encoder.onnx", outputs=["present.*.encoder.*"])``, and ``slim.to_onnx("decoder.onnx",
    outputs=["logits", "present.*.decoder.*"])``, which each take what they need.

    Called with an empty past, and not traced, it is the whole model: the decoder reads what the encoder gives. Without
    ``encoder_inputs`` it goes on from the past.

    Args:
        model: of the kinds ``AutoModelForSeq2SeqLM`` and ``AutoModelForSpeechSeq2Seq``; it is held as ``model``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor,
        past_key_values: CrossCache,
        attention_mask: Tensor | None = None,
        **encoder_inputs: Tensor,
    ) -> Any:
        """The logits, and the cache with what is new.

        Args:
            decoder_input_ids: the new tokens.
            decoder_attention_mask: over the tokens of the past and the new ones.
            past_key_values: an empty one (`cache`), or one that was returned.
            attention_mask: over what the encoder takes, where the model has one; the decoder reads it, too.
            **encoder_inputs: ``input_ids`` or ``input_features``.
        """
        past = [layer["encoder"] for layer in past_key_values]
        own, cross = _keys_and_values([layer["decoder"] for layer in past_key_values]), _keys_and_values(past, _read())
        encoded = self._encoded(attention_mask, encoder_inputs) if encoder_inputs else None
        masks = self._masks(decoder_attention_mask, decoder_input_ids)
        logits = self._decoded(own, cross, decoder_input_ids, attention_mask, encoded, **masks)
        pairs = zip(_tensors(own), past if encoded is None else _tensors(cross), strict=True)
        return {"logits": logits, "present": [{"decoder": new, "encoder": same} for new, same in pairs]}

    @torch.no_grad()
    def cache(self, batch: int, length: int = 0, encoder_length: int = 0) -> CrossCache:
        """A cache of zeros.

        Args:
            batch: samples.
            length: tokens of the decoder that it holds; example inputs need two or more.
            encoder_length: the same of the encoder.
        """
        model: Any = self.model
        own, cross = _keys_and_values(), _keys_and_values()
        encoded = torch.zeros(batch, 1, model.config.hidden_size, dtype=model.dtype, device=model.device)
        self._decoded(own, cross, _token(self.model, batch), None, encoded)
        return [
            {"decoder": _zeros(of_own, length), "encoder": _zeros(of_cross, encoder_length)}
            for of_own, of_cross in zip(_tensors(own), _tensors(cross), strict=True)
        ]

    def _encoded(self, attention_mask: Tensor | None, inputs: dict[str, Tensor]) -> Tensor:
        encoder: Any = self.model.get_encoder()  # type: ignore[operator]
        encoded: Tensor = encoder(**inputs, **({} if attention_mask is None else {"attention_mask": attention_mask}))[0]
        return encoded

    def _decoded(
        self,
        own: object,
        cross: Any,
        tokens: Tensor,
        attention_mask: Tensor | None,
        encoded: Tensor | None,
        **masks: Tensor,
    ) -> Tensor:
        """The logits; both caches hold what is new then. Without ``encoded``, the cross one has all that it needs."""
        from transformers import EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        both = EncoderDecoderCache(own, cross)
        if encoded is None:  # nothing reads more of it than its length
            keys = cross.layers[0].keys
            encoded = keys.new_zeros(keys.shape[0], keys.shape[2], 1)
        else:
            both.is_updated = {}
        result = self.model(
            decoder_input_ids=tokens,
            attention_mask=attention_mask,
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
            past_key_values=both,
            use_cache=True,
            **masks,
        )
        logits: Tensor = result.logits
        return logits

    def _masks(self, mask: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        masks = {"decoder_attention_mask": mask}
        if "decoder_position_ids" in inspect.signature(self.model.forward).parameters:
            masks["decoder_position_ids"] = _positions(mask, tokens)
        return masks


def _cache(model: nn.Module, past: Cache | None = None) -> Any:
    """A cache of transformers for a decoder, of what its layers have kept.

    Raises:
        UserError: a layer keeps something else than keys and values.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

    layers: Any = DynamicCache(config=model.config).layers  # type: ignore[arg-type]
    keeping = [index for index, layer in enumerate(layers) if not isinstance(layer, DummyLayer)]
    for index in keeping:
        if type(layers[index]) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise UserError(
                f"layer {index} of this {type(model).__name__} keeps more from token to token than keys and values: "
                f"its cache is a {type(layers[index]).__name__}.",
                hint="Write a module that takes and returns what it keeps as tensors, and name the pairs by state=.",
            )
    cache = _keys_and_values([None] * len(keeping) if past is None else past)
    for index, layer in zip(keeping, cache.layers, strict=True):
        layers[index] = layer
    cache.layers = layers
    return cache


def _keys_and_values(past: Sequence[dict[str, Tensor] | None] = (), layer: Any = None) -> Any:
    """A cache of transformers whose layers are of one class; more of them come as they are asked for."""
    from transformers.cache_utils import Cache as Layers

    layer = _whole() if layer is None else layer
    cache: Any = Layers(layer_class_to_replicate=layer)
    for each in past:
        cache.layers.append(layer())
        if each is not None:
            cache.layers[-1].hold(each["key"], each["value"])
    return cache


@functools.cache
def _whole() -> Any:
    """The class of a layer that keeps all keys and values."""
    from transformers.cache_utils import DynamicLayer

    class Whole(DynamicLayer):  # type: ignore[no-untyped-call]
        """It begins with what comes first, and not with a tensor of one dim without elements."""

        def update(
            self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
        ) -> tuple[Tensor, Tensor]:
            if self.is_initialized:
                return super().update(key_states, value_states, *args, **kwargs)
            return self.hold(key_states, value_states)

        def hold(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values
            return keys, values

    return Whole


@functools.cache
def _read() -> Any:
    """The class of a layer whose past is read where there is some, and that holds what came of the encoder then."""

    class Read(_whole()):  # type: ignore[misc]
        def update(
            self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
        ) -> tuple[Tensor, Tensor]:
            past = (self.keys, self.values)
            new: tuple[Tensor, ...] = self.hold(key_states, value_states)
            return past if past[0].shape[2] else new  # type: ignore[return-value]

    return Read


def _tensors(cache: Any) -> Cache:
    """What the layers of a cache hold."""
    return [{"key": layer.keys, "value": layer.values} for layer in cache.layers if layer.keys is not None]


def _zeros(layer: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    return {name: value.new_zeros(*value.shape[:2], length, value.shape[3]) for name, value in layer.items()}


def _token(model: Any, batch: int) -> Tensor:
    return torch.zeros(batch, 1, dtype=torch.long, device=model.device)


def _positions(mask: Tensor, tokens: Tensor) -> Tensor:
    """Of each new token the position, from 0 on where the mask begins to be one."""
    return (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
