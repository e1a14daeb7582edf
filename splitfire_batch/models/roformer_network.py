"""The networks of BS-RoFormer and Mel-Band RoFormer, from the package `bs-roformer`, made exact.

BS-RoFormer is after Lu et al., arXiv 2309.02612, Mel-Band RoFormer after Wang et al., arXiv 2310.01809: the
complex bins of all channels are split into bands, each becomes a token, attention goes over time and over
bands in turn, and each band's token becomes its part of a complex mask. The package has the layers, under the
names that the community's checkpoints use; attention, norms and rotary phases are ours: the same formulas,
but float32 whatever the weights are, and without choosing kernels by the card it finds.

Axes: B batch, S stems, F STFT columns, N features: (bin, channel, real or imaginary part) of all bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitfire_batch.models.registry import ModelCard
from splitfire_batch.models.roformer_config import RoformerConfig
from splitfire_batch.models.roformer_package import check_tensors, package_network


class RoformerNetwork(nn.Module):
    """From the features of a mix to the masks of its stems.

    Args:
        net: the package's, with its weights; its layers are taken over and changed.
        kept: the stems wanted, by number.
        n_frames: of the segments it is for.
        device: where it will compute.
    """

    def __init__(self, net: Any, kept: Sequence[int], n_frames: int, device: torch.device) -> None:
        super().__init__()
        self.stft_sizes: Mapping[str, Any] = dict(net.stft_kwargs)
        """Arguments of `torch.stft` and `torch.istft`."""
        self.mel_bins: Tensor | None = getattr(net, "freq_indices", None)
        """The place of each of the N / 2 complex features among (bin, channel), where bands overlap."""
        n_columns = 1 + n_frames // self.stft_sizes["hop_length"]
        _make_exact(net, max(n_columns, len(net.band_split.dim_inputs)), device)
        self._band_split, self._layers = net.band_split, net.layers
        self._final_norm = getattr(net, "final_norm", nn.Identity())
        self._mask_estimators = nn.ModuleList(net.mask_estimators[index] for index in kept)

    def forward(self, features: Tensor) -> Tensor:
        """Masks (B, S, F, N) for features (B, F, N), float32."""
        x = self._band_split(features)
        for layer in self._layers:
            over_time, over_bands = layer.children()
            x = _along(over_time, x.transpose(1, 2)).transpose(1, 2)
            x = _along(over_bands, x)
        x = self._final_norm(x)
        return torch.stack([estimate(x) for estimate in self._mask_estimators], dim=1)


def make_network(
    card: ModelCard,
    config: RoformerConfig,
    weights: Mapping[str, Tensor],
    kept: Sequence[int],
    device: torch.device,
) -> RoformerNetwork:
    """The network of a card, float32, still on the CPU.

    Args:
        card: its architecture and its name, for messages.
        config: the constructor's arguments and the frames of a segment.
        weights: its tensors by the community's names; they are used, not copied.
        kept: the stems wanted, by number.
        device: where it will compute.

    Raises:
        ConfigError: the package is missing or another version, an argument is not known or not possible, a
            tensor is missing, left over, or has another shape.
    """
    net = package_network(card, config.arguments)
    check_tensors(net, weights, card.name)
    net.load_state_dict({key: weights[key].float() for key in net.state_dict()}, assign=True)
    net.eval().requires_grad_(False)
    return RoformerNetwork(net, kept, config.chunk_frames, device)


def _make_exact(net: nn.Module, n_positions: int, device: torch.device) -> None:
    """Replace attention, norms and rotations of the package's network by ours."""
    parents: list[Any] = list(net.modules())
    for parent in parents:
        if hasattr(parent, "rotary_embed"):
            parent.attend = _Attention()
            parent.rotary_embed = _Rotation(parent.rotary_embed.freqs, n_positions, device)
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "RMSNorm":
                setattr(parent, name, _Norm(child.gamma, child.scale))


def _along(transformer: nn.Module, x: Tensor) -> Tensor:
    """A transformer over the second last axis of (B, M, n, dim)."""
    y: Tensor = transformer(x.flatten(0, 1))
    return y.view(x.shape)


class _Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v, never written out: 801 x 801 weights per band and head take gigabytes."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v)


class _Norm(nn.Module):
    """x / |x| * sqrt(dim) * gamma, in float32."""

    def __init__(self, gamma: nn.Parameter, scale: float) -> None:
        super().__init__()
        self.gamma, self._scale = gamma, scale

    def forward(self, x: Tensor) -> Tensor:
        y = functional.normalize(x.float(), dim=-1) * self._scale * self.gamma.float()
        return y.to(self.gamma.dtype)


class _Rotation(nn.Module):
    """Rotary positions (Su et al., arXiv 2104.09864): pairs turned by position * frequency, in float32."""

    def __init__(self, frequencies: Tensor, n_positions: int, device: torch.device) -> None:
        super().__init__()
        phases = torch.outer(torch.arange(n_positions, dtype=torch.float32), frequencies.float())
        # neither parameters nor buffers: half precisions must leave them as they are
        self._cos, self._sin = phases.cos().to(device), phases.sin().to(device)

    def rotate_queries_or_keys(self, x: Tensor) -> Tensor:
        """(B, heads, n, d), turned."""
        n = x.shape[-2]
        first, second = x.float().view(*x.shape[:-1], -1, 2).unbind(-1)
        cos, sin = self._cos[:n], self._sin[:n]
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1)
        return turned.flatten(-2).to(x.dtype)
