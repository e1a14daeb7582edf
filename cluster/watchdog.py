"""Tells a worker that hangs from one that is slow, by what it tells and by the pace of the run.

A worker that has a shard tells something every few seconds: an event, or a `Beat` while it gets on without
one. Silence means that its process is frozen or waits for what never comes. A track may also run for ever
beside others, or busily: then only the clock knows, so no track may take many times what its cost and the
pace so far make likely.

Pure: the time is handed in. Only time in which the watchdog was looking counts, so that a driver which was
suspended or busy does not blame the workers.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from splitfire_batch.records import Committed, Shard, ShardEvent, Started

MANY_TIMES = 20.0
"""A track may take so many times its estimate,"""
STALLS = 10.0
"""and never less than so many times `stall_s`: stores that are away hold tracks up for long."""
FIRST_PACE = 1 / 12
"""Cost per second until it is measured: real time, for a segment is about 12 s long."""
_MEASURED_S = 60.0
"""A pace is trusted after so long."""
_MAX_STEP_S = 2.0
"""The most that passes between two looks of a driver that is awake."""


@dataclass(frozen=True, slots=True)
class Hung:
    """A verdict: `track_id` is the one to blame, None if it may be any that is in flight."""

    why: str
    track_id: str | None = None


@dataclass(slots=True)
class _Pace:
    """How much was done in how long."""

    cost: float = 0.0
    seconds: float = 0.0

    def rate(self) -> float | None:
        """Cost per second; None before it can be told."""
        return self.cost / self.seconds if self.seconds >= _MEASURED_S and self.cost else None


@dataclass(slots=True)
class _Watched:
    """One worker: its open shards with the cost of their tracks, and since when each track is in flight."""

    heard_at: float
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)
    pace: _Pace = field(default_factory=_Pace)
    busy_s: float = 0.0
    """Since it last had something done: a track that hangs must not make the pace look slow."""

    def cost(self, track_id: str) -> float:
        return next((costs[track_id] for costs in self.costs.values() if track_id in costs), 0.0)


class Watchdog:
    """Hears what the workers of a run are sent and tell.

    Args:
        stall_s: a worker with an open shard that is silent for longer hangs.
    """

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._workers: dict[Hashable, _Watched] = {}
        self._looked_at: float | None = None
        self._now = 0.0
        self._pace = _Pace()

    def look(self, now: float) -> None:
        """Let time pass; to be called often."""
        step_s = 0.0 if self._looked_at is None else min(_MAX_STEP_S, max(0.0, now - self._looked_at))
        self._looked_at = now
        self._now += step_s
        for worker in self._workers.values():
            worker.busy_s += step_s if worker.since else 0.0

    def send(self, key: Hashable, shard: Shard) -> None:
        """A worker was sent a shard."""
        worker = self._workers.setdefault(key, _Watched(self._now))
        if not worker.costs:
            worker.heard_at = self._now
        worker.costs[shard.shard_id] = {track.track_id: track.cost for track in shard.tracks}

    def hear(self, key: Hashable, event: ShardEvent) -> None:
        """A worker told something."""
        worker = self._workers[key]
        worker.heard_at = self._now
        if isinstance(event, Started):
            worker.since[event.track_id] = self._now
        elif isinstance(event, Committed):
            for outcome in event.outcomes:
                worker.since.pop(outcome.track_id, None)
                if outcome.status == "done":  # what fails is quick
                    for pace in (worker.pace, self._pace):
                        pace.cost += worker.cost(outcome.track_id)
                        pace.seconds += worker.busy_s
                    worker.busy_s = 0.0

    def end(self, key: Hashable, shard_id: str) -> None:
        """A worker has nothing more to tell of a shard."""
        worker = self._workers[key]
        for track_id in worker.costs.pop(shard_id):
            worker.since.pop(track_id, None)
        worker.heard_at = self._now

    def forget(self, key: Hashable) -> None:
        """A worker is gone."""
        self._workers.pop(key, None)

    def hung(self, key: Hashable) -> Hung | None:
        """Why a worker must be ended, if it must."""
        worker = self._workers.get(key)
        if worker is None or not worker.costs:
            return None
        silent_s = self._now - worker.heard_at
        if silent_s > self._stall_s:
            return Hung(
                f"the worker told nothing and did not get on for {silent_s:.0f} s (stall_s is "
                f"{self._stall_s:g})"
            )
        return self._overrun(worker)

    def _overrun(self, worker: _Watched) -> Hung | None:
        """The track that takes many times what it should, if there is one."""
        if not worker.since:
            return None
        track_id, since = min(worker.since.items(), key=lambda item: item[1])
        took_s = self._now - since
        if took_s <= STALLS * self._stall_s:
            return None
        pace = min((p for p in (worker.pace.rate(), self._pace.rate()) if p), default=FIRST_PACE)
        # those in flight share the device, so each may take as long as all of them
        estimate_s = sum(worker.cost(other) for other in worker.since) / pace
        if took_s <= MANY_TIMES * estimate_s:
            return None
        return Hung(
            f"the track took {took_s:.0f} s so far, {took_s / max(estimate_s, 1e-9):.0f} times what it and "
            "those beside it should",
            track_id,
        )
