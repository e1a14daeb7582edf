"""BS-RoFormer and Mel-Band RoFormer: where their segments lie, and what becomes of their masks.

The estimate of a stem is the inverse STFT of mask * STFT, complex; in Mel-Band RoFormer a bin lies in several
bands, and its mask is their mean. Segments and window are those of the community's inference
(Music-Source-Separation-Training), as formulas: chunks of C frames every s = C / num_overlap, faded linearly
over C / 10 at both ends; the track is mirrored by C - s at its ends, so that every frame lies in as many
chunks. What only one chunk covers is its estimate as it is: the track's own ends have no fade. A track
shorter than a chunk is not mirrored at its beginning.

`tail = "reference"` has every chunk that begins within the track, `"lean"` none after the first that reaches
the end. Neither is exactly the community's, which a stream cannot be, for two of our rules are others: a
track is mirrored from the length of one chunk on (theirs: if longer than 2 * (C - s)), and a chunk that runs
past the mirrored part goes on mirroring at the track's end (theirs: at the padded track's end).
Neither has the chunks that lie in the mirrored part alone, which nothing lands of. Where the
reference standardises the track first (`inference.normalize`) nothing is done: its bands are normalised one
by one, so a RoFormer's estimates scale with the mix whatever its level.

Axes: B batch, S stems, C channels, F STFT columns, K bins, N bins of all bands, L frames of a segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from splitfire_batch.config import SeparationConfig
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.registry import ModelCard
from splitfire_batch.models.roformer_config import RoformerConfig, read_config
from splitfire_batch.models.roformer_network import make_network
from splitfire_batch.models.roformer_package import ZERO_DC
from splitfire_batch.segments import LazySegments, Segment
from splitfire_batch.stems import make_recipes, needed_estimates

_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Ways of a GPU to compute attention, all exact, with one algorithm for each shape: not cuDNN, which looks
for the fastest."""
_FADE_PART = 10
_FLOOR = 2.0**-40
"""Least weight of a frame: nothing beside a weight of 1, and enough to divide by where it is the only one."""


