"""The STFT of a hybrid Demucs and its inverse: as many columns as there are hops in a segment.

Frames of N, a hop of N/4, periodic Hann, divided by sqrt(N). The segment is mirrored by 3/8 N before it, and
after it up to a whole number of hops and 3/8 N more; the highest bin is dropped. The inverse takes two empty
columns before and after the ones there are, so everywhere in the segment four windows overlap, whose squares
sum to 3/2.

Axes: B batch, C channels, K bins (N/2), T columns, L frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_HOPS = 4
"""In a frame."""
_EMPTY = 2
"""Columns on each side that the inverse takes for silent."""
_SUM_OF_SQUARES = 1.5


class Spectrum:
    """Both transforms, for frames of `fft_frames`, on a device, in float32."""

    def __init__(self, fft_frames: int, device: torch.device) -> None:
        self._n, self._hop = fft_frames, fft_frames // _HOPS
        self._edge = self._hop // 2 * 3
        self._hann = torch.hann_window(fft_frames, dtype=torch.float64).to(device, torch.float32)

    def of(self, segments: Tensor) -> Tensor:
        """The spectrum (B, C, K, T) of segments (B, C, L), complex."""
        n_frames = segments.shape[-1]
        n_columns = -(-n_frames // self._hop)
        edges = self._edge, self._edge + n_columns * self._hop - n_frames
        mirrored = _mirrored(segments, edges).flatten(0, 1)
        spectrum = torch.stft(
            mirrored,
            self._n,
            self._hop,
            window=self._hann,
            center=False,
            normalized=True,
            return_complex=True,
        )
        return torch.unflatten(spectrum[:, :-1], 0, segments.shape[:2])

    def inverse(self, spectrum: Tensor, n_frames: int) -> Tensor:
        """The waveform (..., L) of a spectrum (..., K, T)."""
        columns: Tensor = torch.fft.irfft(spectrum.transpose(-1, -2), n=self._n)
        parts = torch.unflatten(columns, -1, (_HOPS, self._hop))
        window = (self._hann * (self._n**0.5 / _SUM_OF_SQUARES)).view(_HOPS, self._hop)
        n_columns = parts.shape[-3]
        rows = columns.new_zeros((*columns.shape[:-2], n_columns + 2 * _EMPTY + _HOPS - 1, self._hop))
        for shift in range(_HOPS):
            first = _EMPTY + shift
            rows[..., first : first + n_columns, :].addcmul_(parts[..., shift, :], window[shift])
        start = self._n // 2 + self._edge
        waveform: Tensor = rows.flatten(-2)[..., start : start + n_frames]
        return waveform


def _mirrored(segments: Tensor, edges: tuple[int, int]) -> Tensor:
    """With that many mirrored frames before and after; what is too short for it gets zeros around it first,
    as many as it takes, on the right if they fit there.
    """
    lacking = max(edges) - segments.shape[-1] + 1
    if lacking > 0:
        right = min(edges[1], lacking)
        segments = functional.pad(segments, (lacking - right, right))
        edges = edges[0] - (lacking - right), edges[1] - right
    return functional.pad(segments, edges, mode="reflect")
