"""Feeds shards to one actor per device, keeps every actor busy, and survives their deaths.

An actor gets its next shard when the one before has no more tracks to admit, and when no shard is left, some
of what another has not begun. When an actor is lost, it is replaced and the ledger says which tracks go back,
which are charged and which are given up. Ray itself never retries anything. Whoever reads the events decides
what they mean; the pool stores nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from threading import Event

from cluster import seats
from cluster.actors import MakeWorker, News, PoolSize, close_all, wait_for_news
from cluster.ledger import Blame, Ledger
from cluster.losses import Lost
from cluster.roster import Patience, Roster
from cluster.seats import Seat
from cluster.staff import StaffTeller
from cluster.tail import Tail
from splitfire_batch.errors import TransientError
from splitfire_batch.records import (
    Committed,
    Draining,
    Outcome,
    PoolEvent,
    Returned,
    Shard,
    ShardEvent,
    Started,
)

MAX_OUTAGES = 5
"""Workers that may be lost to a store or network in a row, with no track settled anywhere in between."""
_POLL_S = 0.2
"""How soon a request to stop is seen."""

Recorded = Callable[[str], Collection[Outcome]]
"""Which tracks of a shard have rows in the destination; may raise TransientError."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Halt:
    """Two ways to end a run early, each once its event is set."""

    stop: Event = field(default_factory=Event)
    """No further track begins; those in flight are settled, or dropped when `Patience.drain_s` are over."""
    abort: Event = field(default_factory=Event)
    """The actors are killed, whatever is in flight."""


def run_shards(
    shards: Iterable[Shard],
    make_worker: MakeWorker,
    size: PoolSize,
    halt: Halt | None = None,
    patience: Patience = Patience(),  # noqa: B008 - frozen
    recorded: Recorded = lambda _: (),
) -> Iterator[PoolEvent]:
    """Events of all shards as they come, in order within a shard, until every track is settled.

    Each track ends in exactly one Committed or Quarantined, or, after a halt, in neither. Shards are sent
    in the order given; tracks that were lost with a worker come back in shards of their own, whose names
    end in `-retry<n>`. Actors are used as they come up, and killed when the iterator ends or is closed.

    Args:
        shards: read lazily; longest first keeps the end of a run short.
        make_worker: called in every actor.
        size: `workers` actors; no more than there are shards, and others as nodes join if it says so.
        halt: how to end it early.
        patience: how long to wait for tracks, and for workers.
        recorded: asked for a shard whose worker was lost before anything of it is sent again.

    Raises:
        ConfigError: raised by a worker, for unknown weights and the like.
        TransientError: no actor could be kept alive long enough to begin a track, a store did not answer, or
            the only node is gone.
        StorageError: a store refused what every job needs.
    """
    iterator = iter(shards)
    first = list(islice(iterator, size.workers))
    pool = _Pool(Ledger(chain(first, iterator)), halt or Halt(), patience.drain_s, recorded)
    roster = Roster(make_worker, size, patience, pool.has_more)
    try:
        roster.open(len(first))
        yield from pool.events(roster)
    finally:
        roster.kill()


