"""A language model of transformers whose cache goes in and comes out as tensors, so that it can be state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Cache = list[dict[str, Tensor]]
"""For each layer its ``key`` and its ``value``."""


class CachedModel(nn.Module):
    """A decoder of transformers with a cache of keys and values for an argument.

    It takes ``past_key_values`` as a list of ``{"key", "value"}``, one a layer, and returns ``{"logits", "present"}``,
    in which ``present`` is such a list: ``trace(CachedModel(model), ..., state={"present": "past_key_values"})``. One
    program reads the prompt, with an empty cache, and goes on token by token.

    Args:
        model: of the kind ``AutoModelForCausalLM``; it is held as ``model``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past_key_values: Cache, **others: Any) -> Any:
        """The logits, and the cache with what is new; ``others`` are arguments of the model."""
        from transformers import DynamicCache

        config: Any = self.model.config
        cache: Any = DynamicCache(config=config)
        for layer, past in zip(cache.layers, past_key_values, strict=True):
            layer.lazy_initialization(past["key"], past["value"])
            layer.keys, layer.values = past["key"], past["value"]
        result = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True, **others
        )
        present = [{"key": layer.keys, "value": layer.values} for layer in cache.layers]
        return {"logits": result.logits, "present": present}

    @torch.no_grad()
    def cache(self, batch: int, length: int = 0) -> Cache:
        """A cache of zeros.

        Args:
            batch: samples.
            length: tokens that it holds; example inputs need two or more.
        """
        parameter = next(self.model.parameters())
        ids = torch.zeros(batch, 1, dtype=torch.long, device=parameter.device)
        made = self.model(input_ids=ids, use_cache=True).past_key_values
        return [
            {name: value.new_zeros(*value.shape[:2], length, value.shape[3]) for name, value in layer.items()}
            for layer in ({"key": layer.keys, "value": layer.values} for layer in made.layers)
        ]
