"""Loaded by a zygote: its system has no process left when it is asked for a second child."""

from __future__ import annotations

import errno
import itertools
import os

_fork, _calls = os.fork, itertools.count(1)


def _fork_poorly() -> int:
    if next(_calls) == 2:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return _fork()


os.fork = _fork_poorly
