"""What decoders make of lossy stems: their exact length, their peak, and how far they are from the mix.

A codec changes samples, so what the encoder was given says neither whether a decoder will clip nor how well
the stems sum to the mix. They are decoded again, side by side with the mix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splitfire_batch.audio.decode import open_audio
from splitfire_batch.errors import StorageError, TrackError

BLOCK_FRAMES = 65_536


@dataclass(frozen=True, slots=True)
class Heard:
    """Stems as decoded: the highest absolute value of all, and the level of their sum minus the mix."""

    peak: float
    residual_db: float | None
    """RMS relative to full scale; None for digital silence."""


def read_back(
    files: Mapping[str, Path], mix: Iterable[NDArray[np.floating]], summed: frozenset[str]
) -> Heard:
    """Decode all the files of a track.

    Args:
        files: the written file of each stem.
        mix: what the stems `summed` are to add up to, full scale = 1, in blocks (BLOCK_FRAMES, C), the last
            one shorter.
        summed: names of those stems.

    Raises:
        StorageError: a file does not read back, or not to its last frame.
    """
    folder = str(next(iter(files.values())).parent)
    peak = energy = 0.0
    n_samples = 0
    try:
        with ExitStack() as stack:
            streams = [stack.enter_context(open_audio(path)).blocks(BLOCK_FRAMES) for path in files.values()]
            for block, *decoded in zip(mix, *streams, strict=True):
                residual = -block.astype(np.float64)
                for stem, heard in zip(files, decoded, strict=True):
                    if heard.shape != block.shape:
                        raise ValueError(
                            f"{stem} has another block of {len(heard)} frames, wanted {len(block)}"
                        )
                    peak = max(peak, float(np.abs(heard).max(initial=0)))
                    if stem in summed:
                        residual += heard
                values = residual.reshape(-1)
                energy += float(np.einsum("i,i->", values, values))
                n_samples += values.size
    except (TrackError, ValueError) as error:
        raise StorageError(folder, f"the stems do not read back as they were written: {error}") from error
    return Heard(peak, 10 * math.log10(energy / n_samples) if energy > 0 else None)
