"""The codec children of a worker: forked as they are needed, used again, and ended without exception."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref

from splitfire_batch.children.child import Child, ChildLost
from splitfire_batch.children.starting import Zygote
from splitfire_batch.errors import ConfigError, TrackError

MAX_JOBS = 500
"""A child is replaced after so many: libsndfile's MP3 encoder leaks a little with each file."""
MAX_IDLE = 16
FORK_PAUSES_S = (0.2, 1.0, 5.0)
"""How long to wait before another child is asked for, where the system has no process or memory left."""

_log = logging.getLogger(__name__)


class Children:
    """Any number of children, for any number of threads."""

    def __init__(self, memory_bytes: int, codec_s: float) -> None:
        """Start the zygote, and do not wait for it.

        Args:
            memory_bytes: what one child may allocate.
            codec_s: seconds that it may be silent or compute, see `limits`.

        Raises:
            ConfigError: no process can be started.
        """
        self._limits = memory_bytes, codec_s
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        try:
            self._zygotes = [Zygote(*self._limits)]
        except OSError as error:
            raise ConfigError(
                f'codecs: no process can be started for them: {error}; set codecs = "inline" to do without'
            ) from error
        self._finalizer = weakref.finalize(self, _end_all, self._idle, self._zygotes, os.getpid())

    def take(self) -> Child:
        """A child that waits for a job: one that has done some, or a new one.

        Raises:
            TrackError: INTERNAL, none can be started.
        """
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.is_ready():
                    return child
                _end(child)
        for pause_s in (*FORK_PAUSES_S, None):
            try:
                return self._zygotes[0].fork()
            except ChildLost as error:
                lost = error
            if not self._has_new_zygote() and pause_s is not None:
                time.sleep(pause_s)
        why = f"no process for decoding and encoding could be started: it {lost}"
        raise TrackError("INTERNAL", f'{why}; set codecs = "inline" to do without') from lost

    def give_back(self, child: Child, what: str) -> None:
        """Its job is done, and it waits for another; `what` names the job to a reader of the log."""
        child.n_jobs += 1
        _log_notes(child, what)
        with self._lock:
            is_of_use = not child.is_worn and child.n_jobs < MAX_JOBS and self._finalizer.alive
            if is_of_use and len(self._idle) < MAX_IDLE:
                self._idle.append(child)
                return
        _end(child)

    def discard(self, child: Child, what: str) -> None:
        """End a child whose job is not done."""
        child.end()
        _log_notes(child, what)
        child.forget()

    def close(self) -> None:
        """End every process; idempotent."""
        self._finalizer()

    def _has_new_zygote(self) -> bool:
        """Replace the zygote, if it is lost: whether that was so. The others' children are lost with it."""
        with self._lock:
            zygote = self._zygotes[0]
            if not zygote.is_lost() or not self._finalizer.alive:
                return False
            _log.warning("codecs_restarted")
            zygote.end()
            try:
                self._zygotes[0] = Zygote(*self._limits)
            except OSError as error:
                _log.warning("codecs_not_restarted why=%r", str(error))
                return False
            return True


def _log_notes(child: Child, what: str) -> None:
    if notes := child.notes():
        _log.info("codec_note track=%s says=%r", what, notes)


def _end(child: Child) -> None:
    child.end()
    child.forget()


def _end_all(idle: list[Child], zygotes: list[Zygote], owner: int) -> None:
    """Not in a copy of the owner, which shares its sockets."""
    if os.getpid() != owner:
        return
    while idle:
        _end(idle.pop())
    for zygote in zygotes:
        zygote.end()
