"""Headers of objects, wherever they lie: a ranged read or two each, many at the same time.

What cannot be read now costs nothing but the knowledge: the track itself is fetched later, and then told of.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from splitfire_batch.audio.glances import glance
from splitfire_batch.errors import ConfigError, StorageError, TrackError, TransientError
from splitfire_batch.records import AudioFormat
from splitfire_batch.storage import Options, RetryBudget, Store, Stores

NO_AUDIO = AudioFormat("", "", 44_100, 2, 0)
"""Of an object that is empty or no audio: its track will fail at once."""
_READERS = 16
_WINDOW_BYTES = 80 * 1024
"""Holds the headers of nearly every file, and many a one-shot whole."""
_FEW_TRIES = RetryBudget(tries=2, read_timeout_s=10.0)


def read_headers(objects: Sequence[tuple[str, int]], options: Options) -> list[AudioFormat | None]:
    """What the headers of objects say, in their order; None where they do not tell, or cannot be read.

    Once a store does not answer, the rest is not asked for.

    Args:
        objects: their URIs, and bytes.
        options: of the stores, per URL prefix.
    """
    stores, is_away = Stores(options, _FEW_TRIES), Event()

    def read(found: tuple[str, int]) -> AudioFormat | None:
        if is_away.is_set():
            return None
        try:
            return _read(stores, *found)
        except TransientError:
            is_away.set()
            return None

    with ThreadPoolExecutor(_READERS, thread_name_prefix="header") as pool:
        return list(pool.map(read, objects))


def _read(stores: Stores, uri: str, n_bytes: int) -> AudioFormat | None:
    try:
        store, path = stores.locate(uri)
        return glance(io.BufferedReader(_Peek(store, path, n_bytes), _WINDOW_BYTES), n_bytes)
    except TrackError:
        return NO_AUDIO
    except (StorageError, ConfigError, ValueError):
        return None


class _Peek(io.RawIOBase):
    """An object of a store as a file of which parts are fetched as they are read."""

    def __init__(self, store: Store, path: str, n_bytes: int) -> None:
        self._store, self._path, self._n_bytes = store, path, n_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._n_bytes}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._n_bytes - self._position)
        if wanted <= 0:
            return 0
        part = self._store.read_part(self._path, self._position, wanted)
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)