class _Pool:
    """The state of one run."""

    def __init__(self, ledger: Ledger, halt: Halt, drain_s: float, recorded: Recorded) -> None:
        self._ledger, self._stop, self._abort, self._drain_s = ledger, halt.stop, halt.abort, drain_s
        self._recorded = recorded
        self._drop_at: float | None = None
        self._tail, self._staff = Tail(ledger), StaffTeller(ledger)
        self._n_outages = 0

    def has_more(self) -> bool:
        """Whether an actor without work would get some."""
        return not self._stop.is_set() and self._ledger.has_next()

    def events(self, roster: Roster) -> Iterator[PoolEvent]:
        """The loop of the run; in the end the workers end in good order, unless they are dropped."""
        while self._is_at_work(roster):
            if self._stop.is_set() and self._drop_at is None:
                self._drop_at = time.monotonic() + self._drain_s
                roster.stop_admitting()
            if self._abort.is_set() or self._is_drain_over(roster):
                return
            self._dispatch(roster)
            yield from self._staff.news(roster.seats.values())
            for seat, lost in roster.look_around():
                yield from self._lose(roster, seat, None, lost)
            for news in wait_for_news(list(roster.seats), _POLL_S):
                yield from self._hear(roster, news)
                if self._abort.is_set():
                    return
        close_all(list(roster.seats))

    def _is_at_work(self, roster: Roster) -> bool:
        return any(seat.worker.shard_ids or seat.lost for seat in roster.seats.values()) or self.has_more()

    def _is_drain_over(self, roster: Roster) -> bool:
        if self._drop_at is None or time.monotonic() < self._drop_at:
            return False
        shard_ids = [shard_id for worker in roster.seats for shard_id in worker.shard_ids]
        n_dropped = len(self._ledger.in_flight(shard_ids))
        _log.warning("drain_over drain_s=%g dropped=%d", self._drain_s, n_dropped)
        return True

    def _dispatch(self, roster: Roster) -> None:
        """Give every actor that can take a shard one, those without any first."""
        if self._drop_at is not None:
            return
        for seat in sorted(roster.seats.values(), key=lambda seat: len(seat.worker.shard_ids)):
            assignment = self._ledger.take(not seat.worker.shard_ids) if seat.can_take else None
            if assignment is not None:
                roster.send(seat, assignment)
        self._tail.share_out(roster.seats.values())

    def _hear(self, roster: Roster, news: News) -> Iterator[PoolEvent]:
        """Act on one piece of news, and pass it on if it is an event."""
        seat, told = roster.seats[news.worker], news.told
        if told is None and news.shard_id is not None:
            told = self._end_shard(roster, seat, news.shard_id)
        if isinstance(told, Lost):
            yield from self._lose(roster, seat, news.shard_id, told)
        elif told is not None:
            self._ledger.note(told)
            roster.watchdog.hear(seat.worker, told)
            seat.has_begun |= isinstance(told, Started | Committed)
            seat.is_taking |= isinstance(told, Draining)
            if isinstance(told, Committed):
                self._n_outages = 0
                seat.n_settled += len(told.outcomes)
            if isinstance(told, Returned):
                self._tail.hear(told)
            _log_event(told)
            yield told
        elif verdict := seat.verdict:  # the last stream of an actor that is lost may end well
            yield from self._bury(roster, seat, verdict)

    def _end_shard(self, roster: Roster, seat: Seat, shard_id: str) -> Lost | None:
        """A stream has ended in good order; nothing may be left of its shard unless it was to stop."""
        n_left = self._ledger.n_unsettled(shard_id)
        if n_left and self._drop_at is None and not seat.is_leaving:
            return Lost("exception", f"the worker ended shard {shard_id} with {n_left} tracks unsettled")
        roster.watchdog.end(seat.worker, shard_id)
        if n_left and seat.is_leaving:
            self._ledger.lose([shard_id], Blame())
        else:
            self._ledger.close(shard_id)
        if not seat.worker.shard_ids:
            seat.is_taking, seat.is_alone = True, False
            if seat.is_leaving and not seat.lost:
                roster.dismiss(seat)
                roster.refill()
        return None

    def _lose(self, roster: Roster, seat: Seat, shard_id: str | None, lost: Lost) -> Iterator[PoolEvent]:
        """A call was lost, and its actor with it: an exception may leave a device unusable."""
        if shard_id is not None:
            seat.lost_shards.append(shard_id)
        if seat.lost is None or seat.is_unclear:
            seat.lose(lost)
        if verdict := seat.verdict:  # else: its other stream may still hold events
            yield from self._bury(roster, seat, verdict)

    def _bury(self, roster: Roster, seat: Seat, lost: Lost) -> Iterator[PoolEvent]:
        """Every stream of a lost actor has ended: settle its account and replace it."""
        _log.warning(
            "worker_lost pid=%s node=%s cause=%s false_starts=%d why=%r",
            seat.worker.pid,
            seat.worker.node_id,
            lost.cause,
            seat.false_starts(),
            lost.why,
        )
        for shard_id in seat.lost_shards:
            yield from self._read_back(shard_id)
        events = self._ledger.lose(seat.lost_shards, seat.blame(lost, self._ledger))
        self._n_outages += lost.outage is not None
        if lost.outage and self._n_outages >= MAX_OUTAGES:
            raise lost.outage
        roster.replace(seat)
        yield from events
        if self.has_more() and not roster.seats:
            raise TransientError(
                f"workers were lost {seats.MAX_FALSE_STARTS} times in a row before they began a track; "
                f"the last one said: {lost.why}"
            )

    def _read_back(self, shard_id: str) -> Iterator[Committed]:
        """What the worker of a lost shard put into the store and did not live to tell."""
        try:
            known = self._recorded(shard_id) if self._ledger.n_unsettled(shard_id) else ()
            untold = self._ledger.unsettled_in(shard_id, known)
        except TransientError as error:  # its tracks may be done twice, then; one row of each will count
            _log.warning("not_read_back shard=%s why=%r", shard_id, str(error))
            return
        if untold:
            _log.info("read_back shard=%s tracks=%d", shard_id, len(untold))
            committed = Committed(shard_id, untold)
            self._ledger.note(committed)
            yield committed


def _log_event(event: ShardEvent) -> None:
    """Say here what nobody would see in the log of an actor."""
    if isinstance(event, Committed):
        for outcome in event.outcomes:
            if outcome.code == "INTERNAL":
                _log.warning("track_bug track=%s why=%r", outcome.track_id, outcome.message)
