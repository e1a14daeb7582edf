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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from splitfire_batch.lease.files import FileLock
from splitfire_batch.storage.folder import Folder
from splitfire_batch.storage.s3 import S3

EXIT_CODE = 137
"""What a shell shows for SIGKILL."""

When = Literal["before", "torn", "unnamed", "unsynced", "after"]
"""A put into a bucket is whole or nothing, so there is only a before and an after (an answer that nobody
heard). In a folder also: with half the bytes written, before the file has its name, before that is synced."""

_STEPS = {
    "settings": r"_splitfire/settings/\w+\.json",
    "weights": r"_splitfire/weights/[\w.-]+\.safetensors",
    "job record": r"_splitfire/runs/[^/]+/job\.json",
    "plan": r"_splitfire/runs/[^/]+/plan/tracks\.parquet",
    "part": r"_splitfire/parts/\w+/[^/]+/[^/]+\.parquet",
    "snapshot": r"_splitfire/ledger/snapshot-\d+-\w+\.parquet",
    "tracks view": r"_splitfire/views/tracks\.parquet",
    "stems view": r"_splitfire/views/stems\.parquet",
    "view switch": r"_splitfire/views/view\.json",
    "check mark": r"_splitfire/runs/[^/]+/checked\.json",
    "failures": r"_splitfire/runs/[^/]+/failures\.parquet",
    "page": r"_splitfire/runs/[^/]+/report\.html",
    "run record": r"_splitfire/runs/[^/]+/run\.json",
    "stem": r"(?!_splitfire/).+\.(wav|flac|aiff|ogg)",
    "clock": r"_splitfire/clock-\w+",
}
LEASE_STEPS = frozenset({"lease taken", "lease renewed", "lease released"})
VACUUM_STEPS = frozenset({"clock", "clock removed", "stem removed", "snapshot removed", "leftover removed"})
STEPS = frozenset({*_STEPS, *LEASE_STEPS, *VACUUM_STEPS, "probe"})
"""Every step of the protocol that leaves something in the destination."""
_LEASE = "_splitfire/lease.json"


def step_of(operation: str, path: str, data: bytes = b"") -> str:
    """The step that an operation on this path of the destination belongs to.

    Raises:
        ValueError: it belongs to none.
    """
    if not path:
        return "probe"
    if path == _LEASE:
        holder = json.loads(data)
        first = "taken" if holder["count"] == 0 else "renewed"
        return f"lease {'released' if holder['is_released'] else first}"
    for step, pattern in _STEPS.items():
        if re.fullmatch(pattern, path):
            name = f"{step} removed" if operation == "delete" else step
            if name in STEPS:
                return name
    if operation == "delete" and re.search(r"\.splitfire-\w+\.tmp$", path):
        return "leftover removed"
    raise ValueError(f"{operation} {path} is no step of the protocol known to tests/crash_points.py; add it")


def moments(step: str, is_bucket: bool) -> tuple[When, ...]:
    """When a process can end in an operation of that step."""
    if is_bucket or step == "probe" or step.endswith(" removed"):
        return ("before", "after")
    if step in LEASE_STEPS:  # a file that is written in place, and removed
        return ("before", "after") if step == "lease released" else ("before", "torn", "after")
    return ("before", "torn", "unnamed", "unsynced", "after")


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
        os.write(self._file, b"\n" + json.dumps(event).encode() + b"\n")  # after one that was cut off


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Every event in the order in which it was noted; one that a kill cut off in the midst is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def tracks_in(journal: list[dict[str, Any]], event: str) -> list[str]:
    """The track_id of every event of this kind."""
    return [track for entry in journal if entry.get("event") == event for track in entry["tracks"]]


def watch_stores(journal: Journal, crash: Crash | None) -> None:
    """From now on note every durable operation of this process, and crash as ordered."""
    watcher = _Watcher(journal, crash)
    for backend in (Folder, S3):
        for name in ("write", "copy", "create", "replace", "delete", "check_writable"):
            original = getattr(backend, name, None)
            if original is not None and not (backend is S3 and name == "check_writable"):
                setattr(backend, name, watcher.watched(name, original))
    FileLock.take = watcher.watched_lock("taken", FileLock.take)  # type: ignore[method-assign]
    FileLock.renew = watcher.watched_lock("renewed", FileLock.renew)  # type: ignore[method-assign]
    FileLock.release = watcher.watched_lock("released", FileLock.release)  # type: ignore[method-assign]
    os.pwrite = watcher.tearing_in_place(os.pwrite)  # type: ignore[assignment]
    os.fsync = watcher.tearing(os.fsync)  # type: ignore[assignment]
    os.link = watcher.around(os.link)
    os.replace = watcher.around(os.replace)


class _Watcher:
    def __init__(self, journal: Journal, crash: Crash | None) -> None:
        self._journal, self._crash = journal, crash
        self._lock, self._counts = threading.Lock(), Counter[str]()
        self._here = threading.local()

    def watched(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """A backend's method that tells of itself, and may not return, or not even begin."""

        def method(backend: object, path: str = "", *arguments: Any) -> Any:
            data = arguments[0] if arguments and isinstance(arguments[0], bytes) else b""
            with self._operation(name, step_of(name, path, data), path):
                return original(backend, path, *arguments) if path else original(backend)

        return method

    def watched_lock(self, step: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """The same for the lease on a folder, which is a locked file."""

        def method(*arguments: Any) -> Any:
            if getattr(self._here, "is_inside", False):  # a release shows one more sign of life
                return original(*arguments)
            with self._operation("lock", f"lease {step}", _LEASE):
                return original(*arguments)

        return method

    @contextmanager
    def _operation(self, name: str, step: str, path: str) -> Iterator[None]:
        with self._lock:
            self._counts[step] += 1
            nth = self._counts[step]
        crash = self._crash
        is_due = crash is not None and (crash.step, crash.nth) == (step, nth)
        self._journal.note(op=name, step=step, path=path, nth=nth)
        self._here.when = crash.when if crash is not None and is_due else None
        self._here.is_inside = True
        self._end_if("before")
        try:
            yield
            self._end_if("after")
        finally:
            self._here.when, self._here.is_inside = None, False
        self._journal.note(ended=name, step=step, path=path)

    def tearing(self, fsync: Callable[[int], None]) -> Callable[[int], None]:
        """For `os.fsync` of a new file: half of it was written when the process ended."""

        def call(descriptor: int) -> None:
            found = os.fstat(descriptor)
            if self._is_now("torn") and stat.S_ISREG(found.st_mode):  # new folders are synced too
                os.ftruncate(descriptor, found.st_size // 2)
                os._exit(EXIT_CODE)
            fsync(descriptor)

        return call

    def tearing_in_place(self, pwrite: Callable[[int, bytes, int], int]) -> Callable[[int, bytes, int], int]:
        """For `os.pwrite`: the process ended when half the bytes were over the old ones."""

        def call(descriptor: int, data: bytes, offset: int) -> int:
            if self._is_now("torn"):
                pwrite(descriptor, data[: len(data) // 2], offset)
                os._exit(EXIT_CODE)
            return pwrite(descriptor, data, offset)

        return call

    def around(self, naming: Callable[..., None]) -> Callable[..., None]:
        """For what gives a file its name: the process ended just before, or before that was synced."""

        def call(*arguments: Any, **options: Any) -> None:
            self._end_if("unnamed")
            naming(*arguments, **options)
            self._end_if("unsynced")

        return call

    def _is_now(self, when: When) -> bool:
        return getattr(self._here, "when", None) == when

    def _end_if(self, when: When) -> None:
        if self._is_now(when):
            os._exit(EXIT_CODE)
