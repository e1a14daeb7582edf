"""The source's own levels and MD5, the vocals' part of the energy, and every stem's."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from splitfire_batch.engine import Engine
from splitfire_batch.measuring import measure_source, vocals_share_db, with_energy_shares
from splitfire_batch.observations import Levels
from splitfire_batch.records import StemFile
from splitfire_batch.separation import Limits, Separated, separate_file
from splitfire_batch.stopwatch import Stopwatch
from tests.material import MODEL_STEMS, Shares, noise, read_wav, write

BYTES = {"PCM_U8": 1, "PCM_S8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4}


@contextmanager
def separated(file: Path, *shares: float) -> Iterator[Separated]:
    with (
        Engine(Shares(*shares)) as engine,  # type: ignore[arg-type]
        separate_file(file, engine, MODEL_STEMS, Limits(), Stopwatch()) as result,
    ):
        yield result


def stem(name: str, rms_db: float | None) -> StemFile:
    return StemFile(name, name, "WAV", "PCM_16", 44_100, 2, 1, 1, "", "", Levels(rms_db=rms_db))


def shares(*whole: str, **rms_db: float | None) -> dict[str, float | None]:
    stems = with_energy_shares([stem(name, level) for name, level in rms_db.items()], whole)
    return {item.stem: item.energy_share_db for item in stems}


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_the_sources_md5_is_the_one_that_flac_keeps_of_itself(tmp_path, subtype, n_channels):
    file = write(tmp_path / "a.flac", noise(70_000, n_channels), 44_100, subtype)
    with separated(file) as track:
        _, md5 = measure_source(track, "all")
    assert md5 == file.read_bytes()[26:42].hex()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_the_sources_md5_is_that_of_its_samples_whatever_the_container(tmp_path, subtype):
    file = write(tmp_path / "a.wav", noise(70_000), 44_100, subtype)
    samples, _ = read_wav(file)
    data = samples.astype("<f4" if subtype == "FLOAT" else "<i8").tobytes()
    if subtype != "FLOAT":
        octets = np.frombuffer(data, np.uint8).reshape(-1, 8)[:, : BYTES[subtype]]
        data = octets.tobytes()
    with separated(file) as track:
        _, md5 = measure_source(track, "all")
    assert md5 == hashlib.md5(data).hexdigest()  # noqa: S324


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_the_sources_levels_are_those_of_its_own_samples(tmp_path, subtype):
    mix = noise(70_000, peak=0.9)
    mix[:5, 0] = 1.0
    file = write(tmp_path / "a.wav", mix, 44_100, subtype)
    samples, _ = soundfile.read(file, dtype="float64")
    with separated(file) as track:
        levels, _ = measure_source(track, "all")
    assert levels.peak_db == pytest.approx(20 * np.log10(np.abs(samples).max()), abs=1e-6)
    assert levels.rms_db == pytest.approx(10 * np.log10(np.mean(samples**2)), abs=1e-6)
    assert (levels.clipped_samples, levels.clipped_run) == (5, 5)
    assert levels.loudness_lufs is not None


def test_the_cheap_measurement_has_neither_loudness_nor_md5(tmp_path):
    with separated(write(tmp_path / "a.wav", noise(50_000))) as track:
        levels, md5 = measure_source(track, "basic")
    assert (levels.loudness_lufs, levels.true_peak_db, md5) == (None, None, None)
    assert levels.rms_db is not None


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.9])
def test_the_vocals_share_is_their_energy_over_that_of_vocals_and_rest(tmp_path, share):
    with separated(write(tmp_path / "a.wav", noise(70_000)), share, 0.3) as track:
        wanted = 10 * math.log10(share**2 / (share**2 + (1 - share) ** 2))
        assert vocals_share_db(track) == pytest.approx(wanted, abs=1e-4)


def test_silence_has_no_share_of_vocals(tmp_path):
    with separated(write(tmp_path / "a.wav", np.zeros((5_000, 2)))) as track:
        assert vocals_share_db(track) == -math.inf


def test_energy_shares_add_up_to_the_whole():
    found = shares("vocals", "drums", "bass", "other", vocals=-20.0, drums=-23.0, bass=-17.0, other=-30.0)
    assert sum(10 ** (share / 10) for share in found.values()) == pytest.approx(1)
    assert found["bass"] - found["vocals"] == pytest.approx(3)


def test_an_instrumental_beside_all_stems_is_no_part_of_the_whole():
    found = shares("vocals", "accompaniment", vocals=-20.0, accompaniment=-20.0, instrumental=-20.0)
    assert found == pytest.approx(dict.fromkeys(found, 10 * math.log10(0.5)))


def test_vocals_and_instrumental_are_a_whole_and_vocals_alone_are_not():
    assert shares("vocals", "instrumental", vocals=-20.0, instrumental=-20.0) == pytest.approx(
        {"vocals": 10 * math.log10(0.5), "instrumental": 10 * math.log10(0.5)}
    )
    assert shares(vocals=-20.0) == {"vocals": None}


def test_a_silent_stem_has_no_share_and_takes_none():
    found = shares("vocals", "accompaniment", vocals=None, accompaniment=-20.0)
    assert found == {"vocals": None, "accompaniment": 0.0}
    assert shares("vocals", "accompaniment", vocals=None, accompaniment=None) == {
        "vocals": None,
        "accompaniment": None,
    }
