"""A track that kills whatever touches it, among good ones: real Ray, real worker, real stems and rows."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from cluster.on_ray import on_ray
from splitfire_batch import job as story
from splitfire_batch import worker as worker_module
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.job import Job, Run, RunShards
from splitfire_batch.records import PoolEvent, Suspected
from splitfire_batch.report import Report
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.worker import Worker

POISON = "poison.wav"


@dataclass(frozen=True)
class PoisonedSpec(WorkerSpec):
    """Its worker is killed, as by a broken codec, whenever it begins the poisoned track."""

    def __call__(self) -> Worker:
        settle = worker_module.settle

        def settle_or_die(track: Any, bench: Any, begin: Any) -> Any:
            def begin_and_die() -> None:
                begin()
                if track.path == POISON:
                    os.kill(os.getpid(), signal.SIGKILL)

            return settle(track, bench, begin_and_die)

        worker_module.settle = settle_or_die
        return Worker(self)


def poisoned(run_shards: RunShards) -> RunShards:
    """The same with a worker that the poison kills."""

    def run(shards: Any, spec: WorkerSpec) -> Iterator[PoolEvent]:
        fields = {name: getattr(spec, name) for name in WorkerSpec.__dataclass_fields__}
        return run_shards(shards, PoisonedSpec(**fields))

    return run


def make_library(folder: Path, n_good: int) -> Path:
    """One-shots of half a second, and one more that is poisoned."""
    chance = np.random.default_rng(1)
    (folder / "source").mkdir()
    for name in (POISON, *(f"good {number:02}.wav" for number in range(n_good))):
        soundfile.write(folder / "source" / name, 0.2 * chance.standard_normal((22_050, 2)), 44_100)
    return folder


def plan(library: Path, model: str) -> Run:
    job = Job(str(library / "source"), str(library / "out"), SeparationConfig(model=model))
    job = replace(job, runtime=RuntimeConfig(workers=1))
    story.check(job)
    run = story.make_plan(job, story.list_tracks(job))
    story.save_plan(run)
    return run


def check(report: Report, library: Path, n_good: int) -> None:
    """All good ones done and innocent, 1 given up, and every stem as its row says."""
    assert (report.n_done_before + report.n_done, report.n_failed, report.n_unsettled) == (n_good, 1, 0)
    rows = pq.read_table(library / "out/_splitfire/views/tracks.parquet").to_pylist()
    failed = [row for row in rows if row["status"] == "failed"]
    assert [(row["path"], row["code"], row["attempts"]) for row in failed] == [(POISON, "WORKER_CRASH", 2)]
    assert "died" in failed[0]["message"]
    done = [row for row in rows if row["status"] == "done"]
    assert [row["attempts"] for row in done] == [0] * n_good
    for stem in (stem for row in done for stem in row["stems"]):
        data = (library / "out" / stem["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == stem["sha256"]


@pytest.mark.slow
def test_fifty_good_ones_are_done_and_one_is_given_up_after_two_deaths(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the gate `test_pool` does it, with a worker that only counts."""
    library = make_library(tmp_path, 50)
    run = plan(library, "spleeter-2stems")
    with on_ray(run.job.runtime, Event()) as run_shards, caplog.at_level(logging.WARNING, "cluster.pool"):
        tally = story.separate(run, poisoned(run_shards), lambda _: None)
    check(story.finalise(run, tally), library, 50)
    assert caplog.text.count("worker_lost") == 2
    assert caplog.text.count("cause=death") == 2


@pytest.mark.slow
def test_a_run_that_dies_of_the_poison_too_leaves_it_a_suspect_to_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = make_library(tmp_path, 50)
    run = plan(library, "passthrough")

    def until_suspected(shards: Any, spec: WorkerSpec) -> Iterator[PoolEvent]:
        with closing(poisoned(run_shards)(shards, spec)) as events:  # type: ignore[type-var]
            for event in events:
                yield event
                if isinstance(event, Suspected):
                    return

    with on_ray(run.job.runtime, Event()) as run_shards:
        story.separate(run, until_suspected, lambda _: None)  # it has no end of its own: no finalise
    caplog.clear()
    run = plan(library, "passthrough")
    with on_ray(run.job.runtime, Event()) as run_shards, caplog.at_level(logging.WARNING, "cluster.pool"):
        tally = story.separate(run, poisoned(run_shards), lambda _: None)
    check(story.finalise(run, tally), library, 50)
    assert caplog.text.count("worker_lost") == 1
