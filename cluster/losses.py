"""What it means that a worker is lost: whose fault it is, and what a track that keeps causing it is told.

Ray's exceptions are translated here, and only by their type; their texts are kept for people.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayError, RayTaskError

from splitfire_batch.errors import ConfigError, SplitfireError, StorageError, TransientError
from splitfire_batch.escapes import lines
from splitfire_batch.masking import masked

Cause = Literal[
    "death", "memory", "hung", "exception", "outage", "preemption", "node", "connection", "unclear"
]
"""What befell a worker.

death, memory, hung: its process is gone, was ended by Ray because its node's memory was full, or by us.
exception: the worker raised one. outage: that exception says that a store or network failed it.
preemption: its node was taken away with notice. node: its node died. connection: it may well live, and
what it told was lost. unclear: to be asked.
"""

_WHY_CHARS = 400
_CODES = {"memory": "OOM", "hung": "WORKER_HUNG"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lost:
    """A call that did not end well, and its worker with it."""

    cause: Cause
    why: str
    outage: SplitfireError | None = None
    """The worker's own words that a store or network failed it."""
    culprit: str | None = None
    """The one track that is to blame, if it is known."""

    @property
    def blames_all(self) -> bool:
        """Whether any track in flight on the worker may be why."""
        return self.cause in ("death", "memory", "hung")

    @property
    def is_fault(self) -> bool:
        """Whether it counts against the worker, if that had not begun a track."""
        return self.cause not in ("outage", "preemption")

    @property
    def is_mishap(self) -> bool:
        """Whether it was nobody's fault, unless the same tracks are struck again and again."""
        return self.cause in ("node", "connection")

    @property
    def code(self) -> str:
        """Of a track that is given up for it."""
        return _CODES.get(self.cause, "WORKER_CRASH")


def read_error(error: RayError) -> Lost:
    """What a failed call means for the pool; a ConfigError is raised again as itself."""
    if isinstance(error, RayTaskError):
        return _read_exception(error)
    cause: Cause = "death"
    if isinstance(error, OutOfMemoryError):
        cause = "memory"
    elif isinstance(error, ActorUnavailableError):
        cause = "unclear"
    elif isinstance(error, NodeDiedError):
        cause = "node"
    elif getattr(error, "preempted", False):
        cause = "preemption"
    return Lost(cause, _short(str(error)))


def _short(text: str) -> str:
    """What is said first, for a row; Ray goes on for a page."""
    words = masked(" ".join(text.split()))
    return words if len(words) <= _WHY_CHARS else f"{words[:_WHY_CHARS]}..."


def _read_exception(error: RayTaskError) -> Lost:
    cause = error.cause
    if isinstance(cause, ConfigError):
        raise cause from error
    _log.warning("worker_raised why=%s", lines(str(error)))  # its text is the traceback in the worker
    why = masked(f"{type(cause).__name__}: {cause}")
    if isinstance(cause, TransientError | StorageError):
        return Lost("outage", why, outage=cause)
    return Lost("exception", why)
