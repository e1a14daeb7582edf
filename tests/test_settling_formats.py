"""One track through everything, for sources and outputs that are not plain WAV or FLAC."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from splitfire_batch.audio.decode import open_audio
from splitfire_batch.config import OutputConfig
from splitfire_batch.manifest.schema import SCHEMA, RunContext, to_table
from splitfire_batch.records import TrackRow
from splitfire_batch.settling import settle
from tests.ffmpeg_files import encode, packed_frames
from tests.material import Shares, noise, track_of, workbench, write


def settled(file: Path, folder: Path, model: object = None, **output: object) -> TrackRow:
    with workbench(folder / "out", model, output=OutputConfig(**output)) as bench:  # type: ignore[arg-type]
        return settle(track_of(file), bench)


def decoded(path: Path) -> np.ndarray:
    with open_audio(path) as decoder:
        return np.concatenate(list(decoder.blocks()))


@pytest.mark.parametrize("name", ["ogg", "opus", "mp3"])
def test_a_lossy_job_keeps_frames_rate_and_channels(tmp_path, name):
    row = settled(write(tmp_path / "a.wav", noise(50_001), 48_000), tmp_path, format=name)
    assert row.status == "done", row.message
    for stem in row.stems:
        path = tmp_path / "out" / stem.path
        assert path.suffix == f".{name}"
        assert (stem.n_frames, stem.sample_rate, stem.n_channels) == (50_001, 48_000, 2)
        assert soundfile.info(path).frames == 50_001
        assert len(packed_frames(path)) == 50_001
    assert row.sum_residual_db is not None
    assert -60 < row.sum_residual_db < -10  # what the codec changed, not what it was given
    assert not row.warnings


TOO_MUCH = [("opus", 44_100, 2), ("mp3", 96_000, 2), ("mp3", 48_000, 6)]


@pytest.mark.parametrize(("name", "rate", "n_channels"), TOO_MUCH)
def test_what_a_format_cannot_carry_is_refused_and_nothing_is_written(tmp_path, name, rate, n_channels):
    row = settled(write(tmp_path / "a.wav", noise(1_000, n_channels), rate), tmp_path, format=name)
    assert (row.status, row.code) == ("failed", "UNSUPPORTED_OUTPUT")
    assert not list((tmp_path / "out").rglob("*.*"))


def test_aac_becomes_flac_of_its_exact_length(tmp_path):
    file = encode(tmp_path / "a.m4a", "aac", noise(50_001).astype(np.float32), 44_100, "stereo")
    row = settled(file, tmp_path)
    assert row.status == "done", row.message
    assert row.source is not None
    assert (row.source.container, row.source.subtype) == ("MP4", "AAC")
    stems = [decoded(tmp_path / "out" / stem.path) for stem in row.stems]
    assert all(Path(stem.path).suffix == ".flac" for stem in row.stems)
    assert all(stem.shape == (50_001, 2) for stem in stems)
    total = sum(stem.astype(np.float64) for stem in stems) / 2**31
    assert np.abs(total - decoded(file)).max() <= 2**-24 + 1e-9  # half a step of 24 bit


@pytest.mark.parametrize("bits", [16, 24])
def test_stems_of_alac_sum_to_its_very_integers(tmp_path, bits):
    least = 1 << (bits - 1)
    x = np.random.default_rng(0).integers(-least // 2, least // 2, (30_000, 2))
    wide = x.astype(np.int16) if bits == 16 else (x << 8).astype(np.int32)
    row = settled(encode(tmp_path / "a.m4a", "alac", wide, 44_100, "stereo"), tmp_path)
    assert row.status == "done", row.message
    total = sum(decoded(tmp_path / "out" / stem.path).astype(np.int64) for stem in row.stems)
    assert np.array_equal(total if bits == 16 else total >> 8, x)
    assert row.sum_residual_db is None
    assert [stem.subtype for stem in row.stems] == [f"PCM_{bits}"] * 2


def test_without_pyav_an_m4a_is_a_row_that_says_what_to_install(tmp_path, monkeypatch):
    file = encode(tmp_path / "a.m4a", "aac", noise(5_000).astype(np.float32), 44_100, "stereo")
    monkeypatch.setitem(sys.modules, "av", None)
    row = settled(file, tmp_path)
    assert (row.status, row.code) == ("failed", "UNSUPPORTED")
    assert row.message is not None
    assert "splitfire-batch[decode]" in row.message


def test_stems_keep_the_mask_of_a_surround_mix(tmp_path):
    x = (noise(20_000, 4) * 32767).astype(np.int16)
    file = encode(tmp_path / "a.wav", "pcm_s16le", x, 48_000, "4.0")
    row = settled(file, tmp_path)
    assert row.source is not None
    assert row.source.channel_mask == 0x107
    for stem in row.stems:
        with av.open(str(tmp_path / "out" / stem.path)) as container:
            assert container.streams.audio[0].layout.name == "4.0"
    total = sum(decoded(tmp_path / "out" / stem.path).astype(np.int64) for stem in row.stems)
    assert np.array_equal(total, x)
    table = to_table([row], RunContext("run", "settings", "catalogue", "model", "weights", "fp32"), "shard")
    assert table.schema == SCHEMA
    assert table["channel_mask"].to_pylist() == [0x107]


@pytest.mark.parametrize("keeps_metadata", [True, False])
def test_a_mask_is_kept_in_flac_and_missed_with_a_warning_in_aiff(tmp_path, keeps_metadata):
    x = (noise(5_000, 4) * 32767).astype(np.int16)
    file = encode(tmp_path / "a.wav", "pcm_s16le", x, 48_000, "4.0")
    row = settled(file, tmp_path, format="flac", metadata=keeps_metadata)
    assert (row.status, row.warnings) == ("done", ())
    for stem in row.stems:
        with open_audio(tmp_path / "out" / stem.path) as decoder:
            assert decoder.format.channel_mask == 0x107
    row = settled(file, tmp_path, format="aiff", metadata=keeps_metadata)
    assert any("0x107" in warning for warning in row.warnings)


def test_a_centre_is_separated_alone_and_a_pair_together(tmp_path):
    """A model that swaps left and right tells which channels it saw as a pair."""

    class Swap(Shares):
        def __call__(self, segments):
            return super().__call__(segments.flip(1))

    x = np.zeros((30_000, 4))
    x[:, 0], x[:, 2], x[:, 3] = 0.4, 0.2, 0.1  # left, centre, centre behind
    file = encode(tmp_path / "a.wav", "pcm_s16le", (x * 32767).astype(np.int16), 44_100, "4.0")
    settled(file, tmp_path, Swap(1.0, 0.0))
    vocals = decoded(tmp_path / "out" / "a_vocals.wav") / 2**15
    assert vocals[15_000] == pytest.approx([0, 0.4, 0.2, 0.1], abs=1e-3)
