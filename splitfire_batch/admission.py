"""Which tracks of a shard may still begin: each begins once, or is given back for another worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from splitfire_batch.records import Track


class Admission:
    """The tracks of one shard that have not begun. Called from several threads."""

    def __init__(self, tracks: Sequence[Track]) -> None:
        self._waiting = {track.track_id: track.cost for track in tracks}
        self._lock = threading.Lock()

    def admit(self, track_id: str) -> bool:
        """Whether a track may begin; it may not once it was given back."""
        with self._lock:
            return self._waiting.pop(track_id, None) is not None

    def give_back(self, tell: Callable[[tuple[str, ...]], None]) -> None:
        """Take the last tracks out, half of the waiting cost or one track at least.

        Args:
            tell: gets their ids, perhaps none, before any of them can be refused.
        """
        with self._lock:
            half = sum(self._waiting.values()) / 2
            taken: list[str] = []
            cost = 0.0
            for track_id in reversed(self._waiting):
                if taken and cost + self._waiting[track_id] > half:
                    break
                taken.append(track_id)
                cost += self._waiting[track_id]
            for track_id in taken:
                del self._waiting[track_id]
            tell(tuple(reversed(taken)))
