"""The lease on a local folder: `flock` on the record's file, which the system gives up with the process.

On NFS `flock` works between machines too, if it is mounted to lock (Linux 2.6.12 and later). Where it only
locks on this machine, a live holder on another one is still seen by its record, which changes.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from splitfire_batch.errors import LeaseHeld, LeaseLost
from splitfire_batch.lease.record import Holder, Timing, Watch, describe, parse

_READ = 4096
_SETTLE_S = 0.5


class FileLock:
    """The record in `file`; used by one thread at a time."""

    def __init__(self, file: Path, timing: Timing) -> None:
        self._file, self._timing = file, timing
        self._descriptor = -1

    def take(self, mine: Holder, tell: Callable[[str], None]) -> None:
        """Lock the file and make `mine` its record.

        Raises:
            LeaseHeld: another process has the lock.
            OSError: the file system has no locks.
        """
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._locked()
        try:
            self._see_foreign(mine, tell)
            self._write(mine)
        except BaseException:
            self.close()
            raise

    def _locked(self) -> int:
        """The file, open and locked; the one that has the name, should somebody remove it meanwhile."""
        while True:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _has_name(descriptor, self._file):
                    return descriptor
            except BlockingIOError as error:
                who = describe(_settled(descriptor))
                where = self._file.parent.parent
                raise LeaseHeld(f"{where} is held by {who}; wait until it ends, or stop it") from error
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _see_foreign(self, mine: Holder, tell: Callable[[str], None]) -> None:
        """A record of another machine that was never released: the lock may not reach there."""
        watch = Watch(self._timing)
        while (found := parse(self._read())) and not found.is_released and found.host != mine.host:
            state = watch.look(f"{found.nonce}-{found.count}")
            if state == "alive":
                raise LeaseHeld(
                    f"{self._file.parent.parent} is held by {found}; wait until it ends, or stop it"
                )
            if state == "dead":
                return
            if state == "new":
                where, wait_s = self._file.parent.parent, self._timing.expire_s
                tell(f"{where} is held by {found}: waiting {wait_s:g} s for a sign of life")
            time.sleep(self._timing.look_s)

    def renew(self, mine: Holder) -> None:
        """Show a sign of life, for machines that the lock does not reach.

        Raises:
            LeaseLost: the file is gone or another, or somebody else has written into it.
        """
        if not _has_name(self._descriptor, self._file):
            raise LeaseLost(f"{self._file} was removed; nothing shows who holds the destination")
        found = parse(self._read())
        if found is None or found.nonce != mine.nonce:
            raise LeaseLost(f"{self._file.parent.parent} was taken over by {describe(found)}")
        self._write(mine)

    def release(self, mine: Holder) -> None:
        """Remove the file and give up the lock; whoever has it open sees that it lost its name.

        Raises:
            LeaseLost: somebody else holds it.
        """
        try:
            self.renew(mine)
            self._file.unlink()
        finally:
            self.close()

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._descriptor)

    def _read(self) -> bytes:
        return os.pread(self._descriptor, _READ, 0)

    def _write(self, mine: Holder) -> None:
        data = mine.as_bytes()
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))


def _has_name(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _settled(descriptor: int) -> Holder | None:
    """The record of whoever has the lock; it may not have written it yet."""
    try:
        deadline = time.monotonic() + _SETTLE_S
        while (found := parse(os.pread(descriptor, _READ, 0))) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return found
    finally:
        os.close(descriptor)
