"""A whole job in the process that calls it: list, plan, separate with one worker, finalise; no Ray, Prefect.

What happens is noted in a journal as it happens: every durable operation of a store as it begins and ends,
every track that is started or committed. A crash can be ordered at any of these operations.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from splitfire_batch import closing, runs
from splitfire_batch import job as story
from splitfire_batch.config import CatalogueConfig, OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import SplitfireError, TransientError
from splitfire_batch.job import Job
from splitfire_batch.lease import Lease, Timing, hold
from splitfire_batch.manifest.snapshots import write_snapshot
from splitfire_batch.records import Committed, Quarantined, Shard, ShardEvent, Started
from splitfire_batch.report import Report
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.storage import open_store
from splitfire_batch.vacuum import vacuum
from tests.crash_points import Crash, Journal, watch_stores

MAX_LOOSE = 0
"""Parts that no ledger snapshot may leave out: so few that these small jobs write snapshots."""


@dataclass(frozen=True)
class JobOrder:
    """A job to run, and what is to befall it; called in a fork, it returns the command line's exit code."""

    source: str
    destination: str
    journal: str
    """File to which events are appended."""
    names: str = "auto"
    open_tracks: int = 1
    shard_s: float = 0.01
    """So small that a shard has about two of the tests' tracks, and every job several parts."""
    runtime: dict[str, Any] = field(default_factory=dict)
    model: str = "passthrough"
    offers_weights: bool = False
    """As a run does whose workers may be on other machines."""
    limit: int | None = None
    """Only so many tracks of the source."""
    crash: Crash | None = None
    vacuums: bool = False
    """Afterwards remove everything that no row names and is old enough."""
    vacuum_older_s: float = 0.0
    expire_s: float = 0.5
    """When a silent holder of the lease counts as dead: soon, because the next run waits for it."""
    skew_s: float = 0.0
    """How far the clock of this process is ahead."""
    max_file_bytes: int | None = None
    """No file may grow beyond this: for the process it is as if the disk were full."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables to set, such as the token of a Ray that `runtime` names."""

    def __call__(self) -> int:
        os.environ.update(self.environment)
        self._bend_the_machine()
        journal = Journal(Path(self.journal))
        watch_stores(journal, self.crash)
        timing = Timing(renew_s=self.expire_s / 5, expire_s=self.expire_s, look_s=self.expire_s / 10)
        runs.hold = partial(hold, timing=timing)  # type: ignore[assignment]
        closing.write_snapshot = partial(write_snapshot, max_loose=MAX_LOOSE)
        if self.offers_weights:
            story.needs_offers = lambda _: True
        job = self.job()
        try:
            report = run(job, journal, in_this_process if job.runtime.ray is None else on_its_ray(job))
            if self.vacuums:
                clean(job, timing, self.vacuum_older_s)
        except SplitfireError as error:
            print(f"splitfire: {error}", file=sys.stderr)
            traceback.print_exc()
            return 75 if isinstance(error, TransientError) else 2
        print(json.dumps(report.as_dict()))
        return report.exit_code

    def _bend_the_machine(self) -> None:
        """A clock that is ahead, and a disk that is full, for this process alone."""
        if self.skew_s:
            true_time, true_now, skew = time.time, datetime.now, timedelta(seconds=self.skew_s)
            time.time = lambda: true_time() + self.skew_s
            ahead = type(
                "datetime", (datetime,), {"now": staticmethod(lambda zone=None: true_now(zone) + skew)}
            )
            runs.datetime = ahead  # type: ignore[misc]
        if self.max_file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.max_file_bytes, self.max_file_bytes))

    def job(self) -> Job:
        """The job as the operator would ask for it."""
        runtime = {
            "open_tracks": self.open_tracks,
            "shard_s": self.shard_s,
            "codecs": "inline",
            **self.runtime,
        }
        return Job(
            self.source,
            self.destination,
            SeparationConfig(model=self.model),
            OutputConfig(names=self.names),  # type: ignore[arg-type]
            CatalogueConfig(limit=self.limit),
            RuntimeConfig(**runtime),
        )


def run(job: Job, journal: Journal, run_shards: story.RunShards) -> Report:
    """The steps of the flow."""

    def heard(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent | Quarantined]:
        for event in run_shards(shards, spec):
            if isinstance(event, Started):
                journal.note(event="started", tracks=[event.track_id])
            elif isinstance(event, Committed):
                journal.note(event="committed", tracks=[o.track_id for o in event.outcomes])
            yield event

    story.check(job)
    with story.leased(job, print) as lease:
        planned = story.make_plan(job, story.list_tracks(job), lease=lease)
        journal.note(event="planned", tracks=planned.plan.rows.table()["track_id"].to_pylist())
        if planned.plan.n_tracks:
            planned = story.save_plan(planned)
        tally = story.separate(planned, until_lost(heard, lease), lambda _: None)
        return story.finalise(planned, tally)


def until_lost(run_shards: story.RunShards, lease: Lease) -> story.RunShards:
    """No event is passed on once the lease is lost, as the pool does it."""

    def run_held(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent | Quarantined]:
        for event in run_shards(shards, spec):
            if lease.is_lost.is_set():
                return
            yield event

    return run_held


def clean(job: Job, timing: Timing, older_than_s: float) -> None:
    """What `splitfire vacuum --delete` does."""
    store = open_store(job.destination, job.runtime.storage)
    with hold(store, "vacuum", is_needed=False, timing=timing) as lease:
        print(vacuum(store, lease, older_than_s, is_dry=False))


def in_this_process(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent]:
    """One worker, one shard after the other."""
    worker = spec()
    for shard in shards:
        yield from worker.run_shard(shard)
    worker.close()


def on_its_ray(job: Job) -> story.RunShards:
    """Actors of the Ray that the job names; Ray is imported here, and so only where it is used."""
    from cluster.on_ray import on_ray

    def run_there(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent | Quarantined]:
        with on_ray(job.runtime, threading.Event()) as run_shards:
            yield from run_shards(shards, spec)

    return run_there
