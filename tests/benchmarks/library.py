"""What benchmarks separate: real music, looped to any length, and real one-shots, as tracks of a shard."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitfire_batch.records import Track
from tests.assets import audio_example, hydrogen_drumkits, music, sonic_pi_samples
from tests.material import track_of

RATE = 44_100
_BLOCK_FRAMES = 65_536


def one_shot_files() -> list[Path]:
    """The 833 samples of sonic-pi and hydrogen, in the order of their paths."""
    roots = (sonic_pi_samples(), hydrogen_drumkits())
    return sorted(path for root in roots for path in root.rglob("*") if path.suffix in (".flac", ".wav"))


def cycled_one_shots(n: int, period: int) -> tuple[Track, ...]:
    """`n` tracks: the same seeded choice of `period` one-shots again and again, each a track of its own.

    Track i and track i + period are the same audio, so what is measured at both can be compared.
    """
    chosen = [track_of(path) for path in random.Random(1).sample(one_shot_files(), period)]
    return tuple(_named(track, f"{i:016x}") for i, track in enumerate(islice(cycle(chosen), n)))


def write_long_track(path: Path, seconds: float) -> Track:
    """Two pieces of music in turn, as a FLAC of exactly that length; nothing is held in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = round(seconds * RATE)
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
        for block in _endless_music():
            file.write(block[:left])
            left -= len(block)
            if left <= 0:
                break
    return _named(track_of(path), f"{round(seconds):016x}")


def whole_music(index: int = 1, seconds: float | None = None) -> NDArray[np.float32]:
    """One of the two pieces, or its beginning, as float32 (frames, 2) at 44.1 kHz."""
    frames = -1 if seconds is None else round(seconds * RATE)
    samples, rate = soundfile.read(music()[index], frames=frames, dtype="float32")
    assert rate == RATE
    return np.ascontiguousarray(samples)


def looped_song(seconds: float) -> NDArray[np.float32]:
    """Spleeter's own example, a song with a voice, again and again: float32 (frames, 2) at 44.1 kHz."""
    samples, rate = soundfile.read(audio_example(), dtype="float32")
    assert rate == RATE
    return np.resize(samples, (round(seconds * RATE), 2))


def blocks_of(mix: NDArray[np.float32], n_frames: int = _BLOCK_FRAMES) -> Sequence[Tensor]:
    """A mix (frames, 2) as the engine takes it: blocks (1, 2, n)."""
    return torch.from_numpy(mix.T.copy())[None].split(n_frames, dim=-1)


def _endless_music() -> Iterator[NDArray[np.float64]]:
    for path in cycle(music()):
        yield from soundfile.blocks(path, blocksize=_BLOCK_FRAMES)


def _named(track: Track, track_id: str) -> Track:
    """The same audio as a track of its own."""
    target = f"{track_id}_{{stem}}.{{ext}}"
    return replace(track, track_id=track_id, source_id=f"source-{track_id}", target=target)
