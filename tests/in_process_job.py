"""A whole job in the process that calls it: list, plan, separate with one worker, finalise; no Ray, Prefect.

What happens is noted in a journal as it happens: every durable operation of a store as it begins and ends,
every track that is started or committed. A crash can be ordered at any of these operations.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitfire_batch import job as story
from splitfire_batch.config import CatalogueConfig, OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError, SplitfireError, TransientError
from splitfire_batch.job import Job
from splitfire_batch.records import Committed, Shard, ShardEvent, Started
from splitfire_batch.report import Report
from splitfire_batch.spec import WorkerSpec
from tests.crash_points import Crash, Journal, watch_stores


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
    limit: int | None = None
    """Only so many tracks of the source."""
    crash: Crash | None = None

    def __call__(self) -> int:
        journal = Journal(Path(self.journal))
        watch_stores(journal, self.crash)
        try:
            report = run(self.job(), journal)
        except SplitfireError as error:
            print(f"splitfire: {error}", file=sys.stderr)
            traceback.print_exc()
            return 75 if isinstance(error, TransientError) else 2 if isinstance(error, ConfigError) else 1
        print(json.dumps(report.as_dict()))
        return report.exit_code

    def job(self) -> Job:
        """The job as the operator would ask for it."""
        runtime = {"open_tracks": self.open_tracks, "shard_s": self.shard_s, **self.runtime}
        return Job(
            self.source,
            self.destination,
            SeparationConfig(model="passthrough"),
            OutputConfig(names=self.names),  # type: ignore[arg-type]
            CatalogueConfig(limit=self.limit),
            RuntimeConfig(**runtime),
        )


def run(job: Job, journal: Journal) -> Report:
    """The steps of the flow."""

    def here(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent]:
        worker = spec()
        for shard in shards:
            for event in worker.run_shard(shard):
                if isinstance(event, Started):
                    journal.note(event="started", tracks=[event.track_id])
                elif isinstance(event, Committed):
                    journal.note(event="committed", tracks=[o.track_id for o in event.outcomes])
                yield event
        worker.close()

    story.check(job)
    planned = story.make_plan(job, story.list_tracks(job))
    journal.note(event="planned", tracks=planned.plan.tracks["track_id"].to_pylist())
    if len(planned.plan.tracks):
        story.save_plan(planned)
    tally = story.separate(planned, here, lambda _: None)
    return story.finalise(planned, tally)
