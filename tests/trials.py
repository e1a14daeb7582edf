"""A job in a destination of its own that is disturbed, looked at, and run again until it is done.

After every disturbance the destination is inspected; whatever a run had told, or the store had shown, to be
committed must stay so, and no later run may begin such a track.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.crash_points import LEASE_STEPS, read_journal, tracks_in
from tests.forks import Forks, survivors
from tests.in_process_job import JobOrder
from tests.invariants import Findings, inspect, objects_at, recorded, settled
from tests.small_library import Library

SETTLED = (0, 3)
"""Exit codes of a job that is done: all tracks have stems, or some have failed for good."""
_GRACE_S = 5.0


@dataclass
class Counts:
    """What a storm did, and what of it was not as promised."""

    kills: int = 0
    resumes: int = 0
    tracks: int = 0
    lost: int = 0
    wrong: int = 0
    duplicate: int = 0
    redone: int = 0
    unreferenced: int = 0
    surviving: int = 0

    def add(self, found: Findings) -> None:
        """Count what was found in one destination."""
        for name in ("lost", "wrong", "duplicate", "redone", "unreferenced"):
            setattr(self, name, getattr(self, name) + len(getattr(found, name)))

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in vars(self).items())


@dataclass
class Trial:
    """One job; `order` may be changed between its runs."""

    forks: Forks
    library: Library
    order: JobOrder
    counts: Counts = field(default_factory=Counts)
    before: set[str] = field(default_factory=set)
    """Tracks that are settled for good."""

    @property
    def log(self) -> str:
        """What the runs printed."""
        return f"{self.order.journal}.log"

    @property
    def is_immutable(self) -> bool:
        """Whether content never changes under a name."""
        return self.order.names == "immutable"

    def start(self, **changes: object) -> int:
        """Begin a run; changes are fields of its order."""
        return self.forks.start(replace(self.order, **changes), self.log)  # type: ignore[arg-type]

    def told(self) -> str:
        """For messages: what the runs printed."""
        path = Path(self.log)
        return path.read_text() if path.exists() else ""

    def look(self, pid: int) -> None:
        """A run is gone before its end: what it left holds, and no process of it is alive."""
        self.counts.surviving += self._wait_for_end(pid)
        assert survivors(pid) == []
        found = inspect(
            objects_at(self.order.destination), self.library.wanted, self.is_immutable, is_complete=False
        )
        self._judge(replace(found, unreferenced=[]))  # they are what is to be removed later

    def resume(self) -> None:
        """The same job again, to its end, and a vacuum; then everything holds and nothing is left over."""
        self.counts.resumes += 1
        code = self.forks.run(replace(self.order, vacuums=True), self.log)
        assert code in SETTLED, self.told()
        found = inspect(
            objects_at(self.order.destination), self.library.wanted, self.is_immutable, is_vacuumed=True
        )
        self._judge(found)
        self.counts.tracks += len(self.library.wanted)
        assert (found.lost, found.unreferenced, found.temporary) == ([], [], []), f"{found}\n{self.told()}"

    def check_after_rivals(self) -> None:
        """Several runs did the same work: rows may be there twice, but one counts, and all hold."""
        objects = objects_at(self.order.destination)
        found = inspect(objects, self.library.wanted, self.is_immutable)
        assert replace(found, redone=[], unreferenced=[]) == Findings(), f"{found}\n{self.told()}"
        Path(self.order.journal).unlink(missing_ok=True)
        assert self.forks.run(replace(self.order, vacuums=True), self.log) == 0, self.told()
        found = inspect(objects, self.library.wanted, self.is_immutable, is_vacuumed=True)
        assert replace(found, redone=[]) == Findings(), f"{found}\n{self.told()}"

    def idle(self) -> None:
        """Once more: there is nothing to do, so nothing is planned and nothing written."""
        journal = Path(self.order.journal)
        journal.unlink(missing_ok=True)
        assert self.forks.run(self.order, self.log) == 0, self.told()
        events = read_journal(journal)
        assert tracks_in(events, "planned") == []
        steps = {event["step"] for event in events if "op" in event}
        assert steps <= {"probe", *LEASE_STEPS}, steps

    def _judge(self, found: Findings) -> None:
        """What was committed stays so; what was settled before the last run was not begun again."""
        self.counts.add(found)
        assert (found.wrong, found.duplicate, found.redone) == ([], [], []), f"{found}\n{self.told()}"
        journal = Path(self.order.journal)
        events = read_journal(journal)
        again = self.before & set(tracks_in(events, "started"))
        self.counts.redone += len(again)
        assert not again
        objects = objects_at(self.order.destination)
        assert set(tracks_in(events, "committed")) <= recorded(objects)
        now = settled(objects)
        assert self.before <= now
        self.before = now
        journal.unlink(missing_ok=True)

    @staticmethod
    def _wait_for_end(pid: int) -> int:
        """How many processes of the session are alive after a grace of seconds."""
        give_up_at = time.monotonic() + _GRACE_S
        while (left := survivors(pid)) and time.monotonic() < give_up_at:
            time.sleep(0.05)
        return len(left)
