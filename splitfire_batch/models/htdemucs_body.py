"""What lies between the standardised input of a hybrid Demucs and its output: all that may be half precision.

Rouard, Massa and Défossez, "Hybrid Transformers for Music Source Separation", ICASSP 2023: two U-Nets, one
over the spectrum and one over the waveform, that meet in a transformer (HTDemucs), or in shared innermost
layers (HDemucs, Défossez 2021). The layers are the package's own, in its order. What differs from its
`forward` changes rounding only: constant embeddings are made once, and attention never takes torch's older
fast path, which is slower on long segments and keeps the whole matrix of weights.

Axes: B batch, S stems, C channels, K bins, T columns or frames.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Positions = tuple[Tensor, Tensor]


class Body(nn.Module):
    """The layers of a network, which belong to it from then on.

    Args:
        net: an HTDemucs or HDemucs of the package.
        positions: of its transformer's input, if it has one.
    """

    def __init__(self, net: nn.Module, positions: Positions | None) -> None:
        super().__init__()
        parts: Any = net
        self._encoder, self._decoder = parts.encoder, parts.decoder
        self._encoder_t, self._decoder_t = parts.tencoder, parts.tdecoder
        if parts.freq_emb is not None:
            weight = parts.freq_emb.weight.detach().t()[None, :, :, None]
            self.register_buffer("_frequency", parts.freq_emb_scale * weight, persistent=False)
        self._frequency: Tensor
        self._has_frequency = parts.freq_emb is not None
        self._bridge = _Bridge(net, positions) if positions is not None else None

    def forward(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B, 2 S C, K, T) and (B, S C, T) of a spectrum (B, 2 C, K, T) and a waveform (B, C, T)."""
        skips, skips_t = [], []
        widths, widths_t = [], []
        for index, layer in enumerate(self._encoder):
            widths.append(x.shape[-1])
            joined = None
            if index < len(self._encoder_t):
                layer_t: Any = self._encoder_t[index]
                widths_t.append(xt.shape[-1])
                xt = layer_t(xt)
                if layer_t.empty:  # the last one of its own: the branches are one from here on
                    joined = xt
                else:
                    skips_t.append(xt)
            x = layer(x, joined)
            if index == 0 and self._has_frequency:
                x = x + self._frequency
            skips.append(x)
        if self._bridge is not None:
            x, xt = self._bridge(x, xt)
        else:  # all that there is goes through the skips
            x = torch.zeros_like(x)
        n_shared = len(self._decoder) - len(self._decoder_t)
        for index, layer in enumerate(self._decoder):
            x, before = layer(x, skips.pop(), widths.pop())
            if index >= n_shared:
                layer_t = self._decoder_t[index - n_shared]
                own = before[:, :, 0] if layer_t.empty else xt
                xt, _ = layer_t(own, None if layer_t.empty else skips_t.pop(), widths_t.pop())
        return x, xt


class _Bridge(nn.Module):
    """The transformer over both branches, and the layers that fit their channels to it."""

    def __init__(self, net: nn.Module, positions: Positions) -> None:
        super().__init__()
        parts: Any = net
        self._has_fitting = bool(parts.bottom_channels)
        if self._has_fitting:
            self._up, self._down = parts.channel_upsampler, parts.channel_downsampler
            self._up_t, self._down_t = parts.channel_upsampler_t, parts.channel_downsampler_t
        transformer = parts.crosstransformer
        self._norm, self._norm_t = transformer.norm_in, transformer.norm_in_t
        self._layers, self._layers_t = transformer.layers, transformer.layers_t
        self._own_turn = transformer.classic_parity
        for layer in (*self._layers, *self._layers_t):
            for name in ("self_attn", "cross_attn"):
                if isinstance(attention := getattr(layer, name, None), nn.MultiheadAttention):
                    setattr(layer, name, _Attention(attention))
        self.register_buffer("_positions", positions[0], persistent=False)
        self.register_buffer("_positions_t", positions[1], persistent=False)
        self._positions: Tensor
        self._positions_t: Tensor

    def forward(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Both branches, (B, C, K, T) and (B, C, T), in their own shapes."""
        n_bins, n_columns = x.shape[2:]
        x = x.flatten(2)
        if self._has_fitting:
            x, xt = self._up(x), self._up_t(xt)
        x = torch.unflatten(x, 2, (n_bins, n_columns)).permute(0, 3, 2, 1).flatten(1, 2)
        x = self._norm(x) + self._positions
        xt = self._norm_t(xt.transpose(1, 2)) + self._positions_t
        for index, (layer, layer_t) in enumerate(zip(self._layers, self._layers_t, strict=True)):
            if index % 2 == self._own_turn:
                x, xt = layer(x), layer_t(xt)
            else:
                x, xt = layer(x, xt), layer_t(xt, x)
        x = torch.unflatten(x, 1, (n_columns, n_bins)).permute(0, 3, 2, 1).flatten(2)
        xt = xt.transpose(1, 2)
        if self._has_fitting:
            x, xt = self._down(x), self._down_t(xt)
        return torch.unflatten(x, 2, (n_bins, n_columns)), xt


class _Attention(nn.Module):
    """Stands in for a `nn.MultiheadAttention` with one projection for all; its weights stay its own."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self._weight, self._bias = attention.in_proj_weight, attention.in_proj_bias
        self._out, self._n_heads = attention.out_proj, attention.num_heads

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> tuple[Tensor, None]:  # noqa: ARG002
        """Attention of `query` (B, T, C) over `key` (B, U, C), whose values are made of the same."""
        width = query.shape[-1]
        if query is key:
            q, k, v = functional.linear(query, self._weight, self._bias).chunk(3, dim=-1)
        else:
            q = functional.linear(query, self._weight[:width], self._bias[:width])
            k, v = functional.linear(key, self._weight[width:], self._bias[width:]).chunk(2, dim=-1)
        q, k, v = (torch.unflatten(part, -1, (self._n_heads, -1)).transpose(1, 2) for part in (q, k, v))
        found = functional.scaled_dot_product_attention(q, k, v)
        return self._out(found.transpose(1, 2).flatten(2)), None
