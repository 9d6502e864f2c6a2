"""`torch.nn.MultiheadAttention` with one-bit weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.modules.layers import PackedLinear, WeightOf


class PackedAttention(nn.Module):
    """Attention with one-bit projections, called as torch's MultiheadAttention; for inference, without dropout.

    Args:
        layer: torch's layer.
        weight_of: its weights by torch's names, such as "out_proj.weight".
    """

    replaces = nn.MultiheadAttention
    """The products of both are counted alike."""

    bias_k: Tensor | None
    bias_v: Tensor | None

    in_proj_bias = None
    """torch's encoder layers read these two before they call `forward`."""
    in_proj_weight = None

    def __init__(self, layer: nn.MultiheadAttention, weight_of: WeightOf) -> None:
        super().__init__()
        self._qkv_same_embed_dim, bias = layer._qkv_same_embed_dim, layer.in_proj_bias
        if self._qkv_same_embed_dim:
            self.in_proj = PackedLinear(weight_of("in_proj_weight"), bias)
        else:
            biases = (None,) * 3 if bias is None else bias.chunk(3)
            self.q_proj, self.k_proj, self.v_proj = (
                PackedLinear(weight_of(f"{name}_proj_weight"), part) for name, part in zip("qkv", biases, strict=True)
            )
        self.out_proj = PackedLinear(weight_of("out_proj.weight"), layer.out_proj.bias)
        self.embed_dim, self.num_heads, self.batch_first = layer.embed_dim, layer.num_heads, layer.batch_first
        self.head_dim, self.add_zero_attn = layer.head_dim, layer.add_zero_attn
        for name in ("bias_k", "bias_v"):
            value = getattr(layer, name)
            self.register_buffer(name, None if value is None else value.detach().clone())

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `torch.nn.MultiheadAttention.forward`."""
        if is_causal and attn_mask is None:
            raise UsageError("got is_causal without attn_mask, expected both")
        single = query.dim() == 2
        q, k, v = self._project(query, key, value)
        if single:
            q, k, v = (x.unsqueeze(0) for x in (q, k, v))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        batch, length = q.shape[:2]
        mask = self._mask(attn_mask, key_padding_mask, batch, q.dtype)
        k, v, mask = self._more_keys(k, v, mask)
        q, k, v = (x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in (q, k, v))
        weights = None
        if need_weights:
            scores = q * math.sqrt(1 / self.head_dim) @ k.transpose(-2, -1)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            heads = weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            causal = is_causal and key_padding_mask is None  # then torch ignores attn_mask
            heads = F.scaled_dot_product_attention(q, k, v, None if causal else mask, is_causal=causal)
        output = self.out_proj(heads.transpose(1, 2).reshape(batch, length, self.embed_dim))
        if single:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self._qkv_same_embed_dim:
            return self.q_proj(query), self.k_proj(key), self.v_proj(value)
        projected = [self.in_proj(query)]
        for new, old in ((key, query), (value, key)):
            projected.append(projected[-1] if new is old else self.in_proj(new))
        q, k, v = (one.chunk(3, dim=-1)[n] for n, one in enumerate(projected))
        return q, k, v

    def _mask(self, attn: Tensor | None, padding: Tensor | None, batch: int, dtype: torch.dtype) -> Tensor | None:
        """The sum of both masks, which broadcasts to the scores (N, heads, L, S)."""
        mask = None
        if attn is not None:
            mask = _additive(attn, dtype)
            mask = mask.view(batch, self.num_heads, *mask.shape[1:]) if mask.dim() == 3 else mask[None, None]
        if padding is not None:
            hidden = _additive(padding, dtype)[:, None, None]
            mask = hidden if mask is None else mask + hidden
        return mask

    def _more_keys(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Append the learned key and value and the zero ones, to which every query may attend."""
        added = 0
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                torch.cat([x, one.to(x.dtype).expand(len(x), -1, -1)], dim=1)
                for x, one in ((k, self.bias_k), (v, self.bias_v))
            )
            added += 1
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            added += 1
        return k, v, F.pad(mask, (0, added)) if added and mask is not None else mask


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to be added to scores: true becomes -inf."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)
