"""A prefix of a bucket as a store, by whatever filesystem fsspec has for it; `s3` is for S3.

`Store` checks the paths, and repeats and translates what fails here; `connect` is the only call that
makes a fsspec filesystem. Paths and prefixes are never made
into URLs: `#`, `%`, `?` and `::` are ordinary characters of a key.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec

from splitfire_batch.errors import ConfigError
from splitfire_batch.storage.digests import Arrival
from splitfire_batch.storage.faults import SCHEMES, RetryBudget
from splitfire_batch.storage.folder import StoredObject
from splitfire_batch.storage.listings import plain_etag
from splitfire_batch.storage.s3 import prepare_s3, s3_settings


class Bucket:
    """The objects below `root` ("bucket" or "bucket/prefix") of a fsspec filesystem."""

    def __init__(self, fs: Any, scheme_name: str, root: str) -> None:
        self._fs, self._scheme = fs, SCHEMES[scheme_name]
        self._is_memory = scheme_name == "memory"
        self._root = f"/{root}" if self._is_memory else root  # the names that fsspec gives back begin so
        # fsspec's memory filesystem is one dict per process, with no locks of its own.
        self._guard = _MEMORY_LOCK if self._is_memory else nullcontext()
        self.can_replace = self._is_memory
        """Google and Azure could, but not through fsspec's `pipe_file`, and nothing here tests them."""

    def pages(self, prefix: str) -> Callable[[], list[StoredObject] | None]:
        """A call that returns the whole listing, as fsspec does, then None; it may be repeated."""
        is_done = False

        def only_page() -> list[StoredObject] | None:
            nonlocal is_done
            if is_done:
                return None
            with self._guard:
                found = self._fs.find(self._key(prefix), detail=True)
            is_done = True
            return [self._object(name, info) for name, info in found.items() if info["type"] == "file"]

        return only_page

    def stat(self, path: str) -> StoredObject:
        """The object at `path`; FileNotFoundError also for prefixes."""
        with self._guard:
            info = self._fs.info(self._key(path))
        if info["type"] != "file":
            raise FileNotFoundError(path)
        return self._object(self._key(path), info)

    def read(self, path: str) -> tuple[bytes, str]:
        """All bytes of the object, by one GET, and their etag, "" where fsspec does not tell it."""
        with self._guard:
            data: bytes = self._fs.cat_file(self._key(path))
            return data, self.stat(path).etag if self._is_memory else ""

    def copy(self, path: str, source: str) -> None:
        """Make the object at `path` one with the bytes of that at `source`, within the store."""
        with self._guard:
            self._fs.cp_file(self._key(source), self._key(path))

    def read_part(self, path: str, start: int, n_bytes: int) -> bytes:
        """So many bytes of the object from `start` on; fewer where it ends."""
        with self._guard:
            part: bytes = self._fs.cat_file(self._key(path), start=start, end=start + n_bytes)
            return part

    def fetch(self, path: str, to: Path, wanted_etag: str = "") -> Arrival:
        """Download the object to the file `to`, by one GET; nothing if another etag is wanted than it has."""
        with self._guard:
            found = Arrival(self.stat(path).etag)
            if wanted_etag in ("", found.etag):
                self._fs.get_file(self._key(path), str(to))
            return found

    def write(self, path: str, data: bytes | Path) -> None:
        """Make `data` the object at `path`; stores show it whole or not at all."""
        how = dict(self._scheme.overwrite)
        with self._guard:
            if isinstance(data, Path):
                self._fs.put_file(str(data), self._key(path), **how)
            else:
                self._fs.pipe_file(self._key(path), data, **how)

    def create(self, path: str, data: bytes) -> str:
        """Make `data` the object at `path`, or raise what `Faults` calls ObjectExists; its etag."""
        with self._guard:
            self._fs.pipe_file(self._key(path), data, **dict(self._scheme.create))
            return self.stat(path).etag

    def replace(self, path: str, data: bytes, etag: str) -> str:
        """Make `data` the object at `path` if it has that etag; its new one.

        Else raises FileNotFoundError, or what `Faults` calls ObjectExists.
        """
        if not self._is_memory:
            raise NotImplementedError(f"nothing replaces an object of {self._root} conditionally")
        with self._guard:
            if self.stat(path).etag != etag:
                raise FileExistsError(path)
            self.write(path, data)
            return self.stat(path).etag

    def delete(self, path: str) -> None:
        """Remove the object; no error when there is none."""
        with self._guard:
            try:
                self._fs.rm_file(self._key(path))
            except FileNotFoundError:
                return

    def check_readable(self) -> None:
        """Raise what listing would; a prefix with nothing below it is no fault."""
        if not self._is_memory:
            self._fs.info(self._root.partition("/")[0])

    def check_writable(self) -> None:
        """As `check_readable`: only a write would tell more, and workers may not delete a probe."""
        self.check_readable()

    def _key(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _object(self, key: str, info: Mapping[str, Any]) -> StoredObject:
        etag = _first(info, "ETag", "etag", "generation", "created")
        modified = _seconds(_first(info, "LastModified", "last_modified", "mtime", "updated", "created"))
        if isinstance(etag, datetime | float):  # memory: the instant of the write is all there is
            etag = f"{_seconds(etag):.6f}"
        path = key[len(self._root) + 1 :]
        return StoredObject(path, int(info["size"]), plain_etag(str(etag or "")), modified)


def connect(scheme: str, given: Mapping[str, str], budget: RetryBudget) -> fsspec.AbstractFileSystem:
    """A fsspec filesystem that remembers no listing and is shared with nobody."""
    flags = {"true": True, "false": False}
    settings: dict[str, object] = {name: flags.get(text.lower(), text) for name, text in given.items()}
    if scheme == "s3":
        settings = s3_settings(settings, budget)
    try:
        fs = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True, **settings)
    except ImportError as error:
        known = SCHEMES[scheme]
        raise ConfigError(
            f"{scheme}:// needs the package {known.package}: pip install 'splitfire-batch[{known.extra}]'"
        ) from error
    if scheme == "s3":
        prepare_s3(fs)
    return fs


_MEMORY_LOCK = threading.RLock()


def _first(values: Mapping[str, Any], *names: str) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _seconds(moment: object) -> float:
    """Seconds since 1970 of whatever a listing calls a time."""
    if isinstance(moment, str) and moment:
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        return moment.timestamp()
    return float(moment) if isinstance(moment, int | float) else 0.0
