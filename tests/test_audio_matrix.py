"""Every kind of source through everything a track meets, to written stems: the audio contract as a matrix.

A case draws its rate, channels, length, loudness and output from a seeded generator, ten cases for each kind
of source. What the stems must sum to is read by libsndfile or FFmpeg alone.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from splitfire_batch.audio.formats import CARRIERS, source_bits
from splitfire_batch.config import LOSSY_FORMATS, OutputConfig
from splitfire_batch.models import find_card
from splitfire_batch.models.passthrough import Passthrough
from splitfire_batch.records import TrackRow
from splitfire_batch.settling import settle
from splitfire_batch.storage import open_store
from splitfire_batch.workbench import Workbench
from tests.ffmpeg_files import encode, packed_frames
from tests.material import noise, read_wav, track_of, workbench

RATES = (8_000, 11_025, 12_345, 16_000, 22_050, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000, 176_400,
         192_000, 352_800, 384_000)  # fmt: skip
LENGTHS = (1, 2, 3, 441, 1_023, 1_024, 4_097, 9_999)
CODEC_RATES = {
    "OPUS": (8_000, 12_000, 16_000, 24_000, 48_000),
    "MPEG_LAYER_III": (8_000, 16_000, 22_050, 32_000, 44_100, 48_000),
    "VORBIS": (8_000, 22_050, 44_100, 48_000, 96_000, 192_000),
    "aac": (8_000, 22_050, 44_100, 48_000, 96_000),
}
SNDFILE = {
    "WAV": ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM",
            "MS_ADPCM"),
    "WAVEX": ("PCM_16", "PCM_24", "FLOAT"),
    "RF64": ("PCM_16", "PCM_24", "PCM_32", "FLOAT"),
    "W64": ("PCM_U8", "PCM_24", "FLOAT"),
    "AIFF": ("PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"),
    "CAF": ("PCM_16", "PCM_24", "FLOAT", "ALAC_16", "ALAC_24"),
    "FLAC": ("PCM_S8", "PCM_16", "PCM_24"),
    "OGG": ("VORBIS", "OPUS"),
    "MP3": ("MPEG_LAYER_III",),
}  # fmt: skip
FFMPEG = {"m4a": ("aac", "alac"), "mov": ("pcm_s24be",), "mkv": ("flac",)}
OUTPUTS = [
    *(("source", "source"),) * 4,
    *((name, depth) for name in ("wav", "aiff") for depth in ("source", "16", "24", "32", "float")),
    *(("flac", depth) for depth in ("source", "16", "24")),
    *((name, "source") for name in sorted(LOSSY_FORMATS)),
]
CASES_EACH = 10
VORBIS_ORDER = {
    3: [0, 2, 1],
    5: [0, 2, 1, 3, 4],
    6: [0, 2, 1, 5, 3, 4],
    7: [0, 2, 1, 6, 5, 3, 4],
    8: [0, 2, 1, 7, 5, 6, 3, 4],
}
"""Where Vorbis and Opus have the channels that a WAVE file has in order (Vorbis I §4.3.9, RFC 7845)."""


@dataclass(frozen=True)
class Case:
    """One generated source, and the output asked for."""

    kind: str
    """Container, or the ending of a file that FFmpeg writes."""
    codec: str
    rate: int
    n_channels: int
    n_frames: int
    peak: float
    output: tuple[str, str]
    seed: int

    def __str__(self) -> str:
        name = f"{self.kind}-{self.codec}-{self.rate}x{self.n_channels}-{self.n_frames}"
        return f"{name}-{'-'.join(self.output)}{'-loud' if self.peak > 0.9 else ''}"


def cases() -> list[Case]:
    draw = random.Random(4)
    found = []
    for kind, codecs in {**SNDFILE, **FFMPEG}.items():
        for codec in codecs:
            narrow = "ADPCM" in codec or codec in ("MPEG_LAYER_III", "alac", "flac", "aac", "pcm_s24be")
            for _ in range(CASES_EACH):
                found.append(
                    Case(
                        kind,
                        codec,
                        draw.choice(CODEC_RATES.get(codec, RATES)),
                        draw.randint(1, 2 if narrow else 8),
                        draw.choice(LENGTHS[3:] if kind in FFMPEG or codec == "MPEG_LAYER_III" else LENGTHS),
                        draw.choice((0.5, 0.5, 0.999)),
                        draw.choice(OUTPUTS),
                        len(found),
                    )
                )
    return found


CASES = cases()
LIKE_SOURCE = ("source", "source")
README_CASES = {
    "5-channel-WAV": Case("WAV", "PCM_24", 48_000, 5, 9_999, 0.5, LIKE_SOURCE, 1),
    "96-kHz-24-bit": Case("WAV", "PCM_24", 96_000, 2, 9_999, 0.5, LIKE_SOURCE, 2),
    "44.1-kHz-float": Case("WAV", "FLOAT", 44_100, 2, 9_999, 0.5, LIKE_SOURCE, 3),
}


def make(case: Case, folder: Path) -> Path:
    x = noise(case.n_frames, case.n_channels, case.peak, case.seed)
    if case.kind in FFMPEG:
        wide: NDArray[np.generic] = x.astype(np.float32)
        if case.codec != "aac":
            wide = (np.rint(x * 2**23).astype(np.int32)) << 8
            wide = (wide >> 16).astype(np.int16) if case.codec == "flac" else wide
        layout = "mono" if case.n_channels == 1 else "stereo"
        return encode(folder / f"a.{case.kind}", case.codec, wide, case.rate, layout)
    path = folder / f"a.{case.kind.lower()}"
    soundfile.write(path, x, case.rate, case.codec, format=case.kind)
    return path


def mix_of(path: Path, case: Case) -> NDArray[np.float64]:
    """The source's samples, full scale = 1, by a library that is not ours; doubles as floats."""
    if case.kind in FFMPEG:
        samples = packed_frames(path, advanced_editlist="0")[: case.n_frames]
        scale = {"i": 2.0 ** (8 * samples.dtype.itemsize - 1), "f": 1.0}[samples.dtype.kind]
        return samples.astype(np.float64) / scale
    if source_bits(case.codec):
        return soundfile.read(path, dtype="int32", always_2d=True)[0] * 2.0**-31
    samples = soundfile.read(path, dtype="float32", always_2d=True)[0].astype(np.float64)
    return samples[:, VORBIS_ORDER.get(case.n_channels, slice(None))] if case.kind == "OGG" else samples


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Workbench]:
    model = Passthrough(find_card("passthrough"), torch.device("cpu"), segment_frames=8_192)
    with workbench(tmp_path_factory.mktemp("unused"), model) as made:
        yield made


