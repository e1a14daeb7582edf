"""A store: a local folder or a prefix of a bucket, whose objects are read and written whole.

The only package that knows fsspec (in `buckets`). It keeps paths below the root, tries again what may pass,
and turns foreign exceptions into ours. Nothing is ever streamed into a store:
fsspec publishes what was written so far when such a stream is interrupted. A Store may be used by many
threads. It is never pickled, and must not be used after a fork (fsspec runs one event loop per process):
every worker opens its own from the URL and the options.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from splitfire_batch.errors import ConfigError, ObjectExists, ObjectMissing
from splitfire_batch.storage.buckets import Bucket, connect, plain_etag
from splitfire_batch.storage.faults import SCHEMES, Faults, RetryBudget
from splitfire_batch.storage.folder import Folder, StoredObject
from splitfire_batch.storage.urls import Options, check_path, matching_options, parse_url

__all__ = [
    "Options",
    "RetryBudget",
    "Store",
    "StoredObject",
    "Stores",
    "check_path",
    "open_store",
    "parse_url",
    "plain_etag",
]


def open_store(url: str, options: Options, budget: RetryBudget | None = None) -> Store:
    """The store at `url`; nothing is asked of it yet.

    Args:
        url: a folder (`~` is the home folder), file:///folder, or scheme://bucket/prefix.
        options: per URL prefix; of those that match only the longest is used.
        budget: what is tried again, and for how long.

    Raises:
        ConfigError: a URL or option of no known kind, or a package that is not installed.
    """
    scheme, root = parse_url(url)
    budget = budget or RetryBudget()
    given = matching_options(options, scheme, root)
    unknown = sorted(set(given) - set(SCHEMES[scheme].options))
    if unknown:
        known = ", ".join(SCHEMES[scheme].options) or "none"
        raise ConfigError(f"{scheme}:// has no option {', '.join(unknown)}; known are {known}")
    if scheme == "file":
        return Store(root, Folder(root), Faults(SCHEMES[scheme], budget))
    bucket = Bucket(connect(scheme, given, budget), scheme, root)
    return Store(f"{scheme}://{root}", bucket, Faults(SCHEMES[scheme], budget))


class Store:
    """Objects below one root. Paths are relative to it, with forward slashes.

    Every method may raise TransientError (no answer within the budget), AccessDenied, NoSpace or another
    StorageError, and ValueError for a path that is absolute, empty, or has `..` or NUL in it.
    """

    def __init__(self, url: str, backend: Folder | Bucket, faults: Faults) -> None:
        self.url = url
        """Absolute path of a local folder, else scheme://bucket/prefix."""
        self._backend, self._faults = backend, faults

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Store holds connections and secrets; send its URL and open it there")

    @property
    def is_local(self) -> bool:
        """Whether objects are files of this machine."""
        return isinstance(self._backend, Folder)

    def uri_of(self, path: str) -> str:
        """URI of the object: an absolute path for local files."""
        return f"{self.url.rstrip('/')}/{path}" if path else self.url

    def list(
        self, without: str | None = None, left_out: Counter[str] | None = None
    ) -> Iterator[StoredObject]:
        """Every object below the root, hidden ones included, in no order, a page at a time.

        Args:
            without: a folder of this machine whose files are not listed, whatever link leads to it.
            left_out: of a local store, counts the folders left out, by reason. Where nobody counts, a folder
                that may not be read is AccessDenied; the root itself always is.
        """
        if isinstance(self._backend, Folder):
            return self._objects("", self._backend.pages("", without, left_out))
        return self.list_under("")

    def list_under(self, prefix: str) -> Iterator[StoredObject]:
        """Every object below the folder `prefix` ("" for the root); nothing when there is no such folder."""
        return self._objects(prefix, self._backend.pages(prefix and check_path(prefix)))

    def _objects(
        self, prefix: str, next_page: Callable[[], Sequence[StoredObject] | None]
    ) -> Iterator[StoredObject]:
        is_first = True
        while True:
            try:
                page = self._faults.attempt(self.uri_of(prefix), next_page)
            except ObjectMissing:
                if is_first:
                    return
                raise  # half a listing must not pass for a whole one
            if page is None:
                return
            is_first = False
            yield from page

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

        def attempt() -> bytes:
            data = self._backend.read(path)
            _check_length(len(data), len(data) if n_bytes is None else n_bytes)
            return data

        return self._faults.attempt(self.uri_of(path), attempt)

    def fetch(self, path: str, to: Path, n_bytes: int | None = None) -> Path:
        """A local file with the object's bytes: the object itself in a local store, else `to`.

        Args:
            path: the object.
            to: where to put it; its folder exists. It appears whole or not at all.
            n_bytes: length the object must have; asked of the store when it is not given.

        Raises:
            ObjectMissing: there is no such object.
        """
        check_path(path)
        if isinstance(self._backend, Folder):
            self.stat(path)
            return self._backend.file_of(path)
        temporary = to.with_name(f".{secrets.token_hex(8)}.tmp")

        def attempt() -> Path:
            wanted = self._backend.stat(path).n_bytes if n_bytes is None else n_bytes
            self._backend.fetch(path, temporary)
            _check_length(temporary.stat().st_size, wanted)
            return temporary.replace(to)

        try:
            return self._faults.attempt(self.uri_of(path), attempt)
        finally:
            temporary.unlink(missing_ok=True)

    def write(self, path: str, data: bytes | Path) -> None:
        """Make `data`, or that file's bytes, the object at `path`; readers see old or new, never half."""
        check_path(path)
        self._faults.attempt(self.uri_of(path), lambda: self._backend.write(path, data))

    def create(self, path: str, data: bytes) -> None:
        """Make `data` the object at `path` unless there is one: of rivals, exactly one succeeds.

        Rivals must write different bytes: that is how an answer lost on the way is told from a lost race.

        Raises:
            ObjectExists: the name is taken.
        """
        check_path(path)
        n_tries = 0

        def attempt() -> None:
            nonlocal n_tries
            n_tries += 1
            self._backend.create(path, data)

        try:
            self._faults.attempt(self.uri_of(path), attempt)
        except ObjectExists:
            if n_tries == 1 or self.read(path) != data:
                raise

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


class Stores:
    """Stores of many URIs, one per bucket and options, opened when first asked for."""

    def __init__(self, options: Options, budget: RetryBudget | None = None) -> None:
        self._options, self._budget = options, budget
        self._stores: dict[tuple[str, str], Store] = {}
        self._lock = threading.Lock()

    def locate(self, uri: str) -> tuple[Store, str]:
        """The store that holds an object, and the object's path in it. Raises ConfigError."""
        scheme, name = parse_url(uri)
        bucket, _, path = name.partition("/")
        options = matching_options(self._options, scheme, name)
        root = f"{scheme}://{bucket or '/'}"
        with self._lock:
            key = (root, repr(sorted(options.items())))
            if key not in self._stores:
                self._stores[key] = open_store(root, {root: options}, self._budget)
            return self._stores[key], path


def _check_length(found: int, wanted: int) -> None:
    if found != wanted:
        raise ConnectionError(f"{found} bytes arrived, {wanted} were expected; changed or cut short")
