"""Functions of torch that are many ops and take one width for several: what does the same with slim weights.

A table: name of the function → what its calls need, read off the ops that were recorded for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from atograph.passes.ir.sizes import at

_ATEN = torch.ops.aten


class Composite(NamedTuple):
    """What a call of such a function needs.

    Attributes:
        old, new: its widths as it is given them, in the dense and in the slim model.
        function: what is called in its place, with the same arguments and ``keywords``; None where nothing changes.
        keywords: arguments that came to it.
        impossible: why nothing does the same with slim weights; empty if something does.
    """

    old: tuple[int, ...]
    new: tuple[int, ...]
    function: Callable[..., object] | None
    keywords: dict[str, Any]
    impossible: str = ""


def _attention(dense: Sequence[fx.Node], slim: Sequence[fx.Node]) -> Composite:
    old, new = _widths(dense), _widths(slim)
    if old == new:
        return Composite(old[:2], new[:2], None, {})
    if any(node.target is _ATEN.cat.default for node in dense):
        return Composite(old[:2], new[:2], None, {}, "bias_k, bias_v and add_zero_attn are not supported in it")
    return Composite(old[:2], new[:2], multi_head_attention, {"scale": old[2] ** -0.5})


def _widths(nodes: Sequence[fx.Node]) -> tuple[int, int, int, int]:
    """Width of the query, number of heads, width of a head that scores are computed with, width of all heads."""
    linear = [node for node in nodes if node.target is _ATEN.linear.default]
    query, heads = _shape(linear[0], 0), _shape(linear[-1], 0)
    for node in nodes:
        if node.target is _ATEN.scaled_dot_product_attention.default:
            return query[-1], _shape(node, 0)[1], _shape(node, 0)[-1], heads[-1]
    scores = next(node for node in nodes if node.target in (_ATEN.bmm.default, _ATEN.baddbmm.default))
    left = _shape(scores, -2)
    return query[-1], at(left[0]) // at(query[-2]), left[-1], heads[-1]


def _shape(node: fx.Node, argument: int) -> torch.Size:
    read = node.args[argument]
    assert isinstance(read, fx.Node)
    return read.meta["val"].shape  # type: ignore[no-any-return]


COMPOSITES: dict[str, Callable[[Sequence[fx.Node], Sequence[fx.Node]], Composite]] = {
    "multi_head_attention_forward": _attention,  # nn.MultiheadAttention, nn.TransformerEncoderLayer, ...
}


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    *,
    scale: float,
) -> tuple[Tensor, Tensor | None]:
    """`torch.nn.functional.multi_head_attention_forward` where the heads together are not as wide as the query.

    The widths of a head are taken from the weights. Shapes and arguments are those of torch's function, with
    ``scale``, what the products of queries and keys are multiplied by.

    Raises:
        NotImplementedError: for biases of keys, static keys and an attention of zeros.
    """
    if bias_k is not None or bias_v is not None or static_k is not None or static_v is not None or add_zero_attn:
        raise NotImplementedError("attention with bias_k, bias_v, static_k, static_v or add_zero_attn, made slim")
    batched, of_itself = query.dim() == 3, query is key is value
    if not batched:
        query, key, value = (tensor.unsqueeze(1) for tensor in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    if use_separate_proj_weight:
        assert q_proj_weight is not None and k_proj_weight is not None and v_proj_weight is not None
        weights: tuple[Tensor, ...] = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        assert in_proj_weight is not None
        wide = out_proj_weight.shape[1]
        scored = (in_proj_weight.shape[0] - wide) // 2
        weights = torch.split(in_proj_weight, [scored, scored, wide])
    lengths = [len(weight) for weight in weights]
    if of_itself and in_proj_weight is not None and len(set(lengths)) == 1:  # in one product, as torch does it
        together = torch.unflatten(F.linear(query, in_proj_weight, in_proj_bias), -1, (3, lengths[0]))
        projected = together.unsqueeze(0).transpose(0, -2).squeeze(-2).contiguous()
        each: tuple[Tensor, ...] = (projected[0], projected[1], projected[2])
    else:
        biases = (None,) * 3 if in_proj_bias is None else torch.split(in_proj_bias, lengths)
        taken = zip((query, key, value), weights, biases, strict=True)
        each = tuple(F.linear(x, weight, bias) for x, weight, bias in taken)
    q, k, v = (_heads(x, num_heads) for x in each)
    mask = _mask(attn_mask, key_padding_mask, q)
    dropped = dropout_p if training else 0.0
    if not need_weights:
        causal = is_causal and mask is None
        out = F.scaled_dot_product_attention(q, k, v, mask, dropped, is_causal=causal, scale=scale)
        return _projected(out, out_proj_weight, out_proj_bias, batched), None
    scores = (q * scale) @ k.transpose(-2, -1)
    attention = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropped)
    shown = attention.mean(1) if average_attn_weights else attention
    out = _projected(attention @ v, out_proj_weight, out_proj_bias, batched)
    return out, shown if batched else shown.squeeze(0)


def _heads(x: Tensor, count: int) -> Tensor:
    """Of [length, samples, heads together] [samples, heads, length, width]."""
    length, samples, width = x.shape
    apart = x.reshape(length, samples * count, width // count).transpose(0, 1)
    return apart.reshape(samples, count, length, width // count)


def _mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
    """Both masks as one that is added to the scores, [samples or 1, heads or 1, queries, keys]."""
    parts = []
    if attn_mask is not None:
        added = _added(attn_mask, q)
        parts.append(added.reshape(q.shape[0], -1, *added.shape[1:]) if added.dim() == 3 else added)
    if key_padding_mask is not None:
        parts.append(_added(key_padding_mask, q)[:, None, None, :])
    return parts[0] if len(parts) == 1 else sum(parts[1:], parts[0]) if parts else None


def _added(mask: Tensor, q: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(q.dtype)
    return torch.zeros(mask.shape, dtype=q.dtype, device=mask.device).masked_fill_(mask, float("-inf"))


def _projected(out: Tensor, weight: Tensor, bias: Tensor | None, batched: bool) -> Tensor:
    samples, heads, length, width = out.shape
    together = out.permute(2, 0, 1, 3).reshape(length * samples, heads * width)
    found = F.linear(together, weight, bias).view(length, samples, -1)
    return found if batched else found.squeeze(1)
