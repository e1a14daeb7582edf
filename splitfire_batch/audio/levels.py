"""What one signal measures: peaks, loudness, RMS, DC, clipping, silence, width; in one pass over its blocks.

Blocks are cut anew into pieces of one size, so the result is the same, bit for bit, however a signal came.

Axes: C channels, n frames.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitfire_batch.audio.hops import Hops, hop_frames
from splitfire_batch.audio.k_weighting import STEP_FRAMES, Doubles
from splitfire_batch.audio.loudness import LoudnessMeter
from splitfire_batch.audio.true_peak import WINDOW_FRAMES, TruePeakMeter
from splitfire_batch.observations import Levels

SILENT_DB = -60.0
"""100 ms with all samples below this count as silence: where FFmpeg's silencedetect draws the line."""

PIECE_FRAMES = 16 * STEP_FRAMES
"""As long as the blocks that tracks come in: then none has to be joined to another."""
_FILTER_FRAMES = 8 * STEP_FRAMES
"""So many at a time that the C library's heap keeps what the filters need."""
_ROW_FRAMES = 64
"""numpy adds up rows of so many frames fast, frame by frame slowly."""


class LevelMeter:
    """Measures one signal.

    Args:
        sample_rate: in Hz.
        n_channels: 1 to 8.
        bits: depth of integer samples; None for float ones.
        full_scale: the value in the blocks that is 1.0, a power of two.
        is_full: whether loudness and true peak, which cost the most, are wanted.
    """

    def __init__(
        self, sample_rate: int, n_channels: int, bits: int | None, full_scale: float, is_full: bool
    ) -> None:
        self._scale = 1 / full_scale
        self._greatest = full_scale * (1.0 if bits is None else 1 - 2.0 ** (1 - bits))
        self._n_channels = n_channels
        self._held: list[NDArray[Any]] = []
        self._n_held = self._n_frames = 0
        self._loudness = LoudnessMeter(sample_rate, n_channels) if is_full else None
        self._true_peak = TruePeakMeter(n_channels) if is_full else None
        self._sums: Doubles = np.zeros(n_channels)
        self._peak = self._energy = self._product = 0.0
        self._n_clipped = self._n_zeros = 0
        self._runs = [_LongestRun() for _ in range(n_channels)]
        self._highs, self._lows = (Hops(hop_frames(sample_rate), fold) for fold in (np.maximum, np.minimum))

    def add(self, block: NDArray[Any]) -> None:
        """Take the next block (n, C), integers or floats."""
        position = 0
        while position < len(block):
            part = block[position : position + PIECE_FRAMES - self._n_held]
            position += len(part)
            self._n_held += len(part)
            if self._n_held < PIECE_FRAMES:
                self._held.append(part.copy())
            else:
                self._measure(part)

    def levels(self) -> Levels:
        """The result; nothing more may be added."""
        if self._held:
            self._measure(self._held.pop())
        if self._true_peak and self._n_zeros < WINDOW_FRAMES:
            self._true_peak.add(np.zeros((self._n_channels, WINDOW_FRAMES), np.float32))
        n_samples = self._n_frames * self._n_channels
        means = self._scale * self._sums / max(1, self._n_frames)
        return Levels(
            peak_db=_db(self._scale * self._peak),
            true_peak_db=_db(self._true_peak.peak()) if self._true_peak else None,
            loudness_lufs=self._loudness.integrated() if self._loudness else None,
            loudness_range_lu=self._loudness.range() if self._loudness else None,
            rms_db=_db(self._scale * math.sqrt(self._energy / max(1, n_samples))),
            dc_offset=float(means[np.abs(means).argmax()]),
            clipped_samples=self._n_clipped,
            clipped_run=max(run.longest for run in self._runs),
            silence_ratio=self._silence_ratio(),
            side_ratio=self._side_ratio(),
        )

    def _measure(self, part: NDArray[Any]) -> None:
        """Take a piece into account: what is held, and the part behind it; in steps of the blocks."""
        piece = np.concatenate([*self._held, part]) if self._held else np.ascontiguousarray(part)
        self._held, self._n_held = [], 0
        self._n_frames += len(piece)
        peak = max(self._highs.add(piece).max(), -self._lows.add(piece).min())
        self._peak = max(self._peak, float(peak))
        frames = piece.astype(np.float64, copy=False)
        self._add_sums(frames)
        self._count_clipped(frames, peak)
        for start in range(0, len(frames), _FILTER_FRAMES):
            self._filter(piece[start : start + _FILTER_FRAMES])

    def _filter(self, frames: NDArray[Any]) -> None:
        """What needs the channels one by one, full scale = 1."""
        if self._true_peak and self._loudness:
            self._n_zeros = -len(frames) % STEP_FRAMES
            channels = np.zeros((self._n_channels, len(frames) + self._n_zeros), np.float32)
            np.multiply(frames.T, self._scale, out=channels[:, : len(frames)], casting="same_kind")
            self._true_peak.add(channels)
            self._loudness.add(channels, len(frames))

    def _add_sums(self, frames: Doubles) -> None:
        samples = frames.reshape(-1)
        self._energy += float(np.einsum("n,n->", samples, samples))  # not a dot product, which wakes threads
        if self._n_channels == 2:
            self._product += float(np.einsum("n,n->", *frames.T))
        n_in_rows = len(frames) // _ROW_FRAMES * _ROW_FRAMES
        rows = frames[:n_in_rows].reshape(-1, _ROW_FRAMES * self._n_channels)
        self._sums += rows.sum(axis=0).reshape(_ROW_FRAMES, -1).sum(axis=0)
        self._sums += frames[n_in_rows:].sum(axis=0)

    def _count_clipped(self, frames: Doubles, peak: float) -> None:
        if peak < self._greatest:
            for run in self._runs:
                run.end()
            return
        is_clipped = np.abs(frames) >= self._greatest
        self._n_clipped += int(np.count_nonzero(is_clipped))
        for run, channel in zip(self._runs, is_clipped.T, strict=True):
            run.add(channel)

    def _silence_ratio(self) -> float:
        threshold = 10 ** (SILENT_DB / 20) / self._scale
        (last_high, n_last), (last_low, _) = self._highs.last(), self._lows.last()
        closed = np.maximum(self._highs.closed(), -self._lows.closed())
        n_closed = self._n_frames - n_last
        n_silent = n_closed * float(np.mean(closed < threshold)) if len(closed) else 0.0
        return (n_silent + n_last * (max(last_high, -last_low) < threshold)) / max(1, self._n_frames)

    def _side_ratio(self) -> float | None:
        """(L - R)^2 / ((L - R)^2 + (L + R)^2)."""
        if self._n_channels != 2 or not self._energy:
            return None
        return max(0.0, self._energy - 2 * self._product) / (2 * self._energy)


