"""The workers of a run, as whoever watches sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WorkerPhase = Literal["starting", "idle", "working", "leaving", "lost"]
"""Starting: its process or its model is not there yet. Leaving: its node is to go. Lost: to be replaced."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What one worker of a pool is at."""

    node: str
    """The first digits of its node's id; empty before it has one."""
    pid: int | None
    phase: WorkerPhase
    n_settled: int = 0
    """Tracks, since it came."""
    n_in_flight: int = 0
    path: str = ""
    """Of the track that began first, of those in flight."""


@dataclass(frozen=True, slots=True)
class Staff:
    """The workers of a pool as they are now."""

    workers: tuple[WorkerState, ...]