class Roformer:
    """Implements `segments.Model`."""

    def __init__(
        self,
        card: ModelCard,
        weights: Mapping[str, Tensor],
        separation: SeparationConfig,
        arithmetic: Arithmetic,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Build the network.

        Args:
            card: names the stems; its options or its YAML file are the community's config.
            weights: the checkpoint's tensors under its names.
            separation: `overlap` and `tail` are obeyed; only masks that its stems are made of are computed.
            arithmetic: where and how the network computes.
            texts: of the card's files, by name.

        Raises:
            ConfigError: no extra `roformer`, a config that is not one or not possible here, weights that do
                not fit it.
        """
        config = read_config(card, texts or {})
        self.name = card.name
        self.sample_rate = card.sample_rate
        self.n_channels = card.n_channels
        needed = needed_estimates(make_recipes(separation, card.stems))
        self.stems = tuple(stem for stem in card.stems if stem in needed)
        self.device = arithmetic.device
        self.is_for_one_core = self.is_of_any_length = False
        self._chunk = config.chunk_frames
        self._stride = _stride(config, separation.overlap)
        self._is_lean = separation.tail == "lean"
        self._window = _faded(self._chunk)
        self._has_dc = not config.arguments.get(ZERO_DC)
        self._arithmetic = arithmetic
        kept = sorted({_output(config, stem) for stem in self.stems})
        self._outputs = [
            kept.index(_output(config, stem)) if stem in config.outputs else None for stem in self.stems
        ]
        """Which of the masks makes each stem; None for what the only one leaves of the mix."""
        net = make_network(card, config, weights, kept, self.device)
        self._sizes = net.stft_sizes
        self._hann = torch.hann_window(self._sizes["win_length"]).to(self.device)
        self._bins, self._bands_of_bin = _mel_bins(net.mel_bins, self.n_channels, self.device)
        self._net = arithmetic.network(net)

    def segments(self, n_frames: int) -> Sequence[Segment]:
        """Chunks of one length; see `segments.Model.segments`.

        The prefix law holds because a track that is shorter than a chunk has none that ends within it.
        """
        chunk, stride = self._chunk, self._stride
        border = chunk - stride
        first = -border if n_frames >= chunk else 0
        n_all = -(-(n_frames - first) // stride)
        n_lean = 1 + max(0, -(-(n_frames - first - chunk) // stride))
        n = max(1, min(n_all, n_lean) if self._is_lean else n_all)
        least = border + 1 if self._is_lean else 1  # frames of the track that a chunk at its end reads

        def mirrored(index: int) -> Segment:
            return Segment(first + index * stride, chunk, "reflect", n_back=max(0, chunk + 1 - 2 * least))

        def alone(index: int) -> Segment:
            start = index * stride
            return Segment(start, chunk, "reflect" if 2 * (n_frames - start) > chunk else "zeros")

        return LazySegments(n, mirrored if border and first else alone)

    def window(self, segment: Segment) -> Tensor:  # noqa: ARG002
        """Ones (L,) with linear fades; all segments have the same."""
        return self._window

    def __call__(self, segments: Tensor) -> Tensor:
        """Estimates (B, S, C, L) of segments (B, C, L), float32, L the chunk's frames.

        On a CPU an estimate does not depend, by one bit, on what else is in the batch, nor on its size.

        Raises:
            ValueError: the segments have another shape.
        """
        wanted = (self.n_channels, self._chunk)
        if segments.ndim != 3 or tuple(segments.shape[1:]) != wanted:
            raise ValueError(
                f"segments have shape {tuple(segments.shape)}, wanted (B, {wanted[0]}, {wanted[1]})"
            )
        with torch.inference_mode(), self._arithmetic.exactly():
            if self.device.type != "cpu":
                with sdpa_kernel(_ATTENTION):
                    return self._estimates(segments)
            out = segments.new_zeros((len(segments), len(self.stems), *wanted))
            for one in range(len(segments)):  # one chunk has work for all cores, and takes gigabytes
                if segments[one].any():
                    out[one] = self._estimates(segments[one : one + 1])[0]
            return out

    def _estimates(self, segments: Tensor) -> Tensor:
        """(B, C, L) -> (B, S, C, L)."""
        flat = torch.stft(segments.flatten(0, 1), **self._sizes, window=self._hann, return_complex=True)
        spectrum = flat.view(*segments.shape[:2], *flat.shape[1:])
        parts = torch.view_as_real(spectrum).permute(0, 3, 2, 1, 4)  # (B, F, K, C, 2)
        parts = parts if self._bins is None else parts[:, :, self._bins]
        masks: Tensor = self._net(parts.flatten(2))
        masks = torch.view_as_complex(masks.view(*masks.shape[:3], *parts.shape[2:]))  # (B, S, F, N, C)
        masks = self._mean_of_bands(masks).permute(0, 1, 4, 3, 2)
        masked = (spectrum[:, None] * masks).flatten(0, 2)
        masked[:, 0] *= self._has_dc
        signals = torch.istft(masked, **self._sizes, window=self._hann, length=self._chunk)
        outputs = signals.view(*masks.shape[:3], self._chunk)
        found = [segments - outputs[:, 0] if i is None else outputs[:, i] for i in self._outputs]
        return torch.stack(found, dim=1)

    def _mean_of_bands(self, masks: Tensor) -> Tensor:
        """(B, S, F, N, C) -> (B, S, F, K, C); the sums have an order, unlike scattered ones on a GPU."""
        if self._bands_of_bin is None:
            return masks
        padded = torch.cat((masks, torch.zeros_like(masks[:, :, :, :1])), dim=3)
        first, *others = (padded[:, :, :, places] for places in self._bands_of_bin)
        total = sum(others, first)
        n_bands = (self._bands_of_bin < masks.shape[3]).sum(0)
        return total / n_bands[:, None]


build = Roformer
"""See `models.Build`."""


def _stride(config: RoformerConfig, overlap: float | None) -> int:
    """Frames from one chunk to the next, at least 1."""
    if overlap is None:
        return max(1, config.chunk_frames // config.n_overlap)
    return max(1, round((1 - overlap) * config.chunk_frames))


def _output(config: RoformerConfig, stem: str) -> int:
    """Which of the network's estimates a stem is, or is the mix minus."""
    return config.outputs.index(stem) if stem in config.outputs else 0


def _faded(n_frames: int) -> Tensor:
    """The window (n_frames,)."""
    fade = torch.linspace(0, 1, n_frames // _FADE_PART).clamp(min=_FLOOR)
    window = torch.ones(n_frames)
    window[: len(fade)] = fade
    window[n_frames - len(fade) :] = fade.flip(0)
    return window


def _mel_bins(
    indices: Tensor | None, n_channels: int, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """The bin of each of the N places in mel bands, and the places (bands, K) of each bin, N for none."""
    if indices is None:
        return None, None
    bins = indices[::n_channels] // n_channels
    places: list[list[int]] = [[] for _ in range(int(bins.max()) + 1)]
    for place, found in enumerate(bins.tolist()):
        places[found].append(place)
    most = max(map(len, places))
    table = torch.tensor([each + [len(bins)] * (most - len(each)) for each in places])
    return bins.to(device), table.T.contiguous().to(device)
