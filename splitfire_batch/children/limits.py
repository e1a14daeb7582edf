"""What the system holds a codec child to. Memory, files and cores dumped are Linux's and macOS's `setrlimit`;
dying with the parent is Linux's `prctl`, and elsewhere the end of a socket has to do.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

SAMPLES_PER_CPU_S = 100_000
"""So slow a codec may be: the slowest that music uses is fifty times faster."""
BYTES_PER_CPU_S = 10_000_000
"""The same for looking through a file before its samples."""
_PR_SET_PDEATHSIG = 1
_MAX_FILES = 64
_OWNER_FILES = 65_536


def die_with(parent: int) -> None:
    """End this process when its parent ends; at once if it has by now."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def hold_to(memory_bytes: int) -> None:
    """Allow this process so much memory beyond what it has, few open files, and no core dump."""
    _set(resource.RLIMIT_CORE, 0, is_final=True)
    _set(resource.RLIMIT_NOFILE, _MAX_FILES, is_final=True)
    with suppress(OSError):  # without /proc there is no way to know what it has
        n_pages = int(Path("/proc/self/statm").read_text().split()[0])
        _set(resource.RLIMIT_AS, n_pages * resource.getpagesize() + memory_bytes, is_final=True)


def allow_many_files() -> None:
    """Let this process have so many files open as its tracks, children and spools may need.

    Some systems begin with 256 or 1024, for the sake of programs that use `select`.
    """
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft != resource.RLIM_INFINITY and soft < _OWNER_FILES:
        _set(resource.RLIMIT_NOFILE, _OWNER_FILES)


def allow_cpu(seconds: float) -> None:
    """Let this process be ended by SIGXCPU once it has computed for so many seconds more."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    _set(resource.RLIMIT_CPU, int(spent.ru_utime + spent.ru_stime + seconds) + 1)


def allow_files(n_bytes: int) -> None:
    """Let no file that this process writes become longer."""
    _set(resource.RLIMIT_FSIZE, n_bytes)


def max_file_bytes() -> int:
    """How long a file may become; -1 for any length."""
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0]


def grown_bytes() -> int:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _set(which: int, value: int, is_final: bool = False) -> None:
    """The soft limit, which can be raised for the next file, or for good the hard one too."""
    hard = resource.getrlimit(which)[1]
    limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(ValueError, OSError):  # macOS has no limit of memory
        resource.setrlimit(which, (limit, limit if is_final else hard))
