"""A worker that only waits: for tests of the pool, and for benchmarks of what it adds.

It tells what a real worker tells, in the same order, and can be made to die, raise, hang, fill the memory or
take its node down on chosen tracks. Needs neither torch nor storage.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from splitfire_batch.records import (
    Beat,
    Committed,
    Draining,
    Outcome,
    Shard,
    ShardDone,
    ShardEvent,
    StageSeconds,
    Started,
    Track,
)


@dataclass(frozen=True, slots=True)
class FakeWorker:
    """Takes `track_s` seconds for each track, `open_tracks` of them at the same time."""

    track_s: float = 0.05
    open_tracks: int = 2
    deadly: frozenset[str] = frozenset()
    """Tracks at whose end the process is killed as if by the kernel."""
    raising: frozenset[str] = frozenset()
    """Tracks at whose end `run_shard` raises RuntimeError."""
    freezing: frozenset[str] = frozenset()
    """Tracks at whose end the process is stopped, as by SIGSTOP."""
    endless: frozenset[str] = frozenset()
    """Tracks that are at work for ever."""
    leaking: frozenset[str] = frozenset()
    """Tracks that take ever more memory."""
    felling: frozenset[str] = frozenset()
    """Tracks that take their node down."""
    beat_s: float = 1.0
    """How often it shows that it gets on."""
    stop: threading.Event = field(default_factory=threading.Event)

    def run_shard(self, shard: Shard) -> Iterator[ShardEvent]:
        """Events of a shard; an outcome's message is the id of the process."""
        begin = time.monotonic()
        waiting, running = deque(shard.tracks), deque[tuple[float, Track]]()
        has_drained = False
        while running or (waiting and not self.stop.is_set()):
            while waiting and len(running) < self.open_tracks and not self.stop.is_set():
                running.append((time.monotonic() + self.track_s, waiting.popleft()))
                yield Started(shard.shard_id, running[-1][1].track_id)
            if not waiting and not has_drained:
                has_drained = True
                yield Draining(shard.shard_id)
            end, track = running.popleft()
            yield from self._wait(shard.shard_id, math.inf if track.track_id in self.endless else end)
            yield Committed(shard.shard_id, (self._settle(track),))
        yield ShardDone(shard.shard_id, time.monotonic() - begin, StageSeconds())

    def stop_admitting(self) -> None:
        """Begin no further track."""
        self.stop.set()

    def close(self) -> None:
        """Nothing to end."""

    def _wait(self, shard_id: str, until: float) -> Iterator[Beat]:
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(left_s, self.beat_s))
            if left_s > self.beat_s:
                yield Beat(shard_id)

    def _settle(self, track: Track) -> Outcome:
        if track.track_id in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if track.track_id in self.freezing:
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(3600)  # the signal takes a moment
        if track.track_id in self.felling:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(3600)
        hoard = []
        while track.track_id in self.leaking:
            hoard.append(b"x" * 2**25)
        if track.track_id in self.raising:
            raise RuntimeError(f"asked to raise on {track.track_id}")
        return Outcome(track.track_id, track.path, "done", None, f"{os.getpid()}", 0.0, 0)
