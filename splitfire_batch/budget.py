"""How much audio a worker holds in memory, and which track may hold more.

A track takes its share before it is fetched, and takes more only after giving back all it has: whoever waits
holds nothing, so no two tracks wait for each other. What does not fit into a share goes to disk (`Spool`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from splitfire_batch.stopwatch import Stopwatch

_SPOOLS_PART = 8
"""Spools that need more than this part of the budget go to disk: else one track would shut out many."""


class AudioBudget:
    """Bytes of audio that all tracks of a worker may hold together."""

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._lock = threading.Lock()
        self._waiting: deque[_Claim] = deque()
        self.n_held = 0
        """Bytes in shares now: at most the budget, or the needs of a single track."""

    @property
    def n_waiting(self) -> int:
        """Tracks that wait for a share."""
        return len(self._waiting)

    @contextmanager
    def share(self, n_bytes: int, watch: Stopwatch) -> Iterator[Share]:
        """A share of `n_bytes`, given back at the end of the block.

        Waits until it fits and all shares asked for before are given; a track alone never waits.

        Args:
            n_bytes: what the track is expected to need at most.
            watch: gets the seconds of waiting.
        """
        share = Share(self, watch)
        share.resize(n_bytes)
        try:
            yield share
        finally:
            share.resize(0)

    def fits_spools(self, n_bytes: int) -> bool:
        """Whether a track's spools, of `n_bytes` in all, may stay in memory."""
        return n_bytes <= self._n_bytes // _SPOOLS_PART

    def resize(self, share: Share, n_bytes: int) -> None:
        """`Share.resize`: a track that was begun goes in front of those that were not."""
        claim = _Claim(n_bytes)
        with self._lock:
            self.n_held -= share.n_bytes
            if n_bytes <= share.n_bytes:
                self.n_held += n_bytes
                claim.is_granted.set()
            elif share.is_begun:
                self._waiting.appendleft(claim)
            else:
                self._waiting.append(claim)
            self._grant()
        if not claim.is_granted.is_set():
            with share.watch.measure("wait_memory"):
                claim.is_granted.wait()

    def _grant(self) -> None:
        """Give the shares that fit, in order; one larger than the budget fits when nothing else is held."""
        while self._waiting:
            claim = self._waiting[0]
            if self.n_held and self.n_held + claim.n_bytes > self._n_bytes:
                return
            self._waiting.popleft()
            self.n_held += claim.n_bytes
            claim.is_granted.set()


class Share:
    """What one track may hold. Made by `AudioBudget.share`; belongs to one thread."""

    def __init__(self, budget: AudioBudget, watch: Stopwatch) -> None:
        self._budget, self.watch = budget, watch
        self.is_begun = False
        self.n_bytes = 0
        """Bytes the track may hold now."""

    def resize(self, n_bytes: int) -> None:
        """Make it `n_bytes`. Less is given back at once; for more, hold no audio: the track may wait."""
        self._budget.resize(self, n_bytes)
        self.n_bytes, self.is_begun = n_bytes, True


class _Claim:
    """A share somebody waits for."""

    __slots__ = ("is_granted", "n_bytes")

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.is_granted = threading.Event()
