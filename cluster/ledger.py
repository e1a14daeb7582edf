"""Which tracks are settled, which are in flight, and what becomes of them when a worker is lost.

Pure bookkeeping, no Ray: the pool tells it what was sent and what came back, and asks what to send next.
An attempt is charged only to tracks in flight (started, not committed) when a worker died; they are
retried alone, so that a second death names the culprit. A death that came before anything was told halves
its shard instead: the culprit is found in a few steps, and thousands beside it are not retried one by one.
Everything else goes back uncharged, and so does a suspect that is settled after all: its row knows nothing
of the charge.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from splitfire_batch.records import (
    Committed,
    Outcome,
    Quarantined,
    Returned,
    Shard,
    ShardEvent,
    Started,
    Suspected,
    Track,
)

MAX_ATTEMPTS = 2
"""A track that was alone in flight when its worker died, this many times charged, is given up."""
MAX_MISHAPS = 3
"""As often may a track's node or connection be lost; it is alone the last time."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A shard to send; `is_alone` asks that nothing else be in flight on the same worker."""

    shard: Shard
    is_alone: bool = False


@dataclass(frozen=True, slots=True)
class Blame:
    """Which of the tracks in flight are charged for a loss, and the row of one that is given up for it."""

    track_ids: Collection[str] = ()
    why: str = ""
    code: str = "WORKER_CRASH"
    is_mishap: bool = False
    """Nobody is charged, but a track to which it happens again and again is given up."""
    is_unseen: bool = False
    """A death with nothing known to be in flight: a mishap of a track that was by itself, of nobody else."""


@dataclass(slots=True)
class _OpenShard:
    """A shard that was sent: its tracks without a row yet, and those of them that have begun."""

    assignment: Assignment
    unsettled: dict[str, Track]
    started: set[str] = field(default_factory=set)

    def waiting_cost(self) -> float:
        return sum(t.cost for track_id, t in self.unsettled.items() if track_id not in self.started)

    def in_flight(self) -> list[Track]:
        return [track for track_id, track in self.unsettled.items() if track_id in self.started]