class PeakMeter:
    """Finds nothing but the sample peak of one signal; `full_scale` as for a LevelMeter."""

    def __init__(self, full_scale: float) -> None:
        self._scale, self._peak = 1 / full_scale, 0.0

    def add(self, block: NDArray[Any]) -> None:
        """Take the next block (n, C), integers or floats."""
        self._peak = max(self._peak, sample_peak(block))

    def levels(self) -> Levels:
        """The result."""
        return peak_levels(self._scale * self._peak)


def sample_peak(block: NDArray[Any]) -> float:
    """Highest absolute value, without a copy of the block; NaN if one is."""
    return max(float(block.max(initial=0)), -float(block.min(initial=0)))


def peak_levels(peak: float) -> Levels:
    """Of a signal of which only the sample peak is known; 1.0 is full scale."""
    return Levels(peak_db=_db(peak))


class _LongestRun:
    """Counts consecutive frames, over any number of blocks."""

    def __init__(self) -> None:
        self.longest = self._open = 0

    def add(self, is_in: NDArray[np.bool_]) -> None:
        gaps = np.flatnonzero(~is_in)
        if not len(gaps):
            self._open += len(is_in)
        else:
            first = self._open + int(gaps[0])
            inner = int(np.diff(gaps).max(initial=1)) - 1
            self._open = len(is_in) - 1 - int(gaps[-1])
            self.longest = max(self.longest, first, inner)
        self.longest = max(self.longest, self._open)

    def end(self) -> None:
        self._open = 0


def _db(value: float) -> float | None:
    return 20 * math.log10(value) if value > 0 else None
