"""From a file to the numbers in its row: judged by other meters on the very files that were written."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pyloudnorm
import pytest
import soundfile
from numpy.testing import assert_array_equal

from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.here import separate_files
from splitfire_batch.manifest.schema import SCHEMA, STEM, RunContext, to_table
from splitfire_batch.models import load_model
from splitfire_batch.observations import Levels
from splitfire_batch.records import StemFile, TrackRow
from splitfire_batch.settling import settle
from tests import assets
from tests.ffmpeg_meter import ffmpeg_levels
from tests.material import Shares, noise, read_wav, track_of, workbench, write

PASSTHROUGH = SeparationConfig(model="passthrough")


def settled(file: Path, folder: Path, model: object = None, **output: object) -> TrackRow:
    with workbench(folder, model, output=OutputConfig(**output)) as bench:  # type: ignore[arg-type]
        return settle(track_of(file), bench)


def check_levels(levels: Levels, file: Path) -> None:
    """The levels are those that numpy, pyloudnorm and FFmpeg find in the file."""
    samples, rate = soundfile.read(file, always_2d=True)
    assert levels.peak_db == pytest.approx(20 * np.log10(np.abs(samples).max()), abs=1e-4)
    assert levels.rms_db == pytest.approx(10 * np.log10(np.mean(samples**2)), abs=1e-4)
    wanted = pyloudnorm.Meter(rate, filter_class="DeMan").integrated_loudness(samples)
    assert levels.loudness_lufs == pytest.approx(wanted, abs=0.02)
    other = ffmpeg_levels(samples[: len(samples) // (rate // 10) * (rate // 10)], rate)
    # of the few windows of a short file FFmpeg takes neighbouring ones for the percentiles
    assert levels.loudness_range_lu == pytest.approx(other.loudness_range_lu, abs=0.5)
    assert levels.true_peak_db == pytest.approx(20 * np.log10(other.true_peak), abs=0.3)


def with_decays(n_frames: int) -> np.ndarray:
    return noise(n_frames) * np.geomspace(1, 0.03, n_frames)[:, None]


@pytest.mark.parametrize(("rate", "subtype"), [(48_000, "PCM_24"), (44_100, "PCM_16")])
def test_a_rows_numbers_are_those_that_other_meters_find_in_its_files(tmp_path, rate, subtype):
    file = write(tmp_path / "a.wav", with_decays(4 * rate), rate, subtype)
    row = settled(file, tmp_path / "out")
    assert row.levels is not None
    check_levels(row.levels, file)
    energies = []
    for stem in row.stems:
        path = tmp_path / "out" / str(stem.path)
        check_levels(stem.levels, path)
        energies.append(np.sum(soundfile.read(path)[0] ** 2))
    wanted = 10 * np.log10(energies / np.sum(energies))
    assert [stem.energy_share_db for stem in row.stems] == pytest.approx(wanted, abs=1e-4)
    assert row.seconds.measure > 0


def test_spleeter_on_a_song_gives_plausible_numbers(tmp_path):
    model = load_model(SeparationConfig(), "cpu")
    row = settled(assets.audio_example(), tmp_path / "out", model)
    assert row.levels is not None
    for stem in row.stems:
        check_levels(stem.levels, tmp_path / "out" / str(stem.path))
        assert -12 < stem.energy_share_db < -0.5  # a song with singing and playing
        assert not stem.is_silent
    assert row.levels.loudness_lufs == pytest.approx(-9.25, abs=0.02)
    assert row.levels.loudness_lufs > max(stem.levels.loudness_lufs for stem in row.stems)
    assert row.qc_flags == ("lossy_source",)
    assert row.levels.true_peak_db > row.levels.peak_db > 0  # an MP3 louder than full scale


def test_every_number_reaches_the_manifest(tmp_path):
    file = write(tmp_path / "a.wav", with_decays(3 * 48_000), 48_000, "PCM_24")
    row = settled(file, tmp_path / "out")
    context = RunContext("run", "id", "/in", "m", "w", "fp32")
    (record,) = to_table([row], context, "shard").to_pylist()
    names = [field.name for field in fields(Levels)]
    assert set(names) <= set(SCHEMA.names)
    assert set(names) <= {field.name for field in STEM}
    assert {name: record[name] for name in names} == pytest.approx(asdict(row.levels), rel=1e-6)
    assert (record["pcm_md5"], record["qc_flags"]) == (row.pcm_md5, [])
    for stem, found in zip(row.stems, record["stems"], strict=True):
        assert {name: found[name] for name in names} == pytest.approx(asdict(stem.levels), rel=1e-6)
        assert found["energy_share_db"] == pytest.approx(stem.energy_share_db, rel=1e-6)
        assert found["is_silent"] is False
        assert set(found) >= {field.name for field in fields(StemFile)} - {"levels"}
    assert record["measure_s"] == pytest.approx(row.seconds.measure, rel=1e-6)


def test_cheap_measurements_change_no_stem(tmp_path):
    file = write(tmp_path / "a.wav", noise(50_000))
    rows = {}
    for measure in ("all", "basic", "none"):
        runtime = RuntimeConfig(measure=measure)  # type: ignore[arg-type]
        (row,) = separate_files([file], str(tmp_path / measure), PASSTHROUGH, OutputConfig(), runtime)
        rows[measure] = row
    for full, basic in zip(rows["all"].stems, rows["basic"].stems, strict=True):
        assert (full.sha256, full.pcm_md5) == (basic.sha256, basic.pcm_md5)
        costly = {"loudness_lufs": None, "loudness_range_lu": None, "true_peak_db": None}
        assert basic.levels == replace(full.levels, **costly)
    for full, bare in zip(rows["all"].stems, rows["none"].stems, strict=True):
        assert (full.sha256, full.is_silent) == (bare.sha256, bare.is_silent)
        assert (full.pcm_md5 is None, bare.pcm_md5) == (False, None)
        assert bare.levels == Levels(peak_db=full.levels.peak_db)
    assert rows["none"].levels == Levels(peak_db=rows["all"].levels.peak_db)
    assert (rows["none"].pcm_md5, rows["none"].qc_flags) == (None, ())
    assert (rows["basic"].pcm_md5, rows["basic"].levels.loudness_lufs) == (None, None)
    assert None not in (rows["all"].pcm_md5, rows["all"].levels.loudness_lufs)


def test_a_silent_stem_that_is_not_wanted_is_not_stored_and_its_entry_says_so(tmp_path):
    file = write(tmp_path / "a.wav", noise(50_000), 44_100, "PCM_24")
    row = settled(file, tmp_path / "out", Shares(5e-4, 1.0), skip_silent_stems=-60)
    assert row.status == "done"
    assert [(stem.stem, stem.path, stem.is_silent) for stem in row.stems] == [
        ("vocals", None, True),
        ("accompaniment", "a_accompaniment.wav", False),
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_accompaniment.wav"]
    assert_array_equal(read_wav(tmp_path / "out/a_accompaniment.wav")[0], read_wav(file)[0])
    assert row.stems[0].energy_share_db == pytest.approx(-66, abs=0.1)


def test_a_silent_track_is_flagged(tmp_path):
    row = settled(write(tmp_path / "a.wav", np.zeros((5_000, 2))), tmp_path / "out")
    assert row.qc_flags == ("silent_all",)
    assert all(stem.is_silent and stem.levels.peak_db is None for stem in row.stems)


@pytest.mark.parametrize(("threshold", "status"), [(-10.0, "done"), (-9.0, "skipped")])
def test_a_track_without_enough_vocals_is_skipped(tmp_path, threshold, status):
    """The vocals are a quarter of the mix: -10 dB of the energy, 0.25^2 / (0.25^2 + 0.75^2)."""
    file = write(tmp_path / "a.wav", noise(50_000))
    row = settled(file, tmp_path / "out", skip_without_vocals=threshold - 0.01)
    assert row.status == status
    if status == "done":
        assert len(row.stems) == 2
        return
    assert (row.code, row.stems, list((tmp_path / "out").glob("*"))) == ("NO_VOCALS", (), [])
    assert row.message == (
        "a.wav: the vocals hold -10.0 dB of the energy, skip_without_vocals asks for -9.01 dB"
    )
    assert row.levels is not None
    assert row.levels.rms_db == pytest.approx(-10.8, abs=0.1)
    assert row.content_id
    assert row.source


def test_tracks_are_judged_by_their_vocals_also_where_only_another_stem_is_wanted(tmp_path):
    file = write(tmp_path / "a.wav", noise(50_000))
    separation = SeparationConfig(stems=("accompaniment",), residual="drop")
    output = OutputConfig(skip_without_vocals=-9)
    with workbench(tmp_path / "out", Shares(0.25, 0.75), separation, output) as bench:
        assert settle(track_of(file), bench).code == "NO_VOCALS"


def test_skipped_and_silent_entries_come_back_from_parquet(tmp_path):
    file = write(tmp_path / "a.wav", noise(50_000), 44_100, "PCM_24")
    silent = settled(file, tmp_path / "one", Shares(5e-4, 1.0), skip_silent_stems=-60)
    skipped = settled(file, tmp_path / "two", skip_without_vocals=-1)
    context = RunContext("run", "id", "/in", "m", "w", "fp32")
    pq.write_table(to_table([silent, skipped], context, "shard"), tmp_path / "part.parquet")
    one, two = pq.read_table(tmp_path / "part.parquet").to_pylist()
    assert (one["stems"][0]["path"], one["stems"][0]["sha256"]) == (None, None)
    assert (two["status"], two["code"], two["is_retryable"], two["stems"]) == (
        "skipped",
        "NO_VOCALS",
        None,
        [],
    )


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "opus", "mp3"])
def test_a_silent_track_may_have_no_stem_at_all_in_any_format(tmp_path, format):
    file = write(tmp_path / "a.wav", np.zeros((30_000, 2)), 48_000)
    row = settled(file, tmp_path / "out", format=format, skip_silent_stems=-60)
    assert (row.status, row.message, row.sum_residual_db) == ("done", None, None)
    assert [stem.path for stem in row.stems] == [None, None]
    assert list((tmp_path / "out").glob("*")) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "output", [{}, {"skip_silent_stems": -60}, {"skip_without_vocals": -30}, {"format": "ogg"}]
)
def test_a_model_that_gives_no_numbers_fails_its_track_and_is_not_taken_for_silence(tmp_path, value, output):
    file = write(tmp_path / "a.wav", noise(50_000), 44_100, "FLOAT")
    row = settled(file, tmp_path / "out", Shares(value, 1.0), **output)
    assert (row.status, row.code) == ("failed", "INTERNAL")
    assert "the model's vocals has NaN or infinite samples near frame 0" in (row.message or "")


def test_stems_of_an_object_that_has_become_silent_or_instrumental_do_not_stay_behind(tmp_path):
    file, out = tmp_path / "a.wav", tmp_path / "out"
    settled(write(file, noise(50_000)), out)
    settled(write(file, noise(40_000)), out, Shares(5e-4, 1.0), skip_silent_stems=-60)
    assert [path.name for path in out.iterdir()] == ["a_accompaniment.wav"]
    assert settled(file, out, skip_without_vocals=-1).status == "skipped"
    assert list(out.iterdir()) == []
