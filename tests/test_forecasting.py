"""A forecast adds up: device time by what was measured, bytes by formats, wall time and cost by workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from splitfire_batch import throughput
from splitfire_batch.catalogue import LISTING
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.forecast import Forecast, LengthClass, Usage, in_classes
from splitfire_batch.forecasting import FLAC_PART, STEM_PART, Terms, forecast, stem_bytes_per_s
from splitfire_batch.lengths import LengthSample
from splitfire_batch.models import find_card
from splitfire_batch.plan import Ledger, Plan, PlanSettings, make_plan
from splitfire_batch.records import AudioFormat
from splitfire_batch.rows import rows_of
from splitfire_batch.throughput import keep_throughput

WAV = AudioFormat("WAV", "PCM_16", 44_100, 2, 0)
TERMS = Terms(SeparationConfig(), OutputConfig(), RuntimeConfig(gpu_hourly=3.6), n_workers=2)
FULL_S = find_card("spleeter-2stems").segment_s


@pytest.fixture(autouse=True)
def _measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Songs of three minutes take a tenth of their length, and keep the device busy for half the time."""
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(throughput, "n_cores", lambda: 4)
    songs = LengthClass(7, 10, 1_800.0, 180.0)
    usage = Usage(2, 400.0, 360.0, 7.0, ("cpu",), 2, (songs,))
    keep_throughput(TERMS.separation, TERMS.runtime, usage, "20260101T")


def plan_of(
    *lengths_s: float, ext: str = "wav", formats: tuple[AudioFormat, ...] = (), **columns: str
) -> Plan:
    rows = [
        {
            **dict.fromkeys(("track_id", "source_id", "uri", "etag"), f"{i}"),
            "path": f"{i}.{ext}",
            "n_bytes": round(s * 176_400),
            "duration_s": s,
            "meta": [],
            **columns,
        }
        for i, s in enumerate(lengths_s)
    ]
    table = pa.Table.from_pylist(rows, LISTING)
    settings = PlanSettings("m", "{name}_{stem}.{ext}", FULL_S, 800.0, n_workers=2)
    plan = make_plan(rows_of(table.to_batches(), LISTING), Ledger(), settings)
    sample = LengthSample(len(lengths_s), formats=tuple((1.0, found) for found in formats))
    return replace(plan, sample=sample)


def test_the_longer_the_audio_the_more_device_time_as_it_was_measured():
    found = forecast(plan_of(*[180.0] * 20), TERMS)
    assert found.audio_s == 3_600
    assert found.device_s == pytest.approx(360.0)
    assert found.wall_s == pytest.approx(7.0 + 360 / 2 / 0.5)
    assert found.is_measured


def test_the_cost_is_that_of_devices_held_and_not_only_of_the_busy_ones():
    found = forecast(plan_of(*[180.0] * 20), TERMS)
    assert found.held_s == pytest.approx(2 * 367.0)
    assert found.cost == pytest.approx(2 * 367.0 / 3600 * 3.6)
    assert found.cost_per_1000_tracks == pytest.approx(found.cost / 20 * 1000)
    assert forecast(plan_of(180.0), replace(TERMS, runtime=RuntimeConfig())).cost is None


def test_a_single_recording_takes_one_worker_all_its_time():
    found = forecast(plan_of(180.0), TERMS)
    assert found.n_workers == 1
    assert found.wall_s == pytest.approx(7.0 + 18.0 / 0.5)


def test_one_long_recording_is_not_shared_among_workers():
    found = forecast(plan_of(18_000.0, *[180.0] * 4), TERMS)
    assert found.wall_s >= 7.0 + 1_800


def test_stems_of_wav_are_as_large_as_it_is():
    found = forecast(plan_of(60.0, 60.0), TERMS)
    assert found.n_bytes_out == pytest.approx(2 * found.n_bytes_in)


def test_headers_tell_the_size_of_stems_where_they_were_read():
    high = AudioFormat("WAV", "PCM_24", 96_000, 2, 0)
    found = forecast(plan_of(100.0, formats=(high,)), TERMS)
    assert found.n_bytes_out == pytest.approx(2 * 100 * 96_000 * 6)


def test_stems_of_flac_are_compressed_as_it_is_unless_their_depth_is_another():
    cd = AudioFormat("FLAC", "PCM_16", 44_100, 2, 0)
    plan = plan_of(100.0, 50.0, ext="flac", formats=(cd,))
    assert forecast(plan, TERMS).n_bytes_out == pytest.approx(2 * plan.n_bytes * STEM_PART)
    deeper = replace(TERMS, output=OutputConfig(depth="24"))
    assert forecast(plan, deeper).n_bytes_out == pytest.approx(2 * 150 * 264_600 * FLAC_PART)


@pytest.mark.parametrize(
    ("output", "per_second"),
    [
        (OutputConfig(), 176_400),
        (OutputConfig(depth="24"), 264_600),
        (OutputConfig(format="flac"), 176_400 * FLAC_PART),
        (OutputConfig(format="mp3"), 25_000),
    ],
    ids=["source", "24-bit", "flac", "mp3"],
)
def test_a_second_of_a_stem_takes_what_its_format_needs(output: OutputConfig, per_second: float):
    assert stem_bytes_per_s(WAV, output) == pytest.approx(per_second)


def test_a_format_that_cannot_carry_the_source_takes_nothing():
    assert stem_bytes_per_s(replace(WAV, sample_rate=96_000), OutputConfig(format="mp3")) == 0


def test_tracks_that_the_listing_shows_to_have_no_stems_take_nothing():
    found = forecast(plan_of(60.0, problem="ARCHIVED: restore it"), TERMS)
    assert (found.n_tracks, found.device_s, found.n_bytes_in, found.wall_s) == (0, 0, 0, 0)
    assert found.cost_per_1000_tracks is None


def test_scratch_holds_the_largest_tracks_that_may_be_open_and_copies_of_remote_ones():
    stems = 2 * 176_400 * 60
    runtime = RuntimeConfig(open_tracks=2, workers=1, audio_mb=1_024)
    terms = replace(TERMS, runtime=runtime, n_workers=1)
    plan = plan_of(60.0, 60.0, 60.0, 1.0)
    assert forecast(plan, terms).scratch_bytes == pytest.approx(2 * stems)
    assert forecast(plan, replace(terms, is_local=False)).scratch_bytes == pytest.approx(3 * stems)


def test_long_tracks_keep_their_mix_and_estimate_on_disk_too():
    terms = replace(TERMS, runtime=RuntimeConfig(open_tracks=1, audio_mb=8), n_workers=1)
    found = forecast(plan_of(60.0), terms)
    assert found.scratch_bytes == pytest.approx(2 * 60 * 176_400 + 60 * (2 + 4) * 88_200)


def test_classes_lose_no_track_and_no_second():
    lengths = pa.array([0.01, 0.3, 1.0, 1.9, 180.0, 10_000.0, 90_000.0]).to_numpy()
    classes = in_classes(lengths, lengths / 10)
    assert sum(item.n_tracks for item in classes) == len(lengths)
    assert sum(item.audio_s for item in classes) == pytest.approx(lengths.sum())
    assert sum(item.device_s for item in classes) == pytest.approx(lengths.sum() / 10)
    assert [item.number for item in classes] == [-3, -2, 0, 7, 13]


def test_json_has_the_price_of_everything():
    found = forecast(plan_of(180.0), TERMS).as_dict()
    assert {"device_s", "wall_s", "held_s", "cost", "cost_per_1000_tracks"} <= found.keys()
    assert Forecast(**{name: found[name] for name in Forecast.__dataclass_fields__}).cost == found["cost"]
