"""Programme loudness (ITU-R BS.1770-5, Annex 1) and loudness range (EBU Tech 3342), block by block.

Both need only the energy of the weighted signal in every 100 ms: a gating block of 400 ms is four of them, a
short-term window of 3 s thirty. Windows that are not complete do not count.

Axes: C channels, n frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from splitfire_batch.audio.hops import Hops, hop_frames
from splitfire_batch.audio.k_weighting import Doubles, Floats, KWeighting

_OFFSET_DB = -0.691  # makes up for the weighting's gain at 1 kHz
_GATING_HOPS, _SHORT_TERM_HOPS = 4, 30
_ABSOLUTE_LUFS = -70.0
_RELATIVE_LU, _RANGE_RELATIVE_LU = -10.0, -20.0
_QUIET_PERCENT, _LOUD_PERCENT = 10, 95

_SURROUND = 1.41
_WEIGHTS = {
    1: (1.0,),
    2: (1.0, 1.0),
    3: (1.0, 1.0, 1.0),  # L R C
    4: (1.0, 1.0, _SURROUND, _SURROUND),  # L R Lb Rb
    5: (1.0, 1.0, 1.0, _SURROUND, _SURROUND),  # L R C Lb Rb
    6: (1.0, 1.0, 1.0, 0.0, _SURROUND, _SURROUND),  # L R C LFE Lb Rb
    7: (1.0, 1.0, 1.0, 0.0, 1.0, _SURROUND, _SURROUND),  # L R C LFE Cb Ls Rs
    8: (1.0, 1.0, 1.0, 0.0, 1.0, 1.0, _SURROUND, _SURROUND),  # L R C LFE Lb Rb Ls Rs
}


def default_weights(n_channels: int) -> tuple[float, ...]:
    """Each channel's weight in WAVE's default layout: surrounds at 60 to 120 degrees 1.41, the LFE none.

    The back pair of layouts without side channels counts as surrounds, as in a 5.1 mix.
    """
    return _WEIGHTS[n_channels]


class LoudnessMeter:
    """Loudness of one signal; `weights` are the channels', by default those of `default_weights`."""

    def __init__(self, sample_rate: int, n_channels: int, weights: Sequence[float] | None = None) -> None:
        self._weights = default_weights(n_channels) if weights is None else tuple(weights)
        self._filter = KWeighting(sample_rate, n_channels)
        self._hop_frames = hop_frames(sample_rate)
        self._hops = Hops(self._hop_frames, np.add)

    def add(self, block: Floats, n_frames: int | None = None) -> None:
        """Take the next block (C, n), full scale = 1, n a multiple of STEP_FRAMES.

        Of the last one only the first `n_frames` frames may be given to count; zeros should follow.
        """
        weighted = self._filter.weigh(block)[:, :n_frames]
        power = np.zeros(weighted.shape[1])
        for channel, weight in zip(weighted, self._weights, strict=True):
            if weight:
                squares = np.square(channel, out=channel)
                power += squares if weight == 1 else squares * np.float32(weight)
        self._hops.add(power)

    def integrated(self) -> float | None:
        """LUFS of the whole, gated; None if it is shorter than 400 ms or nowhere above -70 LUFS."""
        powers = self._powers(_GATING_HOPS)
        powers = powers[powers > _power(_ABSOLUTE_LUFS)]
        if not len(powers):
            return None
        relative = powers.mean() * 10 ** (_RELATIVE_LU / 10)
        return _lufs(float(powers[powers > relative].mean()))

    def range(self) -> float | None:
        """Loudness range in LU; None if it is shorter than 3 s or nowhere above -70 LUFS."""
        powers = self._powers(_SHORT_TERM_HOPS)
        powers = powers[powers > _power(_ABSOLUTE_LUFS)]
        if not len(powers):
            return None
        relative = powers.mean() * 10 ** (_RANGE_RELATIVE_LU / 10)
        quiet, loud = np.percentile(powers[powers > relative], (_QUIET_PERCENT, _LOUD_PERCENT))
        return _lufs(float(loud)) - _lufs(float(quiet))

    def _powers(self, n_hops: int) -> Doubles:
        """Mean power of every window of that many hops, one hop apart."""
        hops = self._hops.closed()
        if len(hops) < n_hops:
            return np.zeros(0)
        powers: Doubles = sliding_window_view(hops, n_hops).sum(axis=1) / (n_hops * self._hop_frames)
        return powers


def _lufs(power: float) -> float:
    return _OFFSET_DB + 10 * math.log10(power)


def _power(lufs: float) -> float:
    return float(10 ** ((lufs - _OFFSET_DB) / 10))
