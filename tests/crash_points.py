"""Where a job can be cut off: before, after and inside every operation that leaves something in a store.

All durable effects of driver and worker go through the backends of `splitfire_batch.storage`, so these are
wrapped, and the product knows nothing of it. The step of the protocol that an operation belongs to is read
from its path; a path that belongs to none is an error, so that no step can be added without its crash.
"""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from splitfire_batch.storage.buckets import Bucket
from splitfire_batch.storage.folder import Folder

EXIT_CODE = 137
"""What a shell shows for SIGKILL."""

When = Literal["before", "torn", "unnamed", "unsynced", "after"]
IN_BUCKET: tuple[When, ...] = ("before", "after")
"""A put is whole or nothing; a crash after it is an answer that nobody heard."""
IN_FOLDER: tuple[When, ...] = ("before", "torn", "unnamed", "unsynced", "after")
"""Also with half the bytes in the temporary file, before it has its name, and before the name is synced."""

_STEPS = {
    "probe": r"",
    "settings": r"_splitfire/settings/\w+\.json",
    "plan": r"_splitfire/runs/[^/]+/plan/tracks\.parquet",
    "part": r"_splitfire/parts/\w+/[^/]+/[^/]+\.parquet",
    "tracks view": r"_splitfire/views/tracks\.parquet",
    "stems view": r"_splitfire/views/stems\.parquet",
    "view switch": r"_splitfire/views/view\.json",
    "failures": r"_splitfire/runs/[^/]+/failures\.parquet",
    "run record": r"_splitfire/runs/[^/]+/run\.json",
    "stem": r"(?!_splitfire/).+\.(wav|flac|aiff|ogg)",
}
STEPS = frozenset(_STEPS)
"""Every step of the protocol that leaves something in the destination."""


def step_of(path: str) -> str:
    """The step that writes to this path of the destination. Raises ValueError for a path of no step."""
    for step, pattern in _STEPS.items():
        if re.fullmatch(pattern, path):
            return step
    raise ValueError(
        f"{path} belongs to no step of the protocol known to tests/crash_points.py; add it there"
    )


@dataclass(frozen=True)
class Crash:
    """The process ends at once at the n-th operation of a step, counted from 1."""

    step: str
    nth: int
    when: When

    def __str__(self) -> str:
        return f"{self.when} {self.step} {self.nth}"


class Journal:
    """Events, one JSON object a line; appended so that a crash loses none of them."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, **event: object) -> None:
        """Append an event."""
        os.write(self._file, json.dumps(event).encode() + b"\n")


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Every event in the order in which it was noted."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tracks_in(journal: list[dict[str, Any]], event: str) -> list[str]:
    """The track_id of every event of this kind."""
    return [track for entry in journal if entry.get("event") == event for track in entry["tracks"]]


def watch_stores(journal: Journal, crash: Crash | None) -> None:
    """From now on note every durable operation of this process, and crash as ordered."""
    watcher = _Watcher(journal, crash)
    for backend in (Folder, Bucket):
        for name in ("write", "create", "replace", "delete", "check_writable"):
            original = getattr(backend, name, None)
            if original is not None and not (backend is Bucket and name == "check_writable"):
                setattr(backend, name, watcher.watched(name, original))
    os.fsync = watcher.at("torn", os.fsync)  # type: ignore[assignment]
    os.link = watcher.at("unnamed", os.link, "unsynced")
    os.replace = watcher.at("unnamed", os.replace, "unsynced")


class _Watcher:
    def __init__(self, journal: Journal, crash: Crash | None) -> None:
        self._journal, self._crash = journal, crash
        self._lock, self._counts = threading.Lock(), Counter[str]()
        self._here = threading.local()

    def watched(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """A backend's method that tells of itself, and may not return, or not even begin."""

        def method(backend: object, path: str = "", *arguments: object) -> Any:
            step = step_of(path)
            with self._lock:
                self._counts[step] += 1
                nth = self._counts[step]
            crash = self._crash
            is_due = crash is not None and (crash.step, crash.nth) == (step, nth)
            self._journal.note(op=name, step=step, path=path, nth=nth)
            self._here.when = crash.when if crash is not None and is_due else None
            self._end_if("before")
            result = original(backend, path, *arguments) if path else original(backend)
            self._end_if("after")
            self._here.when = None
            self._journal.note(ended=name, step=step, path=path)
            return result

        return method

    def at(self, before: When, original: Callable[..., Any], after: When | None = None) -> Callable[..., Any]:
        """A call of the system that may be the last one inside an operation."""

        def call(*arguments: Any, **options: Any) -> Any:
            if before == "torn" and getattr(self._here, "when", None) == "torn":
                found = os.fstat(arguments[0])
                if not stat.S_ISREG(found.st_mode):  # new folders are synced too
                    return original(*arguments, **options)
                os.ftruncate(arguments[0], found.st_size // 2)
            self._end_if(before)
            result = original(*arguments, **options)
            if after is not None:
                self._end_if(after)
            return result

        return call

    def _end_if(self, when: When) -> None:
        if getattr(self._here, "when", None) == when:
            os._exit(EXIT_CODE)
