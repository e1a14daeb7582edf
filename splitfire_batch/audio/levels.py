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

_PIECE_FRAMES = 2 * STEP_FRAMES


class LevelMeter:
    """Measures one signal.

    Args:
        sample_rate: in Hz.
        n_channels: 1 to 8.
        bits: depth of integer samples; None for float ones.
        full_scale: the value in the blocks that is 1.0.
        is_full: whether loudness and true peak, which cost the most, are wanted.
    """

    def __init__(
        self, sample_rate: int, n_channels: int, bits: int | None, full_scale: float, is_full: bool
    ) -> None:
        self._scale = 1 / full_scale
        self._greatest = 1.0 if bits is None else 1 - 2.0 ** (1 - bits)
        self._piece: Doubles = np.zeros((n_channels, _PIECE_FRAMES))
        self._n_held = self._n_frames = 0
        self._loudness = LoudnessMeter(sample_rate, n_channels) if is_full else None
        self._true_peak = TruePeakMeter(n_channels) if is_full else None
        self._peak = 0.0
        self._sums, self._energies = np.zeros(n_channels), np.zeros(n_channels)
        self._product = 0.0
        self._n_clipped = 0
        self._runs = [_LongestRun() for _ in range(n_channels)]
        self._hop_peaks = Hops(hop_frames(sample_rate), np.maximum)

    def add(self, block: NDArray[Any]) -> None:
        """Take the next block (n, C), integers or floats."""
        position = 0
        while position < len(block):
            part = block[position : position + _PIECE_FRAMES - self._n_held]
            position += len(part)
            np.multiply(part.T, self._scale, out=self._piece[:, self._n_held : self._n_held + len(part)])
            self._n_held += len(part)
            if self._n_held == _PIECE_FRAMES:
                self._measure()

    def levels(self) -> Levels:
        """The result; nothing more may be added."""
        if self._n_held:
            self._measure()
        if self._true_peak:
            self._true_peak.add(np.zeros((len(self._piece), WINDOW_FRAMES)))
        n_samples = self._n_frames * len(self._piece)
        energy = float(self._energies.sum())
        means = self._sums / max(1, self._n_frames)
        return Levels(
            peak_db=_db(self._peak),
            true_peak_db=_db(self._true_peak.peak()) if self._true_peak else None,
            loudness_lufs=self._loudness.integrated() if self._loudness else None,
            loudness_range_lu=self._loudness.range() if self._loudness else None,
            rms_db=_db(math.sqrt(energy / max(1, n_samples))),
            dc_offset=float(means[np.abs(means).argmax()]),
            clipped_samples=self._n_clipped,
            clipped_run=max(run.longest for run in self._runs),
            silence_ratio=self._silence_ratio(),
            side_ratio=self._side_ratio(),
        )

    def _measure(self) -> None:
        """Take the piece into account, what it holds of it."""
        n_frames, self._n_held = self._n_held, 0
        self._n_frames += n_frames
        self._piece[:, n_frames:] = 0.0
        frames = self._piece[:, :n_frames]
        self._sums += frames.sum(axis=1)
        self._energies += np.einsum("cn,cn->c", frames, frames)  # not a dot product, which wakes threads
        if len(frames) == 2:
            self._product += float(np.einsum("n,n->", *frames))
        magnitudes = np.abs(frames)
        loudest = magnitudes.max(axis=0)
        self._peak = max(self._peak, peak := float(loudest.max()))
        self._hop_peaks.add(loudest)
        self._count_clipped(magnitudes, peak)
        whole = self._piece[:, : -(-n_frames // STEP_FRAMES) * STEP_FRAMES]
        if self._true_peak:
            self._true_peak.add(whole)
        if self._loudness:
            self._loudness.add(whole, n_frames)

    def _count_clipped(self, magnitudes: Doubles, peak: float) -> None:
        if peak < self._greatest:
            for run in self._runs:
                run.end()
            return
        is_clipped = magnitudes >= self._greatest
        self._n_clipped += int(np.count_nonzero(is_clipped))
        for run, channel in zip(self._runs, is_clipped, strict=True):
            run.add(channel)

    def _silence_ratio(self) -> float:
        threshold = 10 ** (SILENT_DB / 20)
        last_peak, n_last = self._hop_peaks.last()
        closed = self._hop_peaks.closed()
        n_closed = self._n_frames - n_last
        n_silent = n_closed * float(np.mean(closed < threshold)) if len(closed) else 0.0
        return (n_silent + n_last * (last_peak < threshold)) / max(1, self._n_frames)

    def _side_ratio(self) -> float | None:
        """(L - R)^2 / ((L - R)^2 + (L + R)^2)."""
        energy = float(self._energies.sum())
        if len(self._energies) != 2 or not energy:
            return None
        return max(0.0, energy - 2 * self._product) / (2 * energy)


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
