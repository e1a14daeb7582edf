"""What runs measured here is what the next plans go by, and nothing measured elsewhere is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from splitfire_batch import throughput
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.forecast import LengthClass, Usage
from splitfire_batch.models import find_card
from splitfire_batch.throughput import (
    START_S,
    UTILISATION,
    find_throughput,
    keep_throughput,
    throughput_file,
)

SPLEETER = SeparationConfig()
LOCAL = RuntimeConfig()
FULL_S = find_card("spleeter-2stems").segment_s
SONGS = LengthClass(7, 10, 1_800.0, 90.0)
SHOTS = LengthClass(-1, 100, 60.0, 12.0)


@pytest.fixture(autouse=True)
def _own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(throughput, "n_cores", lambda: 8)


def usage(*classes: LengthClass, devices: tuple[str, ...] = ("cpu",), threads: int | None = 4) -> Usage:
    return Usage(2, 150.0, 120.0, 10.0, devices, threads, classes)


def keep(
    *classes: LengthClass, runtime: RuntimeConfig = LOCAL, run: str = "20260102T", **more: object
) -> None:
    keep_throughput(SPLEETER, runtime, usage(*classes, **more), run)  # type: ignore[arg-type]


def test_before_any_run_the_registry_is_quoted_and_named():
    found = find_throughput(SPLEETER, LOCAL, 2)
    assert not found.is_measured
    assert "stated in the registry, 30 x real time" in found.source
    assert (found.utilisation, found.start_s) == (UTILISATION, START_S)
    album = LengthClass(8, 12, 3_000.0)
    assert found.device_s(album, FULL_S) == pytest.approx(3_000 / 30, rel=0.01)


def test_what_a_run_measured_is_found_again_class_by_class():
    keep(SONGS, SHOTS)
    found = find_throughput(SPLEETER, LOCAL, 2)
    assert found.is_measured
    assert found.source == "measured in 1 run on this machine (cpu), last on 2026-01-02"
    assert found.device_s(SONGS, FULL_S) == pytest.approx(90.0)
    assert found.device_s(LengthClass(-1, 50, 30.0), FULL_S) == pytest.approx(6.0)
    assert found.utilisation == pytest.approx(102 / 120)
    assert found.start_s == 10.0


def test_lengths_that_no_run_had_are_taken_to_be_like_the_next_ones():
    keep(SONGS)
    found = find_throughput(SPLEETER, LOCAL, 2)
    assert found.device_s(LengthClass(13, 1, 18_000.0), FULL_S) == pytest.approx(900.0, rel=0.01)


def test_a_new_run_counts_twice_as_much_as_the_one_before():
    keep(SONGS)
    keep(LengthClass(7, 10, 1_800.0, 180.0), run="20260103T")
    found = find_throughput(SPLEETER, LOCAL, 2)
    assert found.device_s(SONGS, FULL_S) == pytest.approx((180 + 90 / 2) / 1.5)
    assert "in 2 runs" in found.source
    assert "2026-01-03" in found.source


@pytest.mark.parametrize(
    "separation",
    [
        SeparationConfig(model="spleeter-4stems"),
        SeparationConfig(precision="bf16"),
        SeparationConfig(stems=("vocals",)),
    ],
    ids=["model", "precision", "stems"],
)
def test_other_work_has_its_own_speed(separation: SeparationConfig):
    keep(SONGS)
    assert not find_throughput(separation, LOCAL, 2).is_measured


def test_a_cluster_and_a_gpu_have_their_own_speed():
    cluster = RuntimeConfig(ray="10.0.0.1:6379")
    keep(SONGS)
    keep(LengthClass(7, 10, 1_800.0, 9.0), devices=("NVIDIA H200",), threads=None, runtime=cluster)
    found = find_throughput(SPLEETER, cluster, 16)
    assert found.device_s(SONGS, FULL_S) == pytest.approx(9.0)
    assert "on the cluster 10.0.0.1:6379 (NVIDIA H200)" in found.source
    assert not find_throughput(SPLEETER, RuntimeConfig(device="cuda"), 1).is_measured
    assert not find_throughput(SPLEETER, RuntimeConfig(ray=cluster.ray, device="cpu"), 16).is_measured


def test_a_cpu_worker_with_half_the_threads_takes_twice_the_time():
    keep(SONGS, threads=4)
    assert find_throughput(SPLEETER, LOCAL, 4).device_s(SONGS, FULL_S) == pytest.approx(180.0)


def test_another_machine_with_the_same_home_has_its_own_speed(monkeypatch: pytest.MonkeyPatch):
    keep(SONGS)
    monkeypatch.setattr(throughput, "cpu_name", lambda: "another processor")
    assert not find_throughput(SPLEETER, LOCAL, 2).is_measured


def test_a_run_that_came_to_no_device_is_no_measurement():
    keep()
    assert not throughput_file().exists()


SPOILT = {
    "no JSON": "{",
    "a class without tracks": [0, {"number": 7, "n_tracks": 0, "audio_s": 1.0, "device_s": 1.0}],
    "a number that is none": [0, {"number": "7", "n_tracks": 1, "audio_s": 1.0, "device_s": 1.0}],
    "an unknown field": [0, {"number": 7, "n_tracks": 1, "audio_s": 1.0, "secret": 1.0}],
}


@pytest.mark.parametrize("spoilt", SPOILT.values(), ids=SPOILT.keys())
def test_a_damaged_file_costs_a_warning_and_is_made_anew(spoilt: object, caplog: pytest.LogCaptureFixture):
    keep(SONGS)
    if isinstance(spoilt, list):
        entries = json.loads(throughput_file().read_text())
        entries[0]["classes"] = spoilt[1:]
        spoilt = json.dumps(entries)
    throughput_file().write_text(str(spoilt))
    assert not find_throughput(SPLEETER, LOCAL, 2).is_measured
    assert "throughput_ignored" in caplog.text
    keep(SONGS)
    assert find_throughput(SPLEETER, LOCAL, 2).is_measured


def test_a_cache_that_cannot_be_written_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "file"))
    keep(SONGS)
    assert "throughput_not_kept" in caplog.text