class Ledger:
    """Hands out shards and keeps account of their tracks until each is settled.

    A track that comes with `attempts` was charged by an earlier run, and is a suspect from the start.
    """

    def __init__(self, shards: Iterable[Shard]) -> None:
        self._fresh = iter(shards)
        self._returned: deque[Shard] = deque()
        self._suspects: deque[Track] = deque()
        self._suspect_of: dict[str, str] = {}
        self._charges: Counter[str] = Counter()
        self._mishaps: Counter[str] = Counter()
        self._open: dict[str, _OpenShard] = {}
        self._n_retries = self._n_splits = 0

    def has_next(self) -> bool:
        """Whether a worker without work would get some."""
        while not self._suspects and not self._returned:
            shard = next(self._fresh, None)
            if shard is None:
                return False
            self._admit(shard)
        return True

    def take(self, is_idle: bool) -> Assignment | None:
        """The next shard to send: a suspect, then what came back, then fresh ones in their order.

        Args:
            is_idle: the worker has nothing to do, so it may be given a suspect.
        """
        if is_idle and self._suspects:
            track = self._suspects.popleft()
            shard = Shard(self._retry_id(self._suspect_of.pop(track.track_id)), (track,))
            return self._begin(Assignment(shard, is_alone=True))
        while not self._returned:
            fresh = next(self._fresh, None)
            if fresh is None:
                return None
            self._admit(fresh)
        return self._begin(Assignment(self._returned.popleft()))

    def note(self, event: ShardEvent) -> None:
        """Take down what a worker told."""
        shard = self._open[event.shard_id]
        if isinstance(event, Started):
            shard.started.add(event.track_id)
        elif isinstance(event, Committed):
            for outcome in event.outcomes:
                shard.unsettled.pop(outcome.track_id, None)
        elif isinstance(event, Returned) and event.track_ids:
            tracks = tuple(shard.unsettled.pop(track_id) for track_id in event.track_ids)
            self._n_splits += 1
            self._returned.append(Shard(f"{event.shard_id}-split{self._n_splits}", tracks))

    def waiting_cost(self, shard_id: str) -> float:
        """Cost of the tracks of a shard that was sent which have not begun, in segments."""
        return self._open[shard_id].waiting_cost()

    def n_unsettled(self, shard_id: str) -> int:
        """How many tracks of a shard that was sent have no row yet."""
        return len(self._open[shard_id].unsettled)

    def unsettled_in(self, shard_id: str, outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
        """Those of the outcomes whose tracks are taken to be without a row."""
        unsettled = self._open[shard_id].unsettled
        return tuple(outcome for outcome in outcomes if outcome.track_id in unsettled)

    def in_flight(self, shard_ids: Collection[str]) -> list[str]:
        """The track_ids of tracks of these shards that have begun and have no row yet."""
        return [track.track_id for track in self.tracks_in_flight(shard_ids)]

    def tracks_in_flight(self, shard_ids: Collection[str]) -> list[Track]:
        """As `in_flight`, with all that is known of them; those that were first in a shard first."""
        return [track for shard_id in shard_ids for track in self._open[shard_id].in_flight()]

    def close(self, shard_id: str) -> None:
        """Forget a shard that was sent; tracks without a row stay without one."""
        del self._open[shard_id]

    def lose(self, shard_ids: Collection[str], blame: Blame) -> list[Suspected | Quarantined]:
        """A worker is gone with these shards: put their unsettled tracks back, or give one up.

        Args:
            shard_ids: every shard that was open on the worker.
            blame: who is charged; nobody if the worker was preempted.

        Returns:
            Whom it made suspects, and who is given up.
        """
        lost = [self._open.pop(shard_id) for shard_id in shard_ids]
        struck = {id(shard): _struck(shard, blame) for shard in lost}
        was_alone = sum(map(len, struck.values())) == 1
        suspected: list[Track] = []
        given_up: list[Suspected | Quarantined] = []
        for shard in lost:
            for track in struck[id(shard)]:
                self._charges[track.track_id] += track.track_id in blame.track_ids
                self._mishaps[track.track_id] += blame.is_mishap or (blame.is_unseen and was_alone)
                if was_alone and self._is_too_often(track, blame):
                    del shard.unsettled[track.track_id]
                    n_times = self._charges if track.track_id in blame.track_ids else self._mishaps
                    charged = replace(track, attempts=n_times[track.track_id])
                    given_up.append(Quarantined(charged, blame.why, blame.code))
                elif track.track_id in blame.track_ids or self._must_be_alone(track, blame):
                    del shard.unsettled[track.track_id]
                    self._suspect(track, shard.assignment.shard.shard_id)
                    suspected.append(replace(track, attempts=self._charges[track.track_id]))
            self._put_back(shard, n_shards=2 if blame.is_unseen and not was_alone else 1)
        charged_now = tuple(track for track in suspected if track.attempts)
        return ([Suspected(charged_now, blame.why)] if charged_now else []) + given_up

    def _is_too_often(self, track: Track, blame: Blame) -> bool:
        if blame.is_mishap or blame.is_unseen:
            return self._mishaps[track.track_id] >= MAX_MISHAPS
        return track.track_id in blame.track_ids and self._charges[track.track_id] >= MAX_ATTEMPTS

    def _must_be_alone(self, track: Track, blame: Blame) -> bool:
        return (blame.is_mishap or blame.is_unseen) and self._mishaps[track.track_id] >= MAX_MISHAPS - 1

    def _admit(self, shard: Shard) -> None:
        """A fresh shard; those of its tracks that were charged before it are set apart."""
        for track in shard.tracks:
            if track.attempts:
                self._charges[track.track_id] = track.attempts
                self._suspect(replace(track, attempts=0), shard.shard_id)
        others = tuple(track for track in shard.tracks if not track.attempts)
        if others:
            self._returned.append(
                shard if len(others) == len(shard.tracks) else replace(shard, tracks=others)
            )

    def _begin(self, assignment: Assignment) -> Assignment:
        tracks = {track.track_id: track for track in assignment.shard.tracks}
        self._open[assignment.shard.shard_id] = _OpenShard(assignment, tracks)
        return assignment

    def _put_back(self, lost: _OpenShard, n_shards: int) -> None:
        """Queue what is left of a lost shard in so many pieces, uncharged; a suspect stays one."""
        shard_id, tracks = lost.assignment.shard.shard_id, tuple(lost.unsettled.values())
        if lost.assignment.is_alone:
            for track in tracks:
                self._suspect(track, shard_id)
            return
        n_first = -(-len(tracks) // n_shards)
        for piece in (tracks[:n_first], tracks[n_first:]):
            if piece:
                self._returned.append(Shard(self._retry_id(shard_id), piece))

    def _suspect(self, track: Track, shard_id: str) -> None:
        self._suspects.append(track)
        self._suspect_of[track.track_id] = shard_id

    def _retry_id(self, shard_id: str) -> str:
        """A name of its own for every retry, so that late events cannot be mistaken."""
        self._n_retries += 1
        return f"{shard_id.partition('-retry')[0]}-retry{self._n_retries}"


def _struck(shard: _OpenShard, blame: Blame) -> list[Track]:
    """The tracks of a lost shard that its loss may be the fault, or the misfortune, of."""
    return list(shard.unsettled.values()) if blame.is_unseen else shard.in_flight()
