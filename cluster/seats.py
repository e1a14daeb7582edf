"""The places of a pool: one actor each, and how far that one is on its way from starting to being lost."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from cluster.actors import MAX_SHARDS, RemoteWorker
from cluster.ledger import Blame, Ledger
from cluster.losses import Lost
from cluster.nodes import is_alive

MAX_FALSE_STARTS = 5
"""An actor that was replaced this often without beginning a track is not replaced again."""
START_S = 900.0
"""A process that has not loaded its model by then hangs; weights may come from afar."""
ASK_S = 30.0
"""A worker that does not answer is given so long; Ray counts a node out after half of it."""


@dataclass(slots=True)
class Seat:
    """The place of one actor, and the state of the one that has it."""

    worker: RemoteWorker
    n_false_starts: int
    has_begun: bool = False
    """The actor has begun or settled a track."""
    is_taking: bool = True
    """Its youngest shard has no more tracks to admit, or it has none."""
    is_alone: bool = False
    """It runs a suspect, and must not be given anything else."""
    is_leaving: bool = False
    """Its node is about to be taken away: it finishes what it can."""
    lost: Lost | None = None
    lost_since: float = 0.0
    raised: tuple[str, ...] = ()
    """Shards whose streams ended with the loss itself; those of the others ended because of it."""
    lost_shards: list[str] = field(default_factory=list)
    process_since: float | None = None
    n_settled: int = 0
    """Tracks that the actor committed."""

    @property
    def can_take(self) -> bool:
        """Whether it may be sent a shard."""
        n_shards = len(self.worker.shard_ids)
        if not self.worker.has_started or self.lost or self.is_leaving or self.is_alone:
            return False
        return n_shards == 0 or (self.is_taking and n_shards < MAX_SHARDS)

    @property
    def is_unclear(self) -> bool:
        """It is lost, and it is not known yet whether it lives."""
        return self.lost is not None and self.lost.cause == "unclear"

    @property
    def verdict(self) -> Lost | None:
        """Why it was lost, once that is known and nothing more will come of it."""
        return None if self.is_unclear or self.worker.shard_ids else self.lost

    def lose(self, lost: Lost) -> None:
        """Take down the loss, and end the process unless it must be asked first."""
        if self.is_leaving and lost.cause != "outage":
            lost = Lost("preemption", lost.why)
        elif lost.cause == "death" and self.worker.node_id and not is_alive(self.worker.node_id):
            lost = Lost("node", lost.why)
        if self.lost is None:
            self.lost_since, self.raised = time.monotonic(), tuple(self.lost_shards)
        self.lost = lost
        if not self.is_unclear:
            self.worker.kill()

    def blame(self, lost: Lost, ledger: Ledger) -> Blame:
        """Whom the loss is charged to.

        A death is the fault of anything in flight, an exception only of the shard that raised it.
        """
        if lost.culprit:
            track_ids = [lost.culprit]
        elif lost.blames_all or lost.cause == "exception":
            track_ids = ledger.in_flight(self.lost_shards if lost.blames_all else self.raised)
        else:
            track_ids = []
        is_unseen = lost.blames_all and not track_ids
        return Blame(track_ids, lost.why, lost.code, lost.is_mishap, is_unseen)

    def false_starts(self) -> int:
        """How often this place was lost before a track was begun, this loss included."""
        if self.has_begun or self.lost is None:
            return 0
        return self.n_false_starts + self.lost.is_fault

    def trouble(self, now: float) -> Lost | None:
        """What to make of an actor of which nothing was heard for too long."""
        if self.is_unclear and now > self.lost_since + ASK_S:
            return Lost("node", f"{self.lost.why if self.lost else ''}; it did not answer for {ASK_S:g} s")
        if self.lost or self.worker.has_started or self.worker.pid is None:
            return None
        self.process_since = self.process_since or now
        if now > self.process_since + START_S:
            return Lost("hung", f"the worker did not start within {START_S:g} s")
        return None
