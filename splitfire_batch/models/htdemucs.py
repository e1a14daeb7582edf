"""Hybrid Demucs, with a transformer (v4, HTDemucs) or without (v3, HDemucs): our inference around its layers.

As the package `demucs` does it: a segment is standardised as a spectrum and as a waveform, each branch by
its own mean and deviation; the network turns both into those of every stem, whose sum is the estimate.
Segments overlap and are blended with a triangle. HTDemucs takes segments of one length only: a shorter one
at the track's end lies in the middle, after what comes before it, or after zeros.

Axes: B batch, S stems, C channels, K bins, T columns, L frames of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from splitfire_batch.config import SeparationConfig
from splitfire_batch.models.conversion import PACKAGE
from splitfire_batch.models.htdemucs_body import Body
from splitfire_batch.models.htdemucs_network import (
    is_of_fixed_length,
    make_network,
    positions,
    segment_frames,
    with_package,
)
from splitfire_batch.models.htdemucs_spectrum import Spectrum
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.registry import ModelCard
from splitfire_batch.segments import LazySegments, Segment
from splitfire_batch.stems import make_recipes, needed_estimates

OVERLAP = 0.25
"""The package's own."""
_EPSILON = 1e-5

Layers = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Demucs:
    """Implements `segments.Model`."""

    def __init__(
        self,
        card: ModelCard,
        tensors: Mapping[str, Tensor],
        separation: SeparationConfig,
        arithmetic: Arithmetic,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Build the network.

        Args:
            card: of its `options` see `htdemucs_network.make_network`; without, its package says them.
            tensors: the published state.
            separation: `tail` and `overlap` are obeyed; only estimates that its stems are made of are
                finished, for the network gives all of them at once.
            arithmetic: where and how the network computes.
            texts: of the card's files, by name.

        Raises:
            ConfigError: the extra is not installed, or options or tensors do not fit.
        """
        if texts and "kwargs" not in card.options:
            card = with_package(card, texts.get(PACKAGE, ""))
        net = make_network(card, tensors)
        self.name = card.name
        self.sample_rate = card.sample_rate
        self.n_channels = card.n_channels
        self.device = arithmetic.device
        self.is_for_one_core = False
        needed = needed_estimates(make_recipes(separation, card.stems))
        self.stems = tuple(stem for stem in card.stems if stem in needed)
        self.n_redone = 0
        """Segments that half precision had no numbers for, and that float32 computed again."""
        self._wanted = [index for index, stem in enumerate(card.stems) if stem in needed]
        self._n_estimates = len(card.stems)
        self._is_fixed = is_of_fixed_length(net)
        self.is_of_any_length = not self._is_fixed
        self._length = segment_frames(net)
        self._stride = max(1, int((1 - _overlap(separation)) * self._length))
        self._is_lean = separation.tail == "lean"
        self._triangle = _triangle(self._length)
        self._spectrum = Spectrum(net.nfft, self.device)  # type: ignore[arg-type]
        self._arithmetic = arithmetic
        self._layers: Layers = arithmetic.network(Body(net, positions(net)), is_channels_last=False)
        self._exact: Callable[[], Layers] | None = None
        if arithmetic.precision == "fp16":  # else nothing should keep the tensors alive
            self._exact = cache(partial(_exact_layers, card, tensors, self.device))

    def segments(self, n_frames: int) -> Sequence[Segment]:
        """Segments of one length a stride apart, the last ones cut; see `segments.Model.segments`.

        With `tail = "reference"` there is one for every stride of the track, though it covers nothing new.
        The prefix law holds because a segment that the track's end cuts ends after it.
        """
        starts = -(-n_frames // self._stride)
        needed = 1 + max(0, -(-(n_frames - self._length) // self._stride))
        return LazySegments(needed if self._is_lean else max(1, starts), partial(self._segment, n_frames))

    def _segment(self, n_frames: int, index: int) -> Segment:
        start = index * self._stride
        n_landing = min(self._length, n_frames - start) or self._length
        if not self._is_fixed:  # one frame more than is used, or a cut one would end with the track
            return Segment(start, n_landing + 1, n_landing=n_landing)
        n_lead = (self._length - n_landing) // 2
        if n_landing == self._length:
            return Segment(start, n_landing)
        return Segment(start - n_lead, self._length, n_lead=n_lead, n_landing=n_landing)

    def window(self, segment: Segment) -> Tensor:
        """A triangle (n,), which a cut segment has only the beginning of."""
        return self._triangle[: segment.lands.stop - segment.lands.start]

    def __call__(self, segments: Tensor) -> Tensor:
        """Estimates (B, S, C, L) of segments (B, C, L), float32.

        Half precision overflows on sparse segments. One whose estimate is not finite comes from float32: the
        whole batch is computed again, so that none depends on which others had to be.

        Raises:
            ValueError: the segments have another shape.
        """
        n_frames = segments.shape[-1]
        is_fitting = n_frames == self._length if self._is_fixed else n_frames > 1
        if segments.ndim != 3 or segments.shape[1] != self.n_channels or not is_fitting:
            wanted = f"(B, {self.n_channels}, {self._length if self._is_fixed else 'L > 1'})"
            raise ValueError(f"segments have shape {tuple(segments.shape)}, wanted {wanted}")
        with torch.inference_mode(), self._arithmetic.exactly():
            estimates = self._estimates(segments, self._cast_layers)
            if self._exact is None:
                return estimates
            is_finite = estimates.isfinite().flatten(1).all(dim=1)
            if not is_finite.all():
                self.n_redone += int((~is_finite).sum())
                exact = self._estimates(segments, self._exact())
                estimates = torch.where(is_finite[:, None, None, None], estimates, exact)
            return estimates

    def _cast_layers(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """The layers, on inputs of whatever precision they have."""
        return self._layers(*(self._arithmetic.inputs(each, is_channels_last=False) for each in (x, xt)))

    def _estimates(self, segments: Tensor, layers: Layers) -> Tensor:
        used = segments if self._is_fixed else segments[..., :-1]
        spectrum = _as_channels(self._spectrum.of(used))
        x, mean, deviation = _standardised(spectrum)
        xt, mean_t, deviation_t = _standardised(used)
        y, yt = layers(x, xt)
        y = self._chosen(y) * deviation[:, None] + mean[:, None]
        estimates = self._spectrum.inverse(_as_complex(y), used.shape[-1])
        estimates = estimates.add_(self._chosen(yt) * deviation_t[:, None] + mean_t[:, None])
        if self._is_fixed:
            return estimates
        spare = (segments[:, None, :, -1:] * 0).expand(-1, len(self._wanted), -1, -1)  # NaN for NaN
        return torch.cat((estimates, spare), dim=-1)

    def _chosen(self, y: Tensor) -> Tensor:
        """(B, all stems * n, ...) -> (B, S, n, ...)."""
        y = torch.unflatten(y, 1, (self._n_estimates, -1))
        return y if len(self._wanted) == self._n_estimates else y[:, self._wanted]


def _overlap(separation: SeparationConfig) -> float:
    return OVERLAP if separation.overlap is None else separation.overlap


def _triangle(length: int) -> Tensor:
    """1 .. L//2, then L - L//2 .. 1, over the largest of them: (L,)."""
    half = length // 2
    ramp = torch.cat((torch.arange(1, half + 1), torch.arange(length - half, 0, -1)))
    return ramp / ramp.max()


def _exact_layers(card: ModelCard, tensors: Mapping[str, Tensor], device: torch.device) -> Layers:
    """The layers in float32; made when they are needed first."""
    net = make_network(card, tensors)
    return Body(net, positions(net)).to(device)


def _standardised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, ...) with mean 0 and deviation 1, and what these were: (B, 1, ...)."""
    deviation, mean = torch.std_mean(x, dim=tuple(range(1, x.ndim)), keepdim=True)
    return (x - mean) / (deviation + _EPSILON), mean, deviation


def _as_channels(spectrum: Tensor) -> Tensor:
    """(B, C, K, T), complex -> (B, 2 C, K, T): real and imaginary part of each channel."""
    return torch.view_as_real(spectrum).permute(0, 1, 4, 2, 3).flatten(1, 2)


def _as_complex(y: Tensor) -> Tensor:
    """(B, S, 2 C, K, T) -> (B, S, C, K, T), complex."""
    parts = torch.unflatten(y, 2, (-1, 2))
    return torch.complex(parts[:, :, :, 0], parts[:, :, :, 1])


build = Demucs
"""See `models.Build`."""
