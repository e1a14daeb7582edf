"""What a lease's record says to an onlooker: who holds the destination, and whether that one lives.

Nothing is written or locked, so a look disturbs nobody who wants the lease. One look has only the time of the
last renewal to judge by, which compares two machines' clocks; several are judged by the observer's own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from splitfire_batch.errors import ObjectMissing
from splitfire_batch.lease.record import PATH, Holder, Timing, read_holder
from splitfire_batch.storage import Store

LeaseState = Literal["free", "held", "silent"]
"""Silent: its holder gave no sign of life for so long that others may take over."""


@dataclass(frozen=True, slots=True)
class LeaseSeen:
    """A destination's lease as it looks now."""

    state: LeaseState
    holder: Holder | None = None
    """Who holds it; None if nobody does, or its record cannot be read."""
    silent_s: float = 0.0
    """Seconds since its last sign of life, if this machine's clock and the store's agree."""
    watched_s: float = 0.0
    """Seconds that it has been looked at without one, by this machine's clock."""


class Sighting:
    """Looks at the record again and again.

    Args:
        store: the destination.
        timing: of the runs there.
    """

    def __init__(self, store: Store, timing: Timing | None = None) -> None:
        self._store, self._timing = store, timing or Timing()
        self._sign: tuple[str, int] | None = None
        self._since = self._age_s = 0.0

    def look(self) -> LeaseSeen:
        """The lease as it is now.

        Raises:
            StorageError: the store refuses.
            TransientError: it does not answer.
        """
        holder = read_holder(self._store)
        if holder is None or holder.is_released:
            self._sign = None
            return LeaseSeen("free")
        sign, now = (holder.nonce, holder.count), time.monotonic()
        if sign != self._sign:
            try:
                self._age_s = 0.0 if self._sign else max(0.0, time.time() - self._store.stat(PATH).modified)
            except ObjectMissing:  # released since it was read
                return LeaseSeen("free")
            self._sign, self._since = sign, now
        watched_s = now - self._since
        silent_s = self._age_s + watched_s
        state: LeaseState = "silent" if silent_s > self._timing.expire_s else "held"
        return LeaseSeen(state, holder, silent_s, watched_s)
