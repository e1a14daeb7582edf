"""The object store as its callers see it: what every kind of store promises.

It keeps paths below the root, tries again what may pass, checks lengths, turns foreign exceptions into ours,
and finds out what became of a write whose answer got lost.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NoReturn

from splitfire_batch.errors import (
    ConfigError,
    ObjectChanged,
    ObjectExists,
    ObjectMissing,
)
from splitfire_batch.storage.buckets import Bucket
from splitfire_batch.storage.digests import EtagCheck, check_etag, check_length
from splitfire_batch.storage.faults import Faults, RetryBudget
from splitfire_batch.storage.folder import Folder, NextPage, StoredObject
from splitfire_batch.storage.listings import Pages
from splitfire_batch.storage.once import write_once
from splitfire_batch.storage.prefixes import read_side_by_side
from splitfire_batch.storage.s3 import S3
from splitfire_batch.storage.urls import check_path


class Store:
    """Objects below one root. Paths are relative to it, with forward slashes.

    Every method may raise TransientError (no answer within the budget), AccessDenied, NoSpace or another
    StorageError, and ValueError for a path that is absolute, empty, or has `..` or NUL in it.
    """

    def __init__(
        self, url: str, backend: Folder | Bucket | S3, faults: Faults, etags: EtagCheck | None = None
    ) -> None:
        self.url = url
        """Absolute path of a local folder, else scheme://bucket/prefix."""
        self._backend, self._faults, self._etags = backend, faults, etags or EtagCheck()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Store holds connections and secrets; send its URL and open it there")

    def within(self, budget: RetryBudget) -> Store:
        """The same objects over the same connections, with another budget."""
        return Store(self.url, self._backend, self._faults.within(budget), self._etags)

    @property
    def is_local(self) -> bool:
        """Whether objects are files of this machine."""
        return isinstance(self._backend, Folder)

    @property
    def can_replace(self) -> bool:
        """Whether `replace` is there. Servers that speak S3 and ignore its condition are found by a trial."""
        return self._backend.can_replace

    def uri_of(self, path: str) -> str:
        """URI of the object: an absolute path for local files."""
        return f"{self.url.rstrip('/')}/{path}" if path else self.url

    def list(
        self, without: str | None = None, left_out: Counter[str] | None = None
    ) -> Iterator[StoredObject]:
        """Every object below the root, hidden ones included, in no order.

        Args:
            without: a folder of this machine whose files are not listed, whatever link leads to it.
            left_out: of a local store, counts folders left out, by reason. Where nobody counts, one that may
                not be read is AccessDenied; the root itself always is.
        """
        if isinstance(self._backend, Folder):
            return self._objects("", self._backend.pages("", without, left_out))
        return self.list_under("")

    def list_under(self, prefix: str) -> Iterator[StoredObject]:
        """Every object below the folder `prefix` ("" for the root); nothing when there is no such folder."""
        return self._objects(prefix, self._backend.pages(prefix and check_path(prefix)))

    def _objects(self, prefix: str, next_page: NextPage) -> Iterator[StoredObject]:
        def ask(pages: NextPage) -> Sequence[StoredObject] | None:
            return self._faults.attempt(self.uri_of(prefix), pages)

        try:
            first = ask(next_page) or ()
        except ObjectMissing:  # any later one is raised: half a listing must not pass for a whole one
            return
        more = chain([first], iter(partial(ask, next_page), None))
        pages = read_side_by_side(next_page, first, ask) if isinstance(next_page, Pages) else more
        yield from chain.from_iterable(pages)

    def stat(self, path: str) -> StoredObject:
        """What a listing would show of one object. Raises ObjectMissing."""
        check_path(path)
        return self._faults.attempt(self.uri_of(path), lambda: self._backend.stat(path))

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        try:
            self.stat(path)
        except ObjectMissing:
            return False
        return True

    def read(self, path: str, n_bytes: int | None = None) -> bytes:
        """All bytes of an object; of exactly `n_bytes` where the caller knows. Raises ObjectMissing."""
        check_path(path)
        read = self._reading(path, n_bytes)
        return self._faults.attempt(self.uri_of(path), lambda: read()[0])

    def _reading(
        self, path: str, n_bytes: int | None = None, hoped: bytes | None = None
    ) -> Callable[[], tuple[bytes, str]]:
        """A call that gives an object's bytes and their etag; what is not `hoped` for is checked first."""
        seen: set[str] = set()

        def read() -> tuple[bytes, str]:
            data, etag = self._backend.read(path)
            if data == hoped:
                return data, etag
            wanted = len(data) if n_bytes is None else n_bytes
            # What is cut short may be so again, and must not be believed for coming twice.
            check_length(len(data), self._backend.stat(path).n_bytes if seen else wanted)
            self._etags.check(self.uri_of(path), data, etag, seen)
            return data, etag

        return read

    def read_part(self, path: str, start: int, n_bytes: int) -> bytes:
        """So many bytes of an object from `start` on, fewer at its end; unchecked: to look, not to keep."""
        where = check_path(path), start, n_bytes
        return self._faults.attempt(self.uri_of(path), lambda: self._backend.read_part(*where))

    def fetch(self, path: str, to: Path, n_bytes: int | None = None, etag: str = "") -> Path:
        """A local file with the object's bytes: the object itself in a local store, else `to`.

        Args:
            path: the object.
            to: where to put it; its folder exists. It appears whole or not at all.
            n_bytes: length it must have, if that is known; else what the store says, where nothing vouches.
            etag: that it must have; any for "".

        Raises:
            ObjectMissing: there is no such object.
            ObjectChanged: it has another etag.
        """
        check_path(path)
        backend = self._backend
        if isinstance(backend, Folder):
            check_etag(self.uri_of(path), self.stat(path).etag, etag)
            return backend.file_of(path)
        temporary = to.with_name(f".{secrets.token_hex(8)}.tmp")
        seen: set[str] = set()

        def attempt() -> Path:
            found = backend.fetch(path, temporary, etag)
            check_etag(self.uri_of(path), found.etag, etag)
            if n_bytes is not None:
                check_length(temporary.stat().st_size, n_bytes)
            if not found.is_checked:
                now = backend.stat(path)
                check_length(temporary.stat().st_size, now.n_bytes)
                if now.etag != found.etag:
                    raise ConnectionError("the object changed while it was fetched")
                self._etags.check(self.uri_of(path), temporary, found.etag, seen)
            return temporary.replace(to)

        try:
            return self._faults.attempt(self.uri_of(path), attempt)
        finally:
            temporary.unlink(missing_ok=True)

    def copy(self, path: str, source: str) -> None:
        """Make the object at `path` one with the bytes of that at `source`; a bucket does it by itself.

        Raises:
            ObjectMissing: there is none at `source`.
        """
        check_path(path)
        check_path(source)
        self._faults.attempt(self.uri_of(path), lambda: self._backend.copy(path, source))

    def write(self, path: str, data: bytes | Path) -> None:
        """Make `data`, or that file's bytes, the object at `path`; readers see old or new, never half."""
        check_path(path)
        self._faults.attempt(self.uri_of(path), lambda: self._backend.write(path, data))

    def create(self, path: str, data: bytes) -> str:
        """Make `data` the object at `path` unless there is one: of rivals, exactly one succeeds.

        Rivals must write different bytes: that is how an answer lost on the way is told from a lost race.
        After a TransientError the object may be there, now or soon.

        Returns:
            The new object's etag.

        Raises:
            ObjectExists: the name is taken.
        """
        check_path(path)
        return self._write_once(path, data, lambda: self._backend.create(path, data))

    def replace(self, path: str, data: bytes, etag: str) -> str:
        """Make `data` the object at `path` if it still is the one with `etag`: of rivals, one succeeds.

        Only for objects that nobody changes by `write`. Rivals must write different bytes, as in `create`.

        Returns:
            The new object's etag.

        Raises:
            ObjectChanged: it is another object by now, or gone.
            ConfigError: this kind of store cannot; `can_replace` tells beforehand.
        """
        check_path(path)
        if not self.can_replace:
            raise ConfigError(f"{self.url}: this kind of store has no conditional replace here")
        try:
            return self._write_once(path, data, lambda: self._backend.replace(path, data, etag))
        except (ObjectExists, ObjectMissing) as error:
            uri, what = self.uri_of(path), "is gone" if isinstance(error, ObjectMissing) else "changed"
            raise ObjectChanged(uri, f"it {what} since it had the etag {etag}") from error

    def _write_once(self, path: str, data: bytes, write: Callable[[], str]) -> str:
        """What `write` returns; see `once`."""
        uri, look = self.uri_of(path), self._reading(path, hoped=data)
        return write_once(self._faults, uri, data, write, look) or self.stat(path).etag

    def delete(self, path: str) -> None:
        """Remove an object; no error when there is none."""
        check_path(path)
        self._faults.attempt(self.uri_of(path), lambda: self._backend.delete(path))

    def check_readable(self) -> None:
        """One cheap call. Raises ObjectMissing for a missing folder or bucket, not for an empty prefix."""
        self._faults.attempt(self.url, self._backend.check_readable)

    def check_writable(self) -> None:
        """One cheap call; a local folder is made and tried, of a bucket only its presence is checked."""
        self._faults.attempt(self.url, self._backend.check_writable)
