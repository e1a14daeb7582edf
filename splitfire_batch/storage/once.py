"""Writes of which exactly one among rivals succeeds: what became of one whose answer got lost."""

from __future__ import annotations

from collections.abc import Callable

from splitfire_batch.errors import ObjectExists, ObjectMissing, StorageError, TransientError
from splitfire_batch.storage.faults import Faults


def write_once(
    faults: Faults, uri: str, data: bytes, write: Callable[[], str], look: Callable[[], tuple[bytes, str]]
) -> str:
    """What `write` returns. After a lost answer the object itself says whether an earlier try did it.

    Args:
        faults: repeats and translates what fails.
        uri: of the object.
        data: what is written; rivals write other bytes.
        write: writes it under a condition, and returns the new etag.
        look: the bytes that the object has now, and their etag.

    Returns:
        The etag; "" where an earlier try did it, and the store tells none.
    """
    n_tries = 0

    def attempt() -> str:
        nonlocal n_tries
        n_tries += 1
        return write()

    try:
        return faults.attempt(uri, attempt)
    except (StorageError, TransientError) as error:
        if n_tries == 1 and not isinstance(error, TransientError):
            raise  # the first and only answer, so it is true
        etag = _etag_if_ours(faults, uri, data, look, error)
        if etag is None:
            raise
        return etag


def _etag_if_ours(
    faults: Faults, uri: str, data: bytes, look: Callable[[], tuple[bytes, str]], doubt: Exception
) -> str | None:
    """The etag of the object if its bytes are `data`.

    While that is unknown, nothing must pass for a lost race: such a `doubt` becomes a TransientError.
    """
    try:
        is_away = isinstance(doubt, TransientError)  # and was waited for long enough
        found, etag = faults.attempt(uri, look, is_once=is_away)
    except ObjectMissing:
        return None
    except (StorageError, TransientError) as error:
        if not isinstance(doubt, (ObjectExists, ObjectMissing)):
            return None
        raise TransientError(f"{uri}: nobody can say whether it was written: {error}") from error
    return etag if found == data else None