def separated(bench: Workbench, file: Path, folder: Path, output: tuple[str, str]) -> TrackRow:
    config = OutputConfig(format=output[0], depth=output[1])  # type: ignore[arg-type]
    return settle(track_of(file), replace(bench, output=config, destination=open_store(str(folder), {})))


def check_sum(row: TrackRow, folder: Path, mix: NDArray[np.float64], bits: int | None, slack: float) -> None:
    """Exact, or within half a step (1.5 with dither) of the mix times the gain; `slack` for its decoder."""
    assert row.gain_db is not None
    gain = 10 ** (row.gain_db / 20)
    depth = {"FLOAT": None}.get(row.stems[0].subtype, int(row.stems[0].subtype.partition("_")[2] or 0))
    parts = [soundfile.read(folder / stem.path, dtype="float64", always_2d=True)[0] for stem in row.stems]
    total = np.sum(parts, axis=0)
    assert total.shape == mix.shape
    if depth is None:
        assert row.gain_db == 0
        assert np.abs(total - mix).max() <= 2**-22 + slack  # three float32 roundings near full scale
    elif row.gain_db == 0 and bits is not None and bits <= depth:
        assert np.array_equal(total, mix)
        assert row.sum_residual_db is None
    else:
        steps = 1.5 if depth == 16 else 0.5
        assert np.abs(total - mix * gain).max() <= (steps + 1e-4) * 2.0 ** (1 - depth) + slack


@pytest.mark.parametrize("case", [*CASES, *README_CASES.values()], ids=[*map(str, CASES), *README_CASES])
def test_every_source_gives_stems_of_its_own_shape_that_sum_to_it(bench, tmp_path, case):
    file = make(case, tmp_path)
    mix = mix_of(file, case)
    # a last block of ADPCM is whole, and libsndfile counts the padding of its own 8-bit AIFF files
    if "ADPCM" not in case.codec and (case.kind, case.codec) != ("AIFF", "PCM_S8"):
        assert mix.shape == (case.n_frames, case.n_channels)
    row = separated(bench, file, tmp_path, case.output)
    carrier = CARRIERS.get(case.output[0])
    if carrier and not (carrier.has_rate(case.rate) and case.n_channels <= carrier.max_channels):
        assert (row.status, row.code) == ("failed", "UNSUPPORTED_OUTPUT")
        return
    assert (row.status, row.message) == ("done", None)
    assert row.source is not None
    assert (row.source.n_frames, row.source.n_channels, row.source.sample_rate) == (*mix.shape, case.rate)
    assert [stem.stem for stem in row.stems] == ["vocals", "accompaniment"]
    for stem in row.stems:
        found = soundfile.info(tmp_path / stem.path)
        shape = found.frames, found.channels, found.samplerate
        assert shape == (stem.n_frames, stem.n_channels, stem.sample_rate) == (*mix.shape, case.rate)
    if case.output[0] not in LOSSY_FORMATS:
        slack = 2**-21 if case.kind == "MP3" else 0  # libmpg123 rounds otherwise after a seek
        check_sum(row, tmp_path, mix, source_bits(row.source.subtype), slack)


def test_the_matrix_is_wide():
    assert len(CASES) >= 300
    assert {case.rate for case in CASES} >= set(RATES)
    assert {case.n_channels for case in CASES} == set(range(1, 9))
    assert {case.n_frames for case in CASES} == set(LENGTHS)
    assert {case.output for case in CASES} == set(OUTPUTS)
    assert min(Counter((case.kind, case.codec) for case in CASES).values()) == CASES_EACH


def test_twelve_bits_in_sixteen_stay_what_they_are(bench, tmp_path):
    x = np.random.default_rng(0).integers(-1024, 1024, (5_000, 2)) << 4
    soundfile.write(tmp_path / "a.wav", x.astype(np.int16), 44_100)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    struct.pack_into("<H", data, 34, 12)  # wBitsPerSample; the container of a sample stays 2 bytes
    (tmp_path / "a.wav").write_bytes(data)
    row = separated(bench, tmp_path / "a.wav", tmp_path, ("source", "source"))
    assert row.status == "done", row.message
    total = sum(read_wav(tmp_path / stem.path)[0] for stem in row.stems)
    assert np.array_equal(total, x)
