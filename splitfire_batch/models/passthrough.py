"""A model without weights: each stem is a fixed share of the mix, and the shares sum to one.

For tests and for dry runs of the infrastructure. Its segments overlap and are blended with a window, so
that everything around a real network is exercised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from splitfire_batch.config import SeparationConfig
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.registry import ModelCard
from splitfire_batch.segments import Segment, uniform_segments
from splitfire_batch.stems import make_recipes, needed_estimates

_SHARES = (0.25, 0.75)
_OVERLAP = 0.25
_SEGMENT_FRAMES = 10 * 44_100


class Passthrough:
    """Implements `segments.Model` with vocals = 0.25 mix and accompaniment = 0.75 mix."""

    def __init__(
        self,
        card: ModelCard,
        device: torch.device,
        segment_frames: int = _SEGMENT_FRAMES,
        separation: SeparationConfig | None = None,
    ) -> None:
        """Make the model.

        Args:
            card: its entry of the registry, with two stems.
            device: where it computes.
            segment_frames: length of a segment, at least 4; small values make tests fast.
            separation: only estimates that its stems are made of are computed; default: all.
        """
        if segment_frames < 4:
            raise ValueError(f"segment_frames is {segment_frames}, wanted at least 4")
        self.name = card.name
        self.sample_rate = card.sample_rate
        self.n_channels = card.n_channels
        needed = needed_estimates(make_recipes(separation, card.stems)) if separation else card.stems
        self.stems = tuple(stem for stem in card.stems if stem in needed)
        self.device = device
        self.is_for_one_core = self.is_of_any_length = False
        self._segment_frames = segment_frames
        shares = [share for stem, share in zip(card.stems, _SHARES, strict=True) if stem in needed]
        self._shares = torch.tensor(shares, device=device).reshape(1, -1, 1, 1)

    def segments(self, n_frames: int) -> Sequence[Segment]:
        """Segments of one length that overlap by a quarter; see `segments.Model.segments`."""
        stride = self._segment_frames - int(self._segment_frames * _OVERLAP)
        return uniform_segments(n_frames, self._segment_frames, stride)

    def window(self, segment: Segment) -> Tensor:
        """Triangular weights (L,), from 2/L at the edges to 1 in the middle."""
        ramp = torch.arange(1, segment.n_frames + 1, dtype=torch.float32)
        return torch.minimum(ramp, ramp.flip(0)) * (2 / (segment.n_frames + 1))

    def __call__(self, segments: Tensor) -> Tensor:
        """Estimates (B, S, C, L) of segments (B, C, L)."""
        if segments.ndim != 3 or segments.shape[1] != self.n_channels:
            raise ValueError(f"segments have shape {tuple(segments.shape)}, wanted (B, {self.n_channels}, L)")
        return segments[:, None] * self._shares


def build(
    card: ModelCard,
    weights: Mapping[str, Tensor],  # noqa: ARG001
    separation: SeparationConfig,
    arithmetic: Arithmetic,
    texts: Mapping[str, str] | None = None,  # noqa: ARG001
) -> Passthrough:
    """See `models.Build`."""
    return Passthrough(card, arithmetic.device, separation=separation)
