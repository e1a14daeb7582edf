"""A local folder as a store: objects are files, written whole or not at all.

`storage.Store` drives it, checks the paths, and translates the OSErrors that leave here. A file that
`files` made gets its name by `os.replace` to overwrite, by `os.link` to create, which fails when the name is
taken and so has exactly one winner.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from splitfire_batch.storage.files import (
    etag_of,
    is_temporary,
    link_new,
    locked,
    new_file,
    stamp,
    temporary_name,
)

_Identity = tuple[int, int]  # device and inode: the same by whatever name a folder is reached
_Todo = tuple[str, tuple[_Identity, ...]]  # a folder to list, and the folders it was reached through


class StoredObject(NamedTuple):
    """One object of a store as a listing shows it; millions are made, and a tuple is made quickest."""

    path: str
    """Below the store's root, with forward slashes."""
    n_bytes: int
    etag: str
    """Changes whenever the object is replaced; "" for a link that leads nowhere."""
    modified: float
    """Seconds since 1970-01-01 UTC."""
    storage_class: str = ""
    """As S3 names it in listings; "" elsewhere."""


NextPage = Callable[[], Sequence[StoredObject] | None]
"""Gives some more objects of a listing each time, then None; it may be repeated where it raised."""


class Folder:
    """The files below `root`, an absolute path without links at its end."""

    can_replace = True

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def file_of(self, path: str) -> Path:
        """Where the object lies; nothing says that it exists."""
        return self._root / path

    def pages(
        self, prefix: str, without: str | None = None, left_out: Counter[str] | None = None
    ) -> Callable[[], list[StoredObject] | None]:
        """A call that returns the files of one folder after the other, then None.

        Links to folders are followed, except into a folder they lie in. A call that raised may be repeated.
        `Store.list` says what `without` and `left_out` are.
        """
        todo: list[_Todo] = [(prefix, ())]
        counts: Counter[str] = Counter() if left_out is None else left_out
        closed = None
        if without is not None:
            with suppress(OSError):  # what cannot even be asked about holds nothing to list
                closed = _identity(Path(without))

        def next_page() -> list[StoredObject] | None:
            if not todo:
                return None
            folder, parents = todo[-1]
            objects: list[StoredObject] = []
            folders: list[_Todo] = []
            try:
                here = _identity(self._root / folder)
                if here == closed:
                    counts["destination"] += 1
                else:
                    objects, folders = _scan(self._root, folder, (*parents, here))
            except (FileNotFoundError, NotADirectoryError):  # removed or replaced since it was seen
                if parents and _identity(self._root / prefix) != parents[0]:
                    raise  # and so is the root: what is still to do would end up missing too
            except PermissionError:
                if not parents or left_out is None:
                    raise
                counts["no access"] += 1
            todo.pop()
            todo.extend(folders)
            return objects

        return next_page

    def stat(self, path: str) -> StoredObject:
        """The object at `path`; FileNotFoundError also for folders and devices."""
        found = self.file_of(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(f"{path} is no file")
        return _object(path, found)

    def read(self, path: str) -> tuple[bytes, str]:
        """All bytes of the object, and the etag of just these bytes."""
        self.stat(path)  # before opening: that of a pipe would wait
        with self.file_of(path).open("rb") as file:
            return file.read(), etag_of(os.fstat(file.fileno()))

    def read_part(self, path: str, start: int, n_bytes: int) -> bytes:
        """So many bytes of the object from `start` on; fewer where it ends."""
        self.stat(path)  # as in `read`
        with self.file_of(path).open("rb") as file:
            file.seek(start)
            return file.read(n_bytes)

    def copy(self, path: str, source: str) -> None:
        """Make the object at `path` one with the bytes of that at `source`."""
        self.stat(source)
        self.write(path, self.file_of(source))

    def write(self, path: str, data: bytes | Path) -> None:
        """Make `data` the object at `path`; readers see the old bytes or the new ones."""
        file = self._inside(path)
        with new_file(file, data) as temporary:
            temporary.replace(file)

    def create(self, path: str, data: bytes) -> str:
        """Make `data` the object at `path`, or raise FileExistsError; its etag."""
        file = self._inside(path)
        with new_file(file, data) as temporary:
            etag = stamp(temporary)
            link_new(temporary, file)
            return etag

    def replace(self, path: str, data: bytes, etag: str) -> str:
        """Make `data` the object at `path` if it has that etag; its new one.

        Else raises FileNotFoundError or FileExistsError. Rivals queue at a lock on the old file, which ends
        with its process: who gets it when the name has gone to a new file finds another etag.
        """
        file = self._inside(path)
        with locked(file):
            found = file.stat()
            if etag_of(found) != etag:
                raise FileExistsError(path)
            with new_file(file, data) as temporary:
                new = stamp(temporary, found.st_mtime_ns)
                temporary.replace(file)
                return new

    def delete(self, path: str) -> None:
        """Remove the object; no error when there is none."""
        self._inside(path).unlink(missing_ok=True)

    def check_readable(self) -> None:
        """Raise the OSError that listing the root would."""
        with os.scandir(self._root):
            pass

    def check_writable(self) -> None:
        """Make the root where it is missing, and raise the OSError that writing into it would."""
        self._root.mkdir(parents=True, exist_ok=True)
        probe = temporary_name(self._root)
        probe.touch()
        probe.unlink()

    def _inside(self, path: str) -> Path:
        """The file to write, refused where a link leads out of the root."""
        file = self.file_of(path)
        root = self._root.resolve()
        if not file.parent.resolve().is_relative_to(root):
            raise PermissionError(f"a link leads from {path} out of {root}")
        return file


def _identity(folder: Path) -> _Identity:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _scan(root: Path, folder: str, parents: tuple[_Identity, ...]) -> tuple[list[StoredObject], list[_Todo]]:
    """The files of one folder, and its folders with the identities of all folders above them."""
    objects, folders = [], []
    with os.scandir(root / folder) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                found = entry.stat()
            except OSError as error:  # a link that leads nowhere, or round and round
                if not entry.is_symlink():
                    if isinstance(error, FileNotFoundError):  # removed while we looked
                        continue
                    raise
                objects.append(StoredObject(path, 0, "", 0.0))
                continue
            if stat.S_ISDIR(found.st_mode):
                if (found.st_dev, found.st_ino) not in parents:
                    folders.append((path, parents))
            elif stat.S_ISREG(found.st_mode) and not is_temporary(entry.name):
                objects.append(_object(path, found))
    return objects, folders


def _object(path: str, found: os.stat_result) -> StoredObject:
    return StoredObject(path, found.st_size, etag_of(found), found.st_mtime)
