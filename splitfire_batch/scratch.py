"""Folders for what a track needs while it is worked on, which do not outlive whoever made them for long.

A process that is killed leaves its folders, with spools of gigabytes. Each folder is locked by its process,
and the system gives the lock up with it; so whoever can lock a folder of that name may remove it. Not every
shared file system lets one machine see the locks of another: names tell the machine and its boot, and a
machine removes only its own.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "splitfire-track-"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def scratch_folder(parent: Path | str | None) -> Iterator[Path]:
    """A new folder below `parent`, or the system's for None; removed at the end of the block.

    Raises:
        OSError: it cannot be made.
    """
    folder, descriptor = _locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep(parent: Path | None) -> int:
    """Remove the folders of this machine's processes that are gone; returns how many."""
    n_removed = 0
    for folder in filter(_is_of_here, Path(parent or tempfile.gettempdir()).glob(f"{_PREFIX}*")):
        with suppress(OSError):  # another user's, gone meanwhile, in use, or no locks here
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                n_removed += 1
            finally:
                os.close(descriptor)
    return n_removed


def _locked_folder(parent: Path | str | None) -> tuple[Path, int]:
    """Between its making and its locking somebody may sweep it away: then another is made."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{'-'.join(_here())}-", dir=parent))
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        with suppress(OSError):  # where there are no locks nobody sweeps either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)


def _here() -> tuple[str, str]:
    """Names of this machine, without dashes, and of its boot."""
    host = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
    try:
        return host, _BOOT.read_text()[:8]
    except OSError:  # not a Linux
        return host, "unknown"


def _is_of_here(folder: Path) -> bool:
    """Whether locks tell the truth of it: containers of one boot share them, and a boot before is over."""
    machine = folder.name.removeprefix(_PREFIX).split("-")
    if len(machine) != 3:
        return False
    (host, boot), here = machine[:2], _here()
    return host == here[0] or (boot == here[1] != "unknown")
