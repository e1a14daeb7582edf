"""A worker that is killed after it put a part and before it could tell: nothing of the part is done again."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import soundfile

from cluster.on_ray import on_ray
from splitfire_batch import job as story
from splitfire_batch import worker as worker_module
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.errors import TransientError
from splitfire_batch.manifest.outcomes import outcome_of, recorded
from splitfire_batch.manifest.parts import read_parts, write_part
from splitfire_batch.manifest.schema import RunContext, to_table
from splitfire_batch.records import AudioFormat, Committed, PoolEvent, Started, StemFile, Track, TrackRow
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.storage import Store, open_store
from splitfire_batch.worker import Worker

N_TRACKS = 24
CONTEXT = RunContext("run", "settings", "catalogue", "passthrough", "weights", "fp32")


@dataclass(frozen=True)
class MuteSpec(WorkerSpec):
    """Its first worker dies as soon as its first part is in the store."""

    def __call__(self) -> Worker:
        put, mark = worker_module.write_part, Path(self.destination).with_name("has-died")

        def put_and_die(store: Store, table: Any) -> str:
            path = put(store, table)
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return path

        worker_module.write_part = put_and_die
        return Worker(self)


class UnreadableSpec(MuteSpec):
    """The same; the driver cannot read what there is."""

    def recorded(self, shard_id: str) -> Any:
        raise TransientError(f"the store is away ({shard_id})")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    chance = np.random.default_rng(1)
    (tmp_path / "source").mkdir()
    for number in range(N_TRACKS):
        audio = 0.2 * chance.standard_normal((4_410, 2))
        soundfile.write(tmp_path / f"source/{number:02}.wav", audio, 44_100)
    return tmp_path


def run_muted(library: Path, kind: type[WorkerSpec]) -> tuple[list[PoolEvent], list[str]]:
    """The events of the run, and the track of every row there is."""
    job = make_job(library)
    story.check(job)
    run = story.make_plan(job, story.list_tracks(job))
    story.save_plan(run)
    events: list[PoolEvent] = []
    with on_ray(job.runtime, Event()) as run_shards:

        def mute(shards: Any, spec: WorkerSpec) -> Iterator[PoolEvent]:
            fields = {name: getattr(spec, name) for name in WorkerSpec.__dataclass_fields__}
            for event in run_shards(shards, kind(**fields)):
                events.append(event)
                yield event

        report = story.finalise(run, story.separate(run, mute, lambda _: None))
    assert (report.n_done, report.n_failed, report.n_unsettled) == (N_TRACKS, 0, 0)
    return events, read_parts(open_store(job.destination, {}))["path"].to_pylist()


def make_job(library: Path) -> story.Job:
    job = story.Job(str(library / "source"), str(library / "out"), SeparationConfig(model="passthrough"))
    return replace(job, runtime=RuntimeConfig(workers=1))


def test_what_a_dead_worker_put_is_read_back_and_not_done_again(
    library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "cluster.pool"):
        events, rows = run_muted(library, MuteSpec)
    assert caplog.text.count("worker_lost") == 1
    assert caplog.text.count("read_back") == 1
    assert sorted(rows) == [f"{number:02}.wav" for number in range(N_TRACKS)]
    told = [outcome for event in events if isinstance(event, Committed) for outcome in event.outcomes]
    assert len({outcome.track_id for outcome in told}) == len(told) == N_TRACKS
    assert all(outcome.n_bytes_out > 4_410 and outcome.audio_s == pytest.approx(0.1) for outcome in told)
    first = next(event for event in events if isinstance(event, Committed))
    starts = [event.track_id for event in events if isinstance(event, Started)]
    assert all(starts.count(outcome.track_id) == 1 for outcome in first.outcomes)


@pytest.mark.slow
def test_a_store_that_does_not_answer_costs_a_second_row_and_no_track(
    library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, rows = run_muted(library, UnreadableSpec)
    assert "not_read_back" in caplog.text
    assert len(rows) > N_TRACKS
    assert sorted(set(rows)) == [f"{number:02}.wav" for number in range(N_TRACKS)]


def make_row(name: str) -> TrackRow:
    track = Track(name, name, f"mem://{name}", name, 9, "", "{stem}.{ext}")
    stem = StemFile("vocals", f"{name}.vocals.wav", "WAV", "PCM_16", 8_000, 1, 4_000, 8_044, "", "")
    source = AudioFormat("WAV", "PCM_16", 8_000, 1, 4_000)
    return TrackRow(track, "done", source=source, stems=(stem, stem), started_at=1.0, finished_at=2.0)


def test_only_the_parts_of_the_very_shard_and_run_are_read(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), {})
    for run_id, shard_id, names in [
        ("run", "00001", ["a", "b"]),
        ("run", "00001", ["c"]),
        ("run", "00001-retry1", ["d"]),
        ("run", "000011", ["e"]),
        ("other", "00001", ["f"]),
    ]:
        table = to_table([make_row(name) for name in names], replace(CONTEXT, run_id=run_id), shard_id)
        write_part(store, table)
    failed = TrackRow(make_row("g").track, "failed", "DECODE_ERROR", "why", finished_at=3.0)
    write_part(store, to_table([failed], CONTEXT, "00001-retry2"))

    assert set(recorded(store, CONTEXT, "00001")) == {outcome_of(make_row(name)) for name in "abc"}
    assert recorded(store, CONTEXT, "00001-retry1") == (outcome_of(make_row("d")),)
    assert recorded(store, CONTEXT, "00001-retry2") == (outcome_of(failed),)
    assert recorded(store, CONTEXT, "00002") == ()
