"""What a worker tells of a shard, and when its rows become a part.

Tracks run in threads and report here. A part is put while they go on, and events pass meanwhile: a track
whose beginning was not told is one that nobody would blame. Who has nothing to tell for long shows by a
`Beat` that it gets on.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from threading import Event

from splitfire_batch.pulse import Pulse
from splitfire_batch.records import (
    Beat,
    Committed,
    Draining,
    Returned,
    ShardEvent,
    StageSeconds,
    Started,
    TrackRow,
)

PART_ROWS = 64
PART_S = 15.0
"""A part is written when it has this many rows, or its oldest row is this old, or the shard ends."""
STOPPING_PART_S = 1.0
"""The same once the worker is to stop: what is finished is to be safe when what is not is dropped."""
BEAT_S = 10.0
"""How often a worker that has nothing to tell shows that it gets on."""


class Dropped(Exception):
    """A track that was not begun: the worker is stopping, or gave it back."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A track is about to begin; `is_told` is set once that has been told."""

    track_id: str
    is_told: Event


News = Begun | Returned | TrackRow | Exception | None
"""What the threads report; an exception but Dropped ends the shard, None asks to look again."""
_TELL_S = 1.0
"""How long a track waits until its beginning is told."""


class Telling:
    """One shard's way from reports to events.

    Args:
        shard_id: of the shard.
        n_tracks: how many will end as a TrackRow or as Dropped.
        put: commits rows, in a thread of its own; gives a future.
        pulse: whether the worker gets on.
        is_stopping: set when rows should not wait for company.
    """

    def __init__(
        self,
        shard_id: str,
        n_tracks: int,
        put: Callable[[Sequence[TrackRow]], Future[Committed]],
        pulse: Pulse,
        is_stopping: Event,
    ) -> None:
        self._shard_id, self._put, self._pulse, self._is_stopping = shard_id, put, pulse, is_stopping
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._n_waiting = self._n_open = n_tracks
        self._rows: list[tuple[float, TrackRow]] = []  # each with when it came, by a clock nobody sets
        self._seconds: list[StageSeconds] = []
        self._putting: Future[Committed] | None = None
        self._told_at = time.monotonic()

    def begin(self, track_id: str) -> None:
        """Called by a track's thread before it does anything that might kill the process.

        Returns when the news is on its way, so that an accident finds its culprit.
        """
        begun = Begun(track_id, Event())
        self.report(begun)
        begun.is_told.wait(_TELL_S)

    def report(self, news: News) -> None:
        """Called by any thread."""
        self._news.put(news)

    def events(self) -> Iterator[ShardEvent]:
        """Everything but the last event, until every track is settled or dropped.

        Raises:
            SplitfireError: a part could not be stored; its tracks are not settled.
            Exception: reported by a track; what was settled before is recorded.
        """
        while self._n_open or self._rows or self._putting:
            item = self._next()
            yield from self._tell(item)
            if isinstance(item, Exception) and not isinstance(item, Dropped):
                yield from self._commit_all()
                raise item
            if self._putting and self._putting.done():
                yield self._putting.result()
                self._putting, self._told_at = None, time.monotonic()
            is_due = len(self._rows) >= PART_ROWS or not self._n_open or not self._patience_s()
            if self._rows and not self._putting and is_due:
                self._begin_part()
            if time.monotonic() >= self._told_at + BEAT_S and self._pulse.beats():
                self._told_at = time.monotonic()
                yield Beat(self._shard_id)

    def seconds(self) -> StageSeconds:
        """Stage seconds of all rows."""
        names = [field.name for field in fields(StageSeconds)]
        return StageSeconds(**{name: sum(getattr(item, name) for item in self._seconds) for name in names})

    def _next(self) -> News:
        """The next report; None if nothing comes in time."""
        try:
            return self._news.get(timeout=BEAT_S if self._putting else self._patience_s())
        except queue.Empty:
            return None

    def _tell(self, item: News) -> Iterator[ShardEvent]:
        """Take down a report, and pass on that a track has begun."""
        if isinstance(item, Begun):
            self._told_at = time.monotonic()
            yield Started(self._shard_id, item.track_id)
            item.is_told.set()
        elif isinstance(item, TrackRow):
            self._rows.append((time.monotonic(), item))
            self._seconds.append(item.seconds)
        elif isinstance(item, Returned):
            yield item
        self._n_waiting -= isinstance(item, Begun | Dropped)
        self._n_open -= isinstance(item, TrackRow | Dropped)
        if isinstance(item, Begun | Dropped) and self._n_waiting == 0:
            yield Draining(self._shard_id)

    def _commit_all(self) -> Iterator[Committed]:
        """Whatever is finished, before the worker is given up."""
        if self._putting:
            yield self._putting.result()
        while self._rows:
            yield self._begin_part().result()

    def _begin_part(self) -> Future[Committed]:
        part, self._rows = self._rows[:PART_ROWS], self._rows[PART_ROWS:]
        self._putting = self._put([row for _, row in part])
        self._putting.add_done_callback(lambda _: self.report(None))
        return self._putting

    def _patience_s(self) -> float:
        """How long the oldest row may still wait for company, and at most for a report; 0 when it is due."""
        if not self._rows:
            return BEAT_S
        part_s = STOPPING_PART_S if self._is_stopping.is_set() else PART_S
        return min(BEAT_S, max(0.0, self._rows[0][0] + part_s - time.monotonic()))
