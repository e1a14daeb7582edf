"""The exception tree, and the closed list of reasons why a track has no stems.

    SplitfireError
    |-- ConfigError      the job cannot start: the operator must change something (exit code 2)
    |-- TrackError       one track has no stems: it becomes a failed row, and the run goes on
    |-- TransientError   storage or cluster did not answer: tried again, then exit code 75
    |   |-- LeaseHeld    another run works on the destination
    |   `-- LeaseLost    another run took the destination over
    `-- StorageError     one object could not be had; the caller knows whether that ends a track or a job
        |-- ObjectMissing
        |-- AccessDenied
        |   `-- CredentialsExpired   everything else will be refused as well
        |-- ObjectExists     an exclusive create lost the race
        |-- ObjectChanged    so did a conditional replace; or it is not the one that was to be fetched
        `-- NoSpace

Code asks the type, never the text. Each class hands the very arguments of its ``__init__`` to
``super().__init__``; otherwise it could not be unpickled in another process and its type would be lost.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of the system that mean NoSpace."""


class SplitfireError(Exception):
    """Anything this package raises on purpose."""


class ConfigError(SplitfireError):
    """The job is impossible as asked for; the message names the setting, what was found, what is wanted."""


class TransientError(SplitfireError):
    """Something outside did not answer and may later; raised only after our own retries are spent."""


class LeaseHeld(TransientError):
    """Another run holds the destination; the message says which, where and since when."""


class LeaseLost(TransientError):
    """Another run has taken the destination over: this one must stop and record nothing more."""


class StorageError(SplitfireError):
    """An object could not be read or written."""

    def __init__(self, uri: str, why: str) -> None:
        super().__init__(uri, why)
        self.uri, self.why = uri, why

    def __str__(self) -> str:
        return f"{self.uri}: {self.why}"


class ObjectMissing(StorageError):
    """There is no such object or bucket."""


class AccessDenied(StorageError):
    """The store refuses these credentials."""


class CredentialsExpired(AccessDenied):
    """The store takes these credentials no longer: nothing is said of the object, and nothing else works."""


class ObjectExists(StorageError):
    """An exclusive create found the name taken."""


class ObjectChanged(StorageError):
    """There is another object than the one to be replaced or fetched, or none."""


class NoSpace(StorageError):
    """The disk or the quota is full."""


@dataclass(frozen=True, slots=True)
class FailureCode:
    """What a code in the manifest means, and whether trying again, unchanged, can help."""

    meaning: str
    is_retryable: bool = False
    stands_after: int | None = None
    """Runs in which an unchanged object may fail like that before it is left alone; None: any number."""

    def is_worth_retry(self, n_failed_runs: int) -> bool:
        """Whether the next run tries an unchanged object again that failed so in this many runs."""
        return self.is_retryable and (self.stands_after is None or n_failed_runs < self.stands_after)


FAILURE_CODES = {
    "EMPTY": FailureCode("the object has no bytes"),
    "NOT_AUDIO": FailureCode("the bytes are no audio format known here"),
    "UNSUPPORTED": FailureCode("audio, but no decoder for it is installed"),
    "CORRUPT_HEADER": FailureCode("the header cannot be true"),
    "CORRUPT_DATA": FailureCode("the audio data are damaged"),
    "TRUNCATED": FailureCode("the audio data end before the header says"),
    "NO_SAMPLES": FailureCode("an audio file with no frames"),
    "BAD_RATE": FailureCode("the sample rate is outside 4,000 to 768,000 Hz"),
    "BAD_CHANNELS": FailureCode("more than 8 channels"),
    "NON_FINITE": FailureCode("samples that are NaN, infinite or far beyond full scale"),
    "TOO_LONG": FailureCode("longer than the configured limit"),
    "TOO_LARGE": FailureCode("more bytes than the configured limit"),
    "DECODE_CRASH": FailureCode("the decoder's process died of the track, twice"),
    "DECODE_LIMIT": FailureCode("decoding took more memory, computing, time or disk than it may"),
    "ENCODE_CRASH": FailureCode("the encoder's process died or met a limit, twice", True),
    "UNSUPPORTED_OUTPUT": FailureCode("the output format cannot carry this rate or channel count"),
    "BAD_URI": FailureCode("the catalogue names an object outside the allowed roots"),
    "SOURCE_MISSING": FailureCode("the object was listed and is gone"),
    "SOURCE_DENIED": FailureCode("the store refuses to give the object"),
    "SOURCE_CHANGED": FailureCode("the object changed after it was listed", True),
    "SOURCE_READ": FailureCode("the store did not deliver the object", True),
    "STORE_WRITE": FailureCode("the store did not take the stems", True),
    "ORIGINAL_FAILED": FailureCode(
        "a duplicate of a track that got no stems; the next run separates it by itself", True
    ),
    "STEMS_CHANGED": FailureCode("stems were removed or written over before the run ended", True),
    "NO_SPACE": FailureCode("scratch or destination is full", True),
    "OOM": FailureCode(
        "out of memory, even with the smallest batch or alone on its worker; or its codec was killed, twice",
        True,
        stands_after=3,
    ),
    "WORKER_CRASH": FailureCode("the worker died more than once while this track was in flight"),
    "WORKER_HUNG": FailureCode("the worker hung more than once while this track was in flight"),
    "INTERNAL": FailureCode("a bug in splitfire; please report it", True, stands_after=3),
}

SKIP_CODES = {
    "ARCHIVED": "the object lies in an archive and was not fetched",
    "NO_VOCALS": "the vocals hold less of the energy than skip_without_vocals asks for",
}
"""Why a track has no stems though nothing is wrong with it: settled, no failure."""


class TrackError(SplitfireError):
    """One track has no stems.

    Args:
        code: a key of FAILURE_CODES.
        why: what was found, what was wanted and what to do; the row adds which track.
    """

    def __init__(self, code: str, why: str) -> None:
        super().__init__(code, why)
        self.code, self.why = code, why

    def __str__(self) -> str:
        return f"{self.code}: {self.why}"

    @property
    def is_retryable(self) -> bool:
        """Whether the next run tries this track again although its object is unchanged."""
        return FAILURE_CODES[self.code].is_retryable


@contextmanager
def refused_as_usage(what: str) -> Iterator[None]:
    """In the block, what is missing or refused is the operator's to change: a ConfigError that begins so.

    Expired credentials are not: with new ones the same command works.
    """
    try:
        yield
    except CredentialsExpired:
        raise
    except (ObjectMissing, AccessDenied) as error:
        raise ConfigError(f"{what} {error}") from error
