"""Which tracks are settled, which are in flight, and what becomes of them when a worker dies.

Pure bookkeeping, no Ray: the pool tells it what was sent and what came back, and asks what to send next.
An attempt is charged only to tracks in flight (started, not committed) when a worker died; they are
retried alone, so that a second death names the culprit. Everything else goes back uncharged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from splitfire_batch.records import Committed, Quarantined, Shard, ShardEvent, Started, Track

MAX_ATTEMPTS = 2
"""A track that was alone in flight when its worker died, this many times charged, is given up."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A shard to send; `is_alone` asks that nothing else be in flight on the same worker."""

    shard: Shard
    is_alone: bool = False


@dataclass(slots=True)
class _OpenShard:
    """A shard that was sent: its tracks without a row yet, and those of them that have begun."""

    assignment: Assignment
    unsettled: dict[str, Track]
    started: set[str] = field(default_factory=set)

    def in_flight(self) -> list[Track]:
        return [track for track_id, track in self.unsettled.items() if track_id in self.started]


class Ledger:
    """Hands out shards and keeps account of their tracks until each is settled."""

    def __init__(self, shards: Iterable[Shard]) -> None:
        self._fresh = iter(shards)
        self._returned: deque[Shard] = deque()
        self._suspects: deque[Track] = deque()
        self._suspect_of: dict[str, str] = {}
        self._open: dict[str, _OpenShard] = {}
        self._n_retries = 0

    def has_next(self) -> bool:
        """Whether a worker without work would get some."""
        if not self._suspects and not self._returned:
            self._returned.extend(shard for shard in [next(self._fresh, None)] if shard is not None)
        return bool(self._suspects or self._returned)

    def take(self, is_idle: bool) -> Assignment | None:
        """The next shard to send: a suspect, then what came back, then fresh ones in their order.

        Args:
            is_idle: the worker has nothing to do, so it may be given a suspect.
        """
        shard: Shard | None
        if is_idle and self._suspects:
            track = self._suspects.popleft()
            shard = Shard(self._retry_id(self._suspect_of.pop(track.track_id)), (track,))
            return self._begin(Assignment(shard, is_alone=True))
        shard = self._returned.popleft() if self._returned else next(self._fresh, None)
        return None if shard is None else self._begin(Assignment(shard))

    def note(self, event: ShardEvent) -> None:
        """Take down what a worker told."""
        shard = self._open[event.shard_id]
        if isinstance(event, Started):
            shard.started.add(event.track_id)
        elif isinstance(event, Committed):
            for outcome in event.outcomes:
                shard.unsettled.pop(outcome.track_id, None)

    def n_unsettled(self, shard_id: str) -> int:
        """How many tracks of a shard that was sent have no row yet."""
        return len(self._open[shard_id].unsettled)

    def close(self, shard_id: str) -> None:
        """Forget a shard that was sent; tracks without a row stay without one."""
        del self._open[shard_id]

    def lose(self, shard_ids: Collection[str], blamed: Collection[str], why: str) -> list[Quarantined]:
        """A worker is gone with these shards: put their unsettled tracks back, or give one up.

        Args:
            shard_ids: every shard that was open on the worker.
            blamed: those of them whose tracks in flight are charged; empty if the worker was preempted.
            why: what is known of the death; it becomes the message of a track that is given up.
        """
        lost = [self._open.pop(shard_id) for shard_id in shard_ids]
        was_alone = sum(len(shard.in_flight()) for shard in lost) == 1
        given_up: list[Quarantined] = []
        for shard in lost:
            if shard.assignment.shard.shard_id not in blamed:
                self._put_back(shard)
                continue
            for track in shard.in_flight():
                charged = replace(shard.unsettled.pop(track.track_id), attempts=track.attempts + 1)
                if was_alone and charged.attempts >= MAX_ATTEMPTS:
                    given_up.append(Quarantined(charged, why))
                else:
                    self._suspect(charged, shard.assignment.shard.shard_id)
            self._put_back(shard)
        return given_up

    def _begin(self, assignment: Assignment) -> Assignment:
        tracks = {track.track_id: track for track in assignment.shard.tracks}
        self._open[assignment.shard.shard_id] = _OpenShard(assignment, tracks)
        return assignment

    def _put_back(self, lost: _OpenShard) -> None:
        """Queue what is left of a lost shard, uncharged; a suspect stays one."""
        shard_id = lost.assignment.shard.shard_id
        if lost.assignment.is_alone:
            for track in lost.unsettled.values():
                self._suspect(track, shard_id)
        elif lost.unsettled:
            self._returned.append(Shard(self._retry_id(shard_id), tuple(lost.unsettled.values())))

    def _suspect(self, track: Track, shard_id: str) -> None:
        self._suspects.append(track)
        self._suspect_of[track.track_id] = shard_id

    def _retry_id(self, shard_id: str) -> str:
        """A name of its own for every retry, so that late events cannot be mistaken."""
        self._n_retries += 1
        return f"{shard_id.partition('-retry')[0]}-retry{self._n_retries}"
