"""Mixtures of known stems, and one-shots, for benchmarks of separation.

All is drawn from published recordings with fixed seeds, so everyone who runs a benchmark has the same.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from tests.assets import hydrogen_drumkits, musdb_song, music, singing, singularity_music, sonic_pi_samples

Audio = NDArray[np.float32]  # (2, n) at 44.1 kHz

SAMPLE_RATE = 44_100
PAUSE = 0.2
"""Excerpts with a smaller share of the whole recording's level are not used."""


def read_singers() -> list[Audio]:
    """Voices alone: a song's vocals, two solo singers, a choir."""
    choir = sonic_pi_samples() / "ambi_choir.flac"
    return [_song("vocals"), *map(_read, singing()), _read(choir)]


def read_bands() -> list[list[Audio]]:
    """By kind: stems of a song that lie in time with its vocals, loops and hits, pieces of music."""
    names = ("loop_", "guit_", "drum_", "bass_", "bd_", "perc_", "tabla_")
    samples = [path for path in sorted(sonic_pi_samples().glob("*.flac")) if path.name.startswith(names)]
    pieces = sorted(singularity_music().rglob("*.ogg"))
    drums, bass, other = _song("drums"), _song("bass"), _song("other")
    return [
        [drums + bass + other, drums, bass, other],
        [_read(path) for path in samples if "voxy" not in path.name],
        [_read(path, start_s=20, seconds=40) for path in [*music(), *pieces]],
    ]


def make_mixtures(
    singers: list[Audio], bands: list[list[Audio]], seconds: float, count: int
) -> Iterator[tuple[Audio, Audio]]:
    """Vocals and accompaniment (2, n) each, neither of them in a pause."""
    chance, n = random.Random(str(seconds)), round(seconds * SAMPLE_RATE)
    singers = [singer for singer in singers if singer.shape[1] >= n]
    while count:
        singer = chance.choice(singers)
        band = chance.choice([x for x in chance.choice(bands) if x.shape[1] >= n])
        start = chance.randrange(singer.shape[1] - n + 1)
        is_song = band.shape[1] == singer.shape[1]  # then they stay together in time
        first = start if is_song else chance.randrange(band.shape[1] - n + 1)
        vocals, rest = singer[:, start : start + n], band[:, first : first + n]
        if _rms(vocals) < PAUSE * _rms(singer) or _rms(rest) < PAUSE * _rms(band):
            continue
        rest = rest * _rms(vocals) / _rms(rest) * 10 ** (chance.uniform(-6, 6) / 20)
        level = 10 ** (chance.uniform(-24, -12) / 20) / _rms(vocals + rest)
        yield (vocals * level).astype(np.float32), (rest * level).astype(np.float32)
        count -= 1


def one_shots(count: int) -> Iterator[Audio]:
    """Samples up to 3 s without a voice in them."""
    voices = ("choir", "vox", "robot", "phone", "burp", "crow")
    roots = (sonic_pi_samples(), hydrogen_drumkits())
    files = sorted(path for root in roots for path in root.rglob("*") if path.suffix in (".flac", ".wav"))
    random.Random(2).shuffle(files)
    clips = (_read(path) for path in files if not any(voice in path.name for voice in voices))
    return itertools.islice((x for x in clips if x.shape[1] < 3 * SAMPLE_RATE and _rms(x) > 1e-4), count)


def _rms(signal: Audio) -> float:
    return float(np.sqrt(np.mean(signal.astype(np.float64) ** 2)))


def _song(stem: str) -> Audio:
    """A stem of the MUSDB song."""
    index = ("mix", "drums", "bass", "other", "vocals").index(stem)
    with av.open(str(musdb_song())) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=index)], axis=1)


def _read(path: Path, start_s: int = 0, seconds: int | None = None) -> Audio:
    """(2, n) at 44.1 kHz."""
    with soundfile.SoundFile(path) as file:
        file.seek(start_s * file.samplerate)
        samples = file.read(-1 if seconds is None else seconds * file.samplerate, "float32", always_2d=True)
        samples = soxr.resample(samples, file.samplerate, SAMPLE_RATE)
    samples = np.repeat(samples, 2, axis=1) if samples.shape[1] == 1 else samples[:, :2]
    return np.ascontiguousarray(samples.T)
