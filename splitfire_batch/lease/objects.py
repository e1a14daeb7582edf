"""The lease on an object store: a small object that its holder replaces again and again, by If-Match.

Each replacement names the etag that it expects, so of several that try to take over exactly one succeeds, and
a holder that was frozen and wakes finds that its own renewal fails. Whether a holder lives is judged by
whether the etag changes, on the observer's own clock: no two machines' clocks are ever compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from splitfire_batch.errors import LeaseHeld, LeaseLost, ObjectChanged, ObjectExists, ObjectMissing
from splitfire_batch.lease.record import PATH, Holder, Timing, Watch, describe, parse
from splitfire_batch.storage import Store

_Found = tuple[str, Holder | None]  # an etag, and the record that has it or a younger one


class ObjectLock:
    """The record below `store`; used by one thread at a time."""

    def __init__(self, store: Store, timing: Timing) -> None:
        self._store, self._timing = store, timing
        self._etag = ""

    def take(self, mine: Holder, tell: Callable[[str], None]) -> None:
        """Make `mine` the record, after as long a look at another as shows that its holder is dead.

        Raises:
            LeaseHeld: the other holder lives.
        """
        watch = Watch(self._timing)
        while True:
            found = self._look()
            if found is None or (found[1] is not None and found[1].is_released):
                if self._put(mine, found):
                    return
                continue
            who, state = describe(found[1]), watch.look(found[0])
            if state == "alive":
                raise LeaseHeld(f"{self._store.url} is held by {who}; wait until it ends, or stop it")
            if state == "dead" and self._put(mine, found):
                return
            if state == "new":
                wait_s = self._timing.expire_s
                tell(f"{self._store.url} is held by {who}: waiting {wait_s:g} s for a sign of life")
            time.sleep(self._timing.look_s)

    def _put(self, mine: Holder, over: _Found | None) -> bool:
        """Whether `mine` is the record now; not if somebody was quicker."""
        try:
            if over is None:
                self._etag = self._store.create(PATH, mine.as_bytes())
            else:
                self._etag = self._store.replace(PATH, mine.as_bytes(), over[0])
        except (ObjectExists, ObjectChanged, ObjectMissing):
            return False
        return True

    def renew(self, mine: Holder) -> None:
        """Show a sign of life.

        Raises:
            LeaseLost: the record is no longer ours.
        """
        try:
            self._etag = self._store.replace(PATH, mine.as_bytes(), self._etag)
        except (ObjectChanged, ObjectMissing):
            self._confirm(mine)

    def release(self, mine: Holder) -> None:
        """Say that nobody holds the destination.

        Raises:
            LeaseLost: somebody else holds it.
        """
        try:
            self._store.replace(PATH, mine.as_bytes(), self._etag)
        except (ObjectChanged, ObjectMissing):
            self._confirm(mine)
            self._store.replace(PATH, mine.as_bytes(), self._etag)

    def _confirm(self, mine: Holder) -> None:
        """The etag after a replacement failed: ours still, if only an answer was lost."""
        found = self._look()
        if found is None:
            raise LeaseLost(
                f"{self._store.uri_of(PATH)} was removed; nothing shows who holds the destination"
            )
        etag, holder = found
        if holder is None or holder.nonce != mine.nonce:
            raise LeaseLost(f"{self._store.url} was taken over by {describe(holder)}")
        self._etag = etag

    def _look(self) -> _Found | None:
        """The etag first: a replacement by it fails if the record that is read then is another."""
        try:
            etag = self._store.stat(PATH).etag
            return etag, parse(self._store.read(PATH))
        except ObjectMissing:
            return None
