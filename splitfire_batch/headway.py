"""How far the files of one process are, for whoever wants to look.

A file tells once, as its audio begins to be read, and once when it is settled; what lies between is counted
where the audio is kept anyway. So it costs the work nothing, however often somebody looks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from splitfire_batch.records import AudioFormat, TrackRow


class Counted(Protocol):
    """What a file's audio is kept in; it counts on, in another thread."""

    source: AudioFormat

    @property
    def n_estimated(self) -> int:
        """Frames of which every estimate is there."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that is at work."""

    path: str
    audio_s: float
    """Seconds of its audio that are separated."""
    duration_s: float
    """Of the whole file, as its header says; 0 where it does not say."""
    seconds: float
    """Since its audio began to be read."""

    @property
    def is_separated(self) -> bool:
        """Whether its stems are being written."""
        return 0 < self.duration_s <= self.audio_s

    @property
    def real_time_factor(self) -> float:
        """Seconds of audio per second."""
        return self.audio_s / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Estimated seconds until it is separated; None where nothing says."""
        if not self.audio_s or not self.duration_s:
            return None
        return max(0.0, self.duration_s - self.audio_s) / self.real_time_factor


@dataclass(frozen=True, slots=True)
class FilesProgress:
    """All files, at one moment."""

    n_files: int
    n_settled: int
    audio_s: float
    """Seconds of audio that are separated, of settled and of open files."""
    seconds: float
    """Since the first file's audio began to be read."""
    open: tuple[OpenFile, ...]
    """In the order in which they began."""

    @property
    def real_time_factor(self) -> float:
        """Seconds of audio per second."""
        return self.audio_s / self.seconds if self.seconds > 0 else 0.0


class Headway:
    """Counts files, from any number of threads.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[str, tuple[float, Counted]] = {}
        self._first_at: float | None = None
        self._n_files = self._n_settled = 0
        self._settled_audio_s = 0.0

    def expect(self, n_files: int) -> None:
        """So many files there will be."""
        self._n_files = n_files

    def begin(self, path: str, audio: Counted) -> None:
        """A file's audio is read from now on."""
        now = self._clock()
        with self._lock:
            self._first_at = now if self._first_at is None else self._first_at
            self._open[path] = now, audio

    def settle(self, row: TrackRow) -> None:
        """A file has its row."""
        with self._lock:
            self._open.pop(row.track.path, None)
            self._n_settled += 1
            if row.status != "failed" and row.source:
                self._settled_audio_s += row.source.n_frames / row.source.sample_rate

    def now(self) -> FilesProgress:
        """How far they are."""
        now = self._clock()
        with self._lock:
            open_files = tuple(_seen(path, audio, now - at) for path, (at, audio) in self._open.items())
            audio_s = self._settled_audio_s + sum(file.audio_s for file in open_files)
            seconds = 0.0 if self._first_at is None else now - self._first_at
            return FilesProgress(self._n_files, self._n_settled, audio_s, seconds, open_files)


def _seen(path: str, audio: Counted, seconds: float) -> OpenFile:
    rate = audio.source.sample_rate
    return OpenFile(path, audio.n_estimated / rate, audio.source.n_frames / rate, seconds)
