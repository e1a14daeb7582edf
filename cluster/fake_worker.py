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
from contextlib import nullcontext
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from splitfire_batch.admission import Admission
from splitfire_batch.records import (
    Beat,
    Committed,
    DeviceSeconds,
    Draining,
    Outcome,
    Returned,
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
    takes_turns: bool = False
    """Tracks are on a device that has room for one, also those of two shards."""
    stop: threading.Event = field(default_factory=threading.Event)
    device: threading.Lock = field(default_factory=threading.Lock)
    admissions: dict[str, Admission] = field(default_factory=dict)
    returned: dict[str, SimpleQueue[Returned]] = field(default_factory=dict)

    def run_shard(self, shard: Shard) -> Iterator[ShardEvent]:
        """Events of a shard; an outcome's message is the id of the process."""
        begin, busy_s = time.monotonic(), 0.0
        admission = self.admissions[shard.shard_id] = Admission(shard.tracks)
        self.returned[shard.shard_id] = SimpleQueue()
        waiting, running = deque(shard.tracks), deque[tuple[float, Track]]()
        has_drained = False
        while running or (waiting and not self.stop.is_set()):
            while waiting and len(running) < self.open_tracks and not self.stop.is_set():
                track = waiting.popleft()
                if admission.admit(track.track_id):
                    running.append((time.monotonic() + self.track_s, track))
                    yield Started(shard.shard_id, track.track_id)
            yield from self._asked_back(shard.shard_id)
            if not waiting and not has_drained:
                has_drained = True
                yield Draining(shard.shard_id)
            if not running:
                continue
            end, track = running.popleft()
            with self.device if self.takes_turns else nullcontext():
                end = time.monotonic() + self.track_s if self.takes_turns else end
                yield from self._wait(shard.shard_id, math.inf if track.track_id in self.endless else end)
            busy_s += self.track_s
            yield Committed(shard.shard_id, (self._settle(track),))
        del self.admissions[shard.shard_id]
        yield from self._asked_back(shard.shard_id)
        device = DeviceSeconds(busy=busy_s)
        yield ShardDone(shard.shard_id, time.monotonic() - begin, StageSeconds(), device)

    def give_back(self, shard_id: str) -> None:
        """Do not begin half of what has not begun."""
        if admission := self.admissions.get(shard_id):
            admission.give_back(lambda ids: self.returned[shard_id].put(Returned(shard_id, ids)))

    def stop_admitting(self) -> None:
        """Begin no further track."""
        self.stop.set()

    def held_bytes(self) -> dict[str, int]:
        """It holds no audio."""
        return {}

    def close(self) -> None:
        """Nothing to end."""

    def _wait(self, shard_id: str, until: float) -> Iterator[Beat | Returned]:
        beat_at = time.monotonic() + self.beat_s
        while (left_s := until - time.monotonic()) > 0:
            try:
                yield self.returned[shard_id].get(timeout=min(left_s, self.beat_s))
            except Empty:
                if time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + self.beat_s
                    yield Beat(shard_id)

    def _asked_back(self, shard_id: str) -> Iterator[Returned]:
        while not self.returned[shard_id].empty():
            yield self.returned[shard_id].get()

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
