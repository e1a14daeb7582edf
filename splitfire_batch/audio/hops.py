"""One number for each 100 ms of a signal, from values per frame that come in blocks of any size."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

HOPS_PER_S = 10


def hop_frames(sample_rate: int) -> int:
    """Frames of a hop: 100 ms to the nearest frame."""
    return (sample_rate + HOPS_PER_S // 2) // HOPS_PER_S


class Hops:
    """Folds values per frame into one per hop, by `fold`, beginning with 0: np.add, np.maximum, np.minimum.

    It keeps 8 bytes per hop: 80 a second, where the audio itself takes some hundred thousand.
    """

    def __init__(self, n_frames: int, fold: np.ufunc) -> None:
        self._n_frames, self._fold = n_frames, fold
        self._closed = array("d")
        self._open, self._n_open = 0.0, 0

    def add(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Take the next frames' values, (n,) or (n, C); gives what each hop that they touch has come to."""
        if not len(values):
            return np.zeros(0)
        begins = np.arange(-self._n_open, len(values), self._n_frames)
        n_channels = values.size // len(values)
        folded = self._fold.reduceat(values.reshape(-1), np.maximum(begins, 0) * n_channels)
        folded = folded.astype(np.float64)
        folded[0] = self._fold(folded[0], self._open)
        n_behind = self._n_open + len(values)
        self._n_open = n_behind % self._n_frames
        is_open = self._n_open > 0
        self._closed.extend(folded[: len(folded) - is_open])
        self._open = float(folded[-1]) if is_open else 0.0
        return folded

    def closed(self) -> NDArray[np.float64]:
        """The values of all hops that are complete."""
        return np.array(self._closed)

    def last(self) -> tuple[float, int]:
        """The value of the hop that is not complete, and how many frames it has."""
        return self._open, self._n_open
