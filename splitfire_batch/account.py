"""What a run's events add up to: numbers, suspicions, rows of the given up, and when it has had enough."""

from __future__ import annotations

import logging
from dataclasses import asdict

from splitfire_batch.failure_limit import excess
from splitfire_batch.manifest.schema import RunContext
from splitfire_batch.quarantine import Suspicions, record_quarantined
from splitfire_batch.records import (
    Committed,
    Outcome,
    PoolEvent,
    Quarantined,
    ShardDone,
    Started,
    Suspected,
)
from splitfire_batch.report import Tally
from splitfire_batch.staff import Staff
from splitfire_batch.storage import Store

_log = logging.getLogger(__name__)


class Account:
    """Takes every event of a run.

    Args:
        store: the destination.
        context: of the run.
        tally: is added to; `stopped_by` is set once more tracks fail than `max_failures` allows.
        max_failures: see RuntimeConfig.
    """

    def __init__(self, store: Store, context: RunContext, tally: Tally, max_failures: str | None) -> None:
        self._store, self._context, self._max_failures = store, context, max_failures
        self.tally = tally
        self.suspicions = Suspicions(store, context)

    def take(self, event: PoolEvent) -> None:
        """Count an event; the driver's own rows and notes are in the store afterwards."""
        self.tally.hear()
        if isinstance(event, Suspected):
            self.suspicions.note(event)
        elif isinstance(event, Quarantined):
            self._settle(record_quarantined(self._store, event, self._context))
        elif isinstance(event, Committed):
            self._settle(*event.outcomes)
        elif isinstance(event, ShardDone):
            self.tally.add_shard(event)
            self._log_shard(event)
        elif isinstance(event, Started):
            self.tally.begin_work()
        elif isinstance(event, Staff):
            self.tally.workers = event.workers

    def _log_shard(self, done: ShardDone) -> None:
        """One line a shard; the tracks are those of the run so far."""
        stages = " ".join(f"{name}_s={value:.1f}" for name, value in asdict(done.seconds).items())
        _log.info(
            "shard_done run=%s shard=%s wall_s=%.1f busy_s=%.1f %s run_settled=%d run_planned=%d",
            self._context.run_id,
            done.shard_id,
            done.wall_s,
            done.device.busy,
            stages,
            self.tally.progress().n_settled,
            self.tally.n_planned,
        )

    def _settle(self, *outcomes: Outcome) -> None:
        self.suspicions.clear(outcomes)
        for outcome in outcomes:
            self.tally.add(outcome)
        self.tally.stopped_by = excess(self.tally, self._max_failures)
