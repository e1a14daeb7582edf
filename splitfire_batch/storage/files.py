"""Single files of a local folder: how one appears whole, is opened, and how rivals take turns at one.

A file is written under a temporary name in its own folder, synced, and only then gets its name, which is
synced too. Who is killed before that leaves a temporary file, which no listing shows.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from splitfire_batch.errors import StorageError

_TEMPORARY = ".splitfire-"
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_LOCKED_WITHIN_S = 5.0  # the lock is held for one small write


@contextmanager
def new_file(file: Path, data: bytes | Path) -> Iterator[Path]:
    """A synced temporary file beside `file`, for the caller to give it that name."""
    _make_folder(file.parent)
    temporary = temporary_name(file.parent)
    try:
        with temporary.open("xb") as target:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
            else:
                target.write(data)
            target.flush()
            os.fsync(target.fileno())
        yield temporary
        _sync_folder(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def link_new(temporary: Path, file: Path) -> None:
    """Give a file its name; FileExistsError when that is taken."""
    try:
        os.link(temporary, file)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Nothing else both refuses a name that is taken and never shows half a file.
        why = "this file system has no hard links, so nothing is created exclusively"
        raise OSError(errno.ENOSYS, why) from error


def temporary_name(folder: Path) -> Path:
    """A name that nobody else uses and no listing shows."""
    return folder / f"{_TEMPORARY}{secrets.token_hex(8)}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a write that was never finished left this file."""
    return name.startswith(_TEMPORARY) and name.endswith(".tmp")


def etag_of(found: os.stat_result) -> str:
    """Changes whenever a file is replaced by another."""
    # The inode tells two files apart that replaced each other within one tick of the clock.
    return f"{found.st_mtime_ns:x}-{found.st_ino:x}-{found.st_size:x}"


def stamp(file: Path, after_ns: int = 0) -> str:
    """The etag of a file that rivals will replace, made unlike all that had its name.

    A freed inode is used again at once, and a tick of the system's clock is 4 ms, so both may come back. The
    time serves to make a difference; nobody compares it with a clock.
    """
    now = max(time.time_ns(), after_ns + 1000)
    os.utime(file, ns=(now, now))
    return etag_of(file.stat())


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Alone with that file among those who ask; TimeoutError when another does not let go."""
    descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)  # NFS locks only what may be written
    try:
        deadline = time.monotonic() + _LOCKED_WITHIN_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{file} is locked by another process") from error
            time.sleep(0.002)
        yield
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """`mkdir -p`, every new name synced."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: str) -> IO[bytes]:
    """A file of this machine, to be read.

    Raises:
        OSError: it cannot be opened.
        StorageError: it is a folder, a pipe or a device, of which nobody knows how much will come.
    """
    # A pipe would wait for somebody who writes; and what a path leads to is certain only once it is open.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StorageError(path, "is no regular file")
    return os.fdopen(descriptor, "rb")
