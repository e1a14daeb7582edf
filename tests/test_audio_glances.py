"""A glance at a header tells what decoding the whole file would count, and harms nobody whatever it sees."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from splitfire_batch.audio.glances import glance
from splitfire_batch.errors import TrackError
from splitfire_batch.records import AudioFormat

N_FRAMES = 44_100
FORMATS = [
    ("WAV", "PCM_16", 44_100, 2),
    ("WAV", "PCM_24", 96_000, 1),
    ("WAV", "PCM_U8", 22_050, 2),
    ("WAV", "FLOAT", 48_000, 2),
    ("WAVEX", "PCM_24", 48_000, 6),
    ("WAV", "MS_ADPCM", 44_100, 2),
    ("RF64", "PCM_32", 44_100, 2),
    ("W64", "PCM_16", 44_100, 2),
    ("AIFF", "PCM_16", 44_100, 2),
    ("AIFF", "PCM_24", 96_000, 1),
    ("AIFF", "FLOAT", 48_000, 2),
    ("CAF", "PCM_24", 48_000, 2),
    ("CAF", "ALAC_16", 44_100, 2),
    ("FLAC", "PCM_16", 44_100, 2),
    ("FLAC", "PCM_24", 96_000, 6),
    ("OGG", "VORBIS", 44_100, 2),
    ("OGG", "OPUS", 48_000, 1),
    ("MP3", "MPEG_LAYER_III", 44_100, 2),
    ("MP3", "MPEG_LAYER_III", 22_050, 1),
]
LOOSE = {
    "MPEG_LAYER_III": 4 * 1152,  # whole frames, the encoder's delay and padding among them
    "MS_ADPCM": 2_048,  # whole blocks
}
"""Frames by which a header may differ from what a decoder counts."""


def write(path: Path, container: str, subtype: str, rate: int, n_channels: int) -> bytes:
    noise = np.random.default_rng(1).uniform(-0.3, 0.3, (N_FRAMES, n_channels))
    soundfile.write(path, noise, rate, subtype, format=container)
    return path.read_bytes()


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: f"{form[0]}-{form[1]}-{form[2]}-{form[3]}")
def test_a_header_says_what_libsndfile_counts(form: tuple[str, str, int, int], tmp_path: Path) -> None:
    data = write(tmp_path / "x", *form)
    counted = soundfile.info(tmp_path / "x")
    seen = glance(io.BytesIO(data), len(data))
    assert seen is not None
    assert (seen.sample_rate, seen.n_channels) == (counted.samplerate, counted.channels)
    assert abs(seen.n_frames - counted.frames) <= LOOSE.get(form[1], 0)
    if form[1].startswith("PCM"):
        assert seen.subtype == counted.subtype


def test_little_of_a_long_file_is_read(tmp_path: Path) -> None:
    class Counted(io.BytesIO):
        n_read = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.n_read += len(data)
            return data

    soundfile.write(tmp_path / "x.wav", np.zeros((2_000_000, 2)), 44_100, "PCM_16")
    file = Counted((tmp_path / "x.wav").read_bytes())
    assert glance(file, 8_000_044) == AudioFormat("WAV", "PCM_16", 44_100, 2, 2_000_000)
    assert file.n_read < 80_000


def test_a_length_that_a_streaming_writer_left_open_is_that_of_the_file(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "x.wav", "WAV", "PCM_16", 44_100, 2))
    data[40:44] = b"\0\0\0\0"
    seen = glance(io.BytesIO(data), len(data))
    assert seen is not None
    assert seen.n_frames == N_FRAMES


@pytest.mark.parametrize(("data", "code"), [(b"", "EMPTY"), (b"Dear all, please", "NOT_AUDIO")])
def test_what_is_no_audio_is_refused_with_its_code(data: bytes, code: str) -> None:
    with pytest.raises(TrackError) as refused:
        glance(io.BytesIO(data), len(data))
    assert refused.value.code == code


def test_damage_gives_a_number_or_nothing_and_never_another_error(tmp_path: Path) -> None:
    chance = random.Random(1)
    for form in FORMATS:
        whole = write(tmp_path / "x", *form)
        for _ in range(40):
            data = bytearray(whole[: chance.randrange(1, len(whole))])
            for _ in range(chance.randrange(6)):
                data[chance.randrange(min(200, len(data)))] = chance.randrange(256)
            try:
                seen = glance(io.BytesIO(data), len(data))
            except TrackError:
                continue
            assert seen is None or seen.n_frames >= 0


@pytest.mark.parametrize(
    ("offset", "data"), [(22, b"\0\0"), (22, b"\x09\0"), (24, b"\0\0\0\0"), (24, b"\xff" * 4)]
)
def test_a_header_of_which_no_stems_can_be_made_tells_nothing(
    offset: int, data: bytes, tmp_path: Path
) -> None:
    """No channels, nine, no rate, four billion hertz: the track will fail, and no forecast with it."""
    wav = write(tmp_path / "x.wav", "WAV", "PCM_16", 44_100, 2)
    hostile = wav[:offset] + data + wav[offset + len(data) :]
    assert glance(io.BytesIO(hostile), len(hostile)) is None
