"""What a plan says before the run comes true, with the real model on real one-shots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from splitfire_batch import job as story
from splitfire_batch.config import CatalogueConfig, RuntimeConfig
from splitfire_batch.job import Job
from splitfire_batch.models.weights import cache_folder
from splitfire_batch.records import Shard, ShardEvent
from splitfire_batch.report import Report
from splitfire_batch.runs import Run
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.throughput import keep_throughput
from tests.small_library import write_one_shots

N_TRACKS = 6


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was measured before, and the weights that are there already."""
    weights = cache_folder()
    weights.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "weights").symlink_to(weights)
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))


def carry_out(run: Run) -> Report:
    """As the flow does, with one worker in this process."""

    def here(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent]:
        worker = spec()
        for shard in shards:
            yield from worker.run_shard(shard)
        worker.close()

    planned = story.save_plan(run)
    report = story.finalise(planned, story.separate(planned, here, lambda _: None))
    keep_throughput(run.job.separation, run.job.runtime, report.usage, report.run_id)
    return report


@pytest.mark.usefixtures("own_cache")
def test_the_second_half_takes_what_the_first_half_let_expect(tmp_path: Path) -> None:
    """Ten times as fast or slow is let pass: there are three short tracks, and the machine has other work.

    What the registry states is further off for one-shots; `python -m tests.benchmarks plan_accuracy` has the
    true margin.
    """
    (tmp_path / "in").mkdir()
    library = write_one_shots(tmp_path / "in", N_TRACKS)
    runtime = RuntimeConfig(workers=1, threads=1, codecs="inline", gpu_hourly=2.0)
    job = Job(str(library.folder), str(tmp_path / "out"), runtime=runtime)
    first = replace(job, catalogue=CatalogueConfig(limit=N_TRACKS // 2))
    unmeasured = story.make_plan(first, story.list_tracks(first))
    assert unmeasured.forecast
    assert not unmeasured.forecast.is_measured
    carry_out(unmeasured)

    run = story.make_plan(job, story.list_tracks(job))
    expected = run.forecast
    report = carry_out(run)

    assert expected
    assert expected.is_measured
    assert report.n_done + report.n_failed == expected.n_tracks  # one of them is no audio
    assert expected.audio_s == pytest.approx(report.audio_s, abs=1e-6)
    assert expected.n_bytes_out == pytest.approx(report.n_bytes_out, rel=0.5)  # headers of tiny files
    assert expected.device_s / 10 < report.device_s < expected.device_s * 10
    record = json.loads((tmp_path / "out" / run.store_path / "run.json").read_text())
    assert record["forecast"]["device_s"] == expected.device_s
    assert record["cost"] == pytest.approx(report.usage.held_s / 3600 * 2.0)
    assert 0 < record["device_s"] <= report.usage.working_s <= report.usage.held_s
    assert "cost per 1,000 tracks" in (tmp_path / "out" / run.store_path / "report.html").read_text()


@pytest.mark.usefixtures("own_cache")
def test_a_plan_reads_a_bucket_by_parts_and_writes_nothing(bucket: str, tmp_path: Path) -> None:
    """The story of `splitfire plan` on S3: lengths from headers, bytes, scratch for copies."""
    library = write_one_shots(tmp_path, 4)
    store = story.open_store(f"{bucket}/in", {})
    for file in library.folder.glob("*.wav"):
        store.write(file.name, file)
    job = Job(f"{bucket}/in", f"{bucket}/out")
    run = story.make_plan(job, story.list_tracks(job))
    seconds = sum(n / 44_100 for n in library.wanted.values() if isinstance(n, int))
    assert run.forecast
    assert run.forecast.audio_s == pytest.approx(seconds, rel=0.01)
    assert run.forecast.durations == {"catalogue": 0, "header": 5, "sample": 0, "size": 0}
    assert run.forecast.scratch_bytes >= run.forecast.n_bytes_in
    assert list(story.open_store(f"{bucket}/out", {}).list()) == []
