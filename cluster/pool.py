"""Feeds shards to one actor per device, keeps every actor busy, and survives their deaths.

An actor gets its next shard when the one before has no more tracks to admit. When an actor dies, it is
replaced and the ledger says which tracks go back, which are charged and which are given up. Ray itself
never retries anything. Whoever reads the events decides what they mean; the pool stores nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from threading import Event

from cluster.actors import (
    MAX_SHARDS,
    Lost,
    MakeWorker,
    News,
    PoolSize,
    RemoteWorker,
    close_all,
    wait_for_news,
)
from cluster.ledger import Ledger
from splitfire_batch.errors import TransientError
from splitfire_batch.records import Committed, Draining, Quarantined, Shard, ShardDone, ShardEvent, Started

MAX_FALSE_STARTS = 3
"""An actor that was replaced this often without beginning a track is not replaced again."""
MAX_OUTAGES = 5
"""Workers that may be lost to a store or network in a row, with no track settled anywhere in between."""
_POLL_S = 0.2
"""How soon a request to stop is seen."""
_PENDING_S = 60.0
"""How often it is said that Ray has not yet found room for any actor."""

_log = logging.getLogger(__name__)


def run_shards(
    shards: Iterable[Shard],
    make_worker: MakeWorker,
    size: PoolSize,
    stop: Event | None = None,
    abort: Event | None = None,
) -> Iterator[ShardEvent | Quarantined]:
    """Events of all shards as they come, in order within a shard, until every track is settled.

    Each track ends in exactly one Committed or Quarantined, or, after `stop`, in neither. Shards are sent
    in the order given; tracks that were lost with a worker come back in shards of their own, whose names
    end in `-retry<n>`. Actors are used as they come up, and killed when the iterator ends or is closed.

    Args:
        shards: read lazily; longest first keeps the end of a run short.
        make_worker: called in every actor.
        size: `workers` actors at most; no more than there are shards.
        stop: when set, no further track begins; the iterator ends with those in flight.
        abort: when set, the actors are killed and the iterator ends, whatever is in flight.

    Raises:
        ConfigError: raised by a worker, for unknown weights and the like.
        TransientError: no actor could be kept alive long enough to begin a track, or a store did not answer.
        StorageError: a store refused what every job needs.
    """
    iterator = iter(shards)
    first = list(islice(iterator, size.workers))
    pool = _Pool(Ledger(chain(first, iterator)), make_worker, size, stop or Event(), abort or Event())
    try:
        for _ in first:
            pool.add_seat(n_false_starts=0)
        yield from pool.events()
        pool.close()
    finally:
        pool.kill()


@dataclass(slots=True)
class _Seat:
    """The place of one actor, and the state of the one that has it."""

    worker: RemoteWorker
    n_false_starts: int
    has_begun: bool = False
    """The actor has begun or settled a track."""
    is_taking: bool = True
    """Its youngest shard has no more tracks to admit, or it has none."""
    is_alone: bool = False
    """It runs a suspect, and must not be given anything else."""
    lost: Lost | None = None
    blamed: tuple[str, ...] = ()
    lost_shards: list[str] = field(default_factory=list)


class _Pool:
    """The state of one run."""

    def __init__(
        self, ledger: Ledger, make_worker: MakeWorker, size: PoolSize, stop: Event, abort: Event
    ) -> None:
        self._ledger, self._make_worker, self._size = ledger, make_worker, size
        self._stop, self._abort = stop, abort
        self._seats: dict[RemoteWorker, _Seat] = {}
        self._is_stopping = False
        self._n_outages = 0
        self._warn_at = time.monotonic() + _PENDING_S

    def add_seat(self, n_false_starts: int) -> None:
        """Start an actor."""
        worker = RemoteWorker(self._make_worker, self._size)
        self._seats[worker] = _Seat(worker, n_false_starts)

    def events(self) -> Iterator[ShardEvent | Quarantined]:
        """The loop of the run."""
        while not self._abort.is_set() and self._is_at_work():
            if self._stop.is_set() and not self._is_stopping:
                self._is_stopping = True
                for worker in self._seats:
                    worker.stop_admitting()
            self._dispatch()
            self._warn_if_none_started()
            for news in wait_for_news(list(self._seats), _POLL_S):
                yield from self._hear(self._seats[news.worker], news)
                if self._abort.is_set():
                    return

    def close(self) -> None:
        """Let the workers end in good order."""
        if not self._abort.is_set():
            close_all(list(self._seats))

    def kill(self) -> None:
        """End all actors now."""
        for worker in self._seats:
            worker.kill()

    def _is_at_work(self) -> bool:
        return any(worker.shard_ids for worker in self._seats) or self._has_more()

    def _has_more(self) -> bool:
        return not self._stop.is_set() and self._ledger.has_next()

    def _dispatch(self) -> None:
        """Give every actor that can take a shard one, those without any first."""
        if self._is_stopping:
            return
        for seat in sorted(self._seats.values(), key=lambda seat: len(seat.worker.shard_ids)):
            n_shards = len(seat.worker.shard_ids)
            if seat.worker.pid is None or seat.lost or seat.is_alone or n_shards >= MAX_SHARDS:
                continue
            if n_shards and not seat.is_taking:
                continue
            assignment = self._ledger.take(is_idle=n_shards == 0)
            if assignment is not None:
                seat.is_taking, seat.is_alone = False, assignment.is_alone
                seat.worker.send(assignment.shard)

    def _warn_if_none_started(self) -> None:
        """A cluster may have to grow first; a full one keeps us waiting, and should not do so silently."""
        if time.monotonic() > self._warn_at and all(worker.pid is None for worker in self._seats):
            self._warn_at = time.monotonic() + _PENDING_S
            _log.warning(
                "actors_pending n=%d cpus=%g gpus=%g", len(self._seats), self._size.cpus, self._size.gpus
            )

    def _hear(self, seat: _Seat, news: News) -> Iterator[ShardEvent | Quarantined]:
        """Act on one piece of news, and pass it on if it is an event."""
        told = news.told
        if told is None and news.shard_id is not None:
            told = self._end_shard(seat, news.shard_id)
        if isinstance(told, Lost):
            yield from self._lose(seat, news.shard_id, told)
        elif told is not None:
            self._ledger.note(told)
            seat.has_begun |= isinstance(told, Started | Committed)
            seat.is_taking |= isinstance(told, Draining)
            if isinstance(told, Committed):
                self._n_outages = 0
            _log_event(told)
            yield told
        elif not seat.worker.shard_ids:  # the last stream of an actor that is lost may end well
            yield from self._bury(seat)

    def _end_shard(self, seat: _Seat, shard_id: str) -> Lost | None:
        """A stream has ended in good order; nothing may be left of its shard unless the run stops."""
        n_left = self._ledger.n_unsettled(shard_id)
        if n_left and not self._is_stopping:
            return Lost(f"the worker ended shard {shard_id} with {n_left} tracks unsettled", is_death=False)
        self._ledger.close(shard_id)
        if not seat.worker.shard_ids:
            seat.is_taking, seat.is_alone = True, False
        return None

    def _lose(self, seat: _Seat, shard_id: str | None, lost: Lost) -> Iterator[Quarantined]:
        """A call was lost, and its actor with it: an exception may leave a device unusable."""
        if shard_id is not None:
            seat.lost_shards.append(shard_id)
        if seat.lost is None:
            # A death is the fault of anything in flight, an exception only of the shard that raised it.
            seat.lost = lost
            suspected = (*seat.lost_shards, *seat.worker.shard_ids) if lost.is_death else seat.lost_shards
            seat.blamed = () if lost.is_blameless else tuple(suspected)
            seat.worker.kill()
        if not seat.worker.shard_ids:  # else: its other stream may still hold events
            yield from self._bury(seat)

    def _bury(self, seat: _Seat) -> Iterator[Quarantined]:
        """Every stream of the actor has ended: if it is lost, settle its account and replace it."""
        if seat.lost is None:
            return
        del self._seats[seat.worker]
        given_up = self._ledger.lose(seat.lost_shards, seat.blamed, seat.lost.why)
        n_false_starts = 0 if seat.has_begun else seat.n_false_starts + (not seat.lost.is_blameless)
        _log.warning(
            "worker_lost pid=%s preempted=%s false_starts=%d given_up=%d why=%r",
            seat.worker.pid,
            seat.lost.is_preempted,
            n_false_starts,
            len(given_up),
            seat.lost.why,
        )
        self._n_outages += seat.lost.outage is not None
        if seat.lost.outage and self._n_outages >= MAX_OUTAGES:
            raise seat.lost.outage
        if self._has_more() and n_false_starts < MAX_FALSE_STARTS:
            self.add_seat(n_false_starts)
        yield from given_up
        if self._has_more() and not self._seats:
            raise TransientError(
                f"workers were lost {MAX_FALSE_STARTS} times in a row before they began a track; "
                f"the last one said: {seat.lost.why}"
            )


def _log_event(event: ShardEvent) -> None:
    """Say here what nobody would see in the log of an actor."""
    if isinstance(event, ShardDone):
        _log.info("shard_done shard=%s wall_s=%.1f", event.shard_id, event.wall_s)
    elif isinstance(event, Committed):
        for outcome in event.outcomes:
            if outcome.code == "INTERNAL":
                _log.warning("track_bug track=%s why=%r", outcome.track_id, outcome.message)
