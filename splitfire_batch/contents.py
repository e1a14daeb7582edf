"""What lies in objects of a source: hashes of their bytes and of their audio, and shapes from their heads.

Objects are read whole, several at the same time, each from a local file: an object of a bucket is copied into
the scratch folder first and removed at once. What cannot be read, or is no longer the object that was listed,
is None; whoever settles it later finds out why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from splitfire_batch.audio import HEAD_BYTES, Shape, audio_id, shape_of
from splitfire_batch.errors import ConfigError, StorageError
from splitfire_batch.scratch import scratch_folder
from splitfire_batch.storage import Stores
from splitfire_batch.stored import sha256_of

NEEDED = ("uri", "n_bytes", "etag")
"""Columns of a listing by which an object is found and known again."""
_READERS, _LOOKERS = 8, 32
_PAGE = 1_000
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Content:
    """What an object is made of."""

    content_id: str
    audio_id: str


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads objects of any store; `scratch` is the folder for copies, the system's own for None."""

    stores: Stores
    scratch: str | None = None

    def contents(self, objects: pa.Table) -> Iterator[Content | None]:
        """The content of each, in their order.

        Args:
            objects: with the columns NEEDED.

        Raises:
            TransientError: a store does not answer.
        """
        return _each(objects, self._content, _READERS)

    def shapes(self, objects: pa.Table) -> Iterator[Shape | None]:
        """What the head of each tells, by one small read; see `contents`."""
        return _each(objects, self._shape, _LOOKERS)

    def _content(self, uri: str, n_bytes: int, etag: str) -> Content | None:
        with scratch_folder(self.scratch) as folder:
            try:
                store, path = self.stores.locate(uri)
                file = store.fetch(path, folder / "object")
                found = Content(sha256_of(file), audio_id(file))
                # afterwards: what was replaced while it was read has another etag by now
                is_same = store.stat(path)
            except (StorageError, ConfigError, ValueError, OSError):
                return None
        return found if is_same.n_bytes == n_bytes and etag in ("", is_same.etag) else None

    def _shape(self, uri: str, n_bytes: int, etag: str) -> Shape | None:  # noqa: ARG002 - as `_content`
        try:
            store, path = self.stores.locate(uri)
            return shape_of(store.read_part(path, 0, min(HEAD_BYTES, n_bytes)), n_bytes)
        except (StorageError, ConfigError, ValueError):
            return None


def _each(
    objects: pa.Table, look: Callable[[str, int, str], Found | None], n_threads: int
) -> Iterator[Found | None]:
    """What `look` finds of each; only a page waits in memory."""
    with ThreadPoolExecutor(n_threads, thread_name_prefix="look") as pool:
        for batch in objects.select(list(NEEDED)).to_batches(max_chunksize=_PAGE):
            columns = (batch[name].to_pylist() for name in NEEDED)
            yield from pool.map(look, *columns)
