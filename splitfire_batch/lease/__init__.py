"""The lease: one run at a time writes into a destination, and a second one says so instead.

It covers the destination as a whole: every run resolves names against all that lies there and makes the views
over it, whatever its model. A run holds the lease from before it plans until its report is written. The lease
saves work, and guards what has plain names; immutable names are safe without it, because nothing is ever
written over. A holder that finds another in its place (it was frozen, or cut off from the store) has lost it:
it must stop at once and commit nothing more.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from splitfire_batch.errors import AccessDenied, ConfigError, LeaseLost, SplitfireError, TransientError
from splitfire_batch.lease.clock import awake_or_asleep
from splitfire_batch.lease.files import FileLock
from splitfire_batch.lease.objects import ObjectLock
from splitfire_batch.lease.record import PATH, Holder, Timing, read_holder
from splitfire_batch.storage import RetryBudget, Store

__all__ = ["BUDGET", "PATH", "TIMING", "Guard", "Holder", "Lease", "Timing", "hold", "unheld"]

TIMING = Timing()
BUDGET = RetryBudget(tries=3, max_wait_s=1.0, connect_timeout_s=3.0, read_timeout_s=5.0)
"""For the store that a lease is held on: a renewal must fail in time to be tried again."""
GUARD_S = 5.0
"""A worker asks again before it writes a stem if its last answer is older than this."""
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})

_log = logging.getLogger(__name__)


class _Lock(Protocol):
    """What a lease is held by: an object, or a file."""

    def take(self, mine: Holder, tell: Callable[[str], None]) -> None: ...

    def renew(self, mine: Holder) -> None: ...

    def release(self, mine: Holder) -> None: ...


class Lease:
    """A held lease, renewed by a thread of its own; or one that only stands for none."""

    def __init__(self, holder: Holder, lock: _Lock | None, timing: Timing) -> None:
        self.run_id = holder.run_id
        self.nonce = holder.nonce if lock else ""
        """What workers find in the record while the lease is held; empty when there is no lease."""
        self.is_lost = threading.Event()
        """Set once somebody else was found in our place."""
        self._holder, self._lock, self._timing = holder, lock, timing
        self._why = ""
        self._renewed_at = awake_or_asleep()
        self._turn, self._is_closing = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        if lock:
            self._thread.start()

    def check(self) -> None:
        """Ask nobody; return at once.

        Raises:
            LeaseLost: it is known to be lost.
        """
        if self.is_lost.is_set():
            raise LeaseLost(f"{self._why}; this run stops and records nothing more; run it again")

    def confirm(self) -> None:
        """Renew if the last sign of life is so old that another may have taken over.

        Raises:
            LeaseLost: another has.
            TransientError: the store does not answer.
        """
        if self._lock and awake_or_asleep() - self._renewed_at > 2 * self._timing.renew_s:
            self._renew()
        self.check()

    def release(self) -> None:
        """Let others in; a store that is away keeps them waiting until the lease expires."""
        self._is_closing.set()
        if self._lock is None:
            return
        self._thread.join()
        try:
            self._lock.release(self._holder.released())
        except (SplitfireError, OSError) as error:
            if not self.is_lost.is_set():
                _log.warning("lease_not_released run=%s why=%r", self.run_id, str(error))

    def _keep(self) -> None:
        """Runs in the thread: an outage is waited out, for only another holder's record ends a lease."""
        pause_s = self._timing.renew_s
        while not self._is_closing.wait(pause_s) and not self.is_lost.is_set():
            try:
                self._renew()
                pause_s = self._timing.renew_s
            except Exception as error:  # noqa: BLE001 - or the lease would expire, and nobody be told
                pause_s = self._timing.look_s
                is_bug = not isinstance(error, SplitfireError)
                _log.warning("lease_not_renewed run=%s why=%r", self.run_id, str(error), exc_info=is_bug)

    def _renew(self) -> None:
        with self._turn:
            if self._lock is None or self.is_lost.is_set():
                return
            begin = awake_or_asleep()
            self._holder = self._holder.renewed()
            try:
                self._lock.renew(self._holder)
            except LeaseLost as error:
                self._why = str(error)
                self.is_lost.set()
                _log.error("lease_lost run=%s why=%r", self.run_id, self._why)
                return
            except OSError as error:
                raise TransientError(f"the lease's file: {error}") from error
            self._renewed_at = begin


@contextmanager
def hold(
    store: Store,
    run_id: str,
    *,
    is_needed: bool = True,
    tell: Callable[[str], None] = _log.warning,
    timing: Timing = TIMING,
) -> Iterator[Lease]:
    """The lease on a destination, for as long as the block lasts.

    Args:
        store: the destination; opened with `BUDGET`, so that a renewal does not outlast the lease.
        run_id: who wants it.
        is_needed: refuse to go on where leases cannot be had; else warn, and yield one that stands for none.
        tell: gets one line if it is held by somebody who may be dead: then this waits.
        timing: of all runs on that destination.

    Raises:
        LeaseHeld: somebody else holds it, and lives.
        ConfigError: the store cannot keep a lease, and it is needed.
        AccessDenied: the record may not be written.
        TransientError: the store does not answer.
    """
    lock, holder = _lock_on(store, timing), Holder(run_id)
    try:
        if lock:
            lock.take(holder, tell)
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise AccessDenied(f"{store.url}/{PATH}", f"the lease cannot be written: {error}") from error
        if error.errno not in _NO_LOCKS:
            raise TransientError(f"{store.url}: the lease's file: {error}") from error
        lock = None
    if lock is None:
        _do_without(store, is_needed)
    lease = Lease(holder, lock, timing)
    try:
        yield lease
    finally:
        lease.release()


def _lock_on(store: Store, timing: Timing) -> _Lock | None:
    if store.is_local:
        return FileLock(Path(store.url) / PATH, timing)
    return ObjectLock(store, timing) if store.can_replace else None


def _do_without(store: Store, is_needed: bool) -> None:
    found = f"{store.url} cannot keep a lease: it neither locks files nor replaces objects conditionally"
    if is_needed:
        raise ConfigError(f'{found}, which plain names need; set names = "immutable"')
    _log.warning("no_lease why=%r", f"{found}; see to it that one run at a time works there")


def unheld(run_id: str = "") -> Lease:
    """Stands for a lease where none is wanted; it is never lost."""
    return Lease(Holder(run_id), None, TIMING)


class Guard:
    """Asks, for a worker, whether its run still holds the destination. Without a nonce it asks nobody.

    A worker may outlive its run: frozen, or on a machine that was cut off. Under plain names it would write
    over the stems of the run that came after, under any it would record stems that a vacuum has removed.
    Between an answer and the end of a put there is still a gap; what slips through it under plain names is
    found when the later run compares listing and rows.
    """

    def __init__(self, store: Store | None = None, nonce: str = "") -> None:
        self._store, self._nonce = store, nonce
        self._asked_at = float("-inf")
        self._turn = threading.Lock()

    def check(self, max_age_s: float = 0.0) -> None:
        """Ask the store, unless an answer is younger than `max_age_s` on this machine's clock.

        Raises:
            LeaseLost: the record is not that of the run.
            TransientError: the store does not answer.
        """
        with self._turn:
            now = awake_or_asleep()
            if self._store is None or not self._nonce or now - self._asked_at < max_age_s:
                return
            holder = read_holder(self._store)
            if holder is None or holder.nonce != self._nonce or holder.is_released:
                raise LeaseLost(
                    f"{self._store.url} is no longer held by this worker's run; nothing was written"
                )
            self._asked_at = now
