"""Small transformers models of configurations of our own, randomly initialised: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as hf
from torch import nn

Inputs = dict[str, torch.Tensor]

_ENCODER = {
    "vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 64,
}  # fmt: skip
_DECODER = _ENCODER | {"num_key_value_heads": 2}


def _tokens(_config: Any) -> Inputs:
    ids = torch.randint(3, 128, (2, 16), generator=_generator())
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _sequence(_config: Any) -> Inputs:
    return {"input_ids": torch.randint(3, 128, (2, 16), generator=_generator())}


def _both_sides(config: Any) -> Inputs:
    return _tokens(config) | {"decoder_input_ids": torch.randint(3, 128, (2, 8), generator=_generator())}


def _image(config: Any) -> Inputs:
    side = getattr(config, "image_size", 64)
    return {"pixel_values": torch.randn(2, 3, side, side, generator=_generator())}


def _image_and_text(_config: Any) -> Inputs:
    return _sequence(_config) | {"pixel_values": torch.randn(2, 3, 32, 32, generator=_generator())}


def _waveform(_config: Any) -> Inputs:
    return {"input_values": torch.randn(2, 4000, generator=_generator())}


def _spectrogram(config: Any) -> Inputs:
    return {
        "input_features": torch.randn(2, 16, 2 * config.max_source_positions, generator=_generator()),
        "decoder_input_ids": torch.randint(3, 128, (2, 8), generator=_generator()),
    }


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


# name → (class of the model, its configuration, example inputs)
MODELS: Mapping[str, tuple[type, Callable[[], Any], Callable[[Any], Inputs]]] = {
    "bert": (hf.BertForSequenceClassification, lambda: hf.BertConfig(**_ENCODER), _tokens),
    "distilbert": (
        hf.DistilBertForSequenceClassification,
        lambda: hf.DistilBertConfig(
            vocab_size=128, dim=64, n_layers=2, n_heads=4, hidden_dim=128, max_position_embeddings=64
        ),
        _tokens,
    ),
    "roberta": (hf.RobertaForMaskedLM, lambda: hf.RobertaConfig(**_ENCODER), _tokens),
    "albert": (
        hf.AlbertForMaskedLM,
        lambda: hf.AlbertConfig(**_ENCODER, embedding_size=32),
        _tokens,
    ),
    "gpt2": (
        hf.GPT2LMHeadModel,
        lambda: hf.GPT2Config(vocab_size=128, n_embd=64, n_layer=2, n_head=4, n_positions=64),
        _tokens,
    ),
    "llama": (hf.LlamaForCausalLM, lambda: hf.LlamaConfig(**_DECODER), _tokens),
    "qwen2": (hf.Qwen2ForCausalLM, lambda: hf.Qwen2Config(**_DECODER), _tokens),
    "mistral": (hf.MistralForCausalLM, lambda: hf.MistralConfig(**_DECODER, sliding_window=8), _tokens),
    "gemma2": (
        hf.Gemma2ForCausalLM,
        lambda: hf.Gemma2Config(**_DECODER, head_dim=16, query_pre_attn_scalar=16, sliding_window=8),
        _tokens,
    ),
    "mixtral": (
        hf.MixtralForCausalLM,
        lambda: hf.MixtralConfig(**_DECODER, num_local_experts=4, num_experts_per_tok=2),
        _tokens,
    ),
    "t5": (
        hf.T5ForConditionalGeneration,
        lambda: hf.T5Config(vocab_size=128, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4),
        _both_sides,
    ),
    "vit": (
        hf.ViTForImageClassification,
        lambda: hf.ViTConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32,
            patch_size=8,
        ),
        _image,
    ),
    "swin": (
        hf.SwinForImageClassification,
        lambda: hf.SwinConfig(
            image_size=32, patch_size=2, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4
        ),
        _image,
    ),
    "segformer": (
        hf.SegformerForSemanticSegmentation,
        lambda: hf.SegformerConfig(
            depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 32, 64], num_attention_heads=[1, 2, 2, 4],
            decoder_hidden_size=32, num_labels=5,
        ),
        _image,
    ),
    "clip": (
        hf.CLIPModel,
        lambda: hf.CLIPConfig(
            text_config=_ENCODER | {"eos_token_id": 2, "bos_token_id": 1},
            vision_config={
                "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
                "image_size": 32, "patch_size": 8,
            },
            projection_dim=32,
        ),
        _image_and_text,
    ),
    "wav2vec2": (
        hf.Wav2Vec2ForCTC,
        lambda: hf.Wav2Vec2Config(
            vocab_size=32, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
            conv_dim=(32, 32, 32), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 2), num_feat_extract_layers=3,
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        ),
        _waveform,
    ),
    "whisper": (
        hf.WhisperForConditionalGeneration,
        lambda: hf.WhisperConfig(
            vocab_size=128, num_mel_bins=16, encoder_layers=2, encoder_attention_heads=4, decoder_layers=2,
            decoder_attention_heads=4, decoder_ffn_dim=128, encoder_ffn_dim=128, d_model=64, max_source_positions=32,
            max_target_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        ),
        _spectrogram,
    ),
    "detr": (
        hf.DetrForObjectDetection,
        lambda: hf.DetrConfig(
            backbone_config=hf.ResNetConfig(
                embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", out_features=["stage2"]
            ),
            d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
            encoder_ffn_dim=128, decoder_ffn_dim=128, num_queries=10, num_labels=5,
        ),
        _image,
    ),
    "mobilevit": (
        hf.MobileViTForImageClassification,
        lambda: hf.MobileViTConfig(
            image_size=64, hidden_sizes=[32, 40, 48], neck_hidden_sizes=[8, 16, 24, 32, 32, 40, 64],
            num_attention_heads=4,
        ),
        _image,
    ),
    "convnext": (
        hf.ConvNextForImageClassification,
        lambda: hf.ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], image_size=64),
        _image,
    ),
}  # fmt: skip


def build(name: str) -> nn.Module:
    """A randomly initialised model, the same one each time."""
    torch.manual_seed(0)
    kind, configuration, _inputs = MODELS[name]
    config = configuration()
    config._experts_implementation = "batched_mm"  # the default, grouped_mm, has no kernel for float64
    config.use_cache = False  # as in training; the keys and values of a cache are outputs, and would stay whole
    model: nn.Module = kind(config)
    return model


def example(name: str) -> Inputs:
    """Keyword inputs for two samples."""
    _kind, configuration, inputs = MODELS[name]
    return inputs(configuration())
