"""Keeps a model's weights in one local cache: fetched once, verified, as safetensors.

Every published file is checked for size and SHA-256 before any parser sees a byte (`downloads`). What was
verified is converted (`conversion`), under a name that ends in the hash of its own bytes, so a damaged cache
is noticed and rebuilt. Files appear in the cache whole or not at all, and one process builds while the
others wait. The registry says which sources there are; what the tensors mean is known to the architectures.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.cards import ModelCard, WeightsFile
from splitfire_batch.models.conversion import convert, read_texts
from splitfire_batch.models.downloads import get_file, sha256_of
from splitfire_batch.models.supply import Supply
from splitfire_batch.storage import open_store
from splitfire_batch.storage.download import is_local

if TYPE_CHECKING:
    from torch import Tensor

NOTHING_SET = Supply()
"""No mirror, no options of stores, and connections may be opened."""


def fetch_weights(card: ModelCard, supply: Supply = NOTHING_SET) -> Path:
    """Path of a model's weights in the local cache, as safetensors; built if they are not there yet.

    Args:
        card: the model; it must have files.
        supply: where they may come from.

    Raises:
        ConfigError: no source has the right bytes (each is listed with its reason), a file whose hash is not
            known or that wants to run code, or no cache folder.
        TransientError: no source has them, and one does not answer.
    """
    if not card.files:
        raise ConfigError(f"model: {card.name} has no weights; there is nothing to fetch")
    with _folder(card) as folder:
        found = _cached(card, folder)
        if found:
            return found
        with _turn(folder, card):
            return _cached(card, folder) or _build(card, supply, folder)


def load_weights(card: ModelCard, supply: Supply = NOTHING_SET) -> dict[str, Tensor]:
    """A model's tensors by their published names, on the CPU; empty for a model without files.

    Raises:
        ConfigError, TransientError: as `fetch_weights`.
    """
    from safetensors.torch import load_file  # torch takes seconds to import, and fetching needs none of it

    return load_file(fetch_weights(card, supply)) if card.files else {}


def load_texts(card: ModelCard, supply: Supply = NOTHING_SET) -> dict[str, str]:
    """A model's YAML and JSON files by name; of a demucs package also `package.json`, what it is.

    Raises:
        ConfigError, TransientError: as `fetch_weights`.
    """
    return read_texts(fetch_weights(card, supply)) if card.files else {}


def mirror_weights(card: ModelCard, to: str, supply: Supply = NOTHING_SET) -> Iterator[str]:
    """Put a model's published files where workers with the mirror `to` look for them; their URLs.

    Files that are there are verified, and left.

    Args:
        card: the model; of a bag, each of its members is a model of its own.
        to: URL or folder.
        supply: where the files may come from, and the options of the stores.

    Raises:
        ConfigError: as `fetch_weights`.
        StorageError, TransientError: the mirror does not take a file.
    """
    if supply.is_offline and not is_local(to):
        raise ConfigError(f"offline: {to} is not on this machine, and no connection may be opened")
    store = open_store(to, supply.options)
    for file in card.files:
        path = f"{card.name}/{file.name}"
        with _folder(card) as folder, _turn(folder, card), _partials(folder, card) as partials:
            if store.exists(path):
                _check_mirrored(card, file, Supply(to, supply.options), folder)
            else:
                store.write(path, get_file(card, file, supply, partials).path)
        yield store.uri_of(path)


def _check_mirrored(card: ModelCard, file: WeightsFile, mirror: Supply, folder: Path) -> None:
    """Compare a file of a mirror with the published one."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            get_file(card, replace(file, sources=()), mirror, Path(scratch))
        except ConfigError as error:
            raise ConfigError(f"{error}\nThe mirror holds another file of this name; remove it.") from error


@dataclass(frozen=True, slots=True)
class Condition:
    """How a cached file is."""

    path: Path
    damage: str
    """Empty if it is whole."""


def is_cached(card: ModelCard) -> bool:
    """Whether a model's weights are in the cache; they are not read."""
    return any(_candidates(card, cache_folder()))


def inspect_cached(card: ModelCard) -> list[Condition]:
    """Every cached file of a model, read whole and compared with the hash in its name."""
    found = []
    for path in _candidates(card, cache_folder()):
        wanted = path.stem.rpartition("-")[2]
        actual = sha256_of(path)
        damage = "" if actual == wanted else f"has the sha256 {actual}, wanted {wanted}"
        found.append(Condition(path, damage))
    return found


def cache_folder() -> Path:
    """Where weights are kept: below $SPLITFIRE_CACHE, by default ~/.cache/splitfire."""
    root = os.environ.get("SPLITFIRE_CACHE") or Path("~/.cache/splitfire").expanduser()
    return Path(root) / "weights"


@contextmanager
def _folder(card: ModelCard) -> Iterator[Path]:
    """The cache, ready to be used; what the disk says becomes ours."""
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"everybody may write into the weights' folder {folder}, so its files may be anybody's; "
                "chmod o-w it and empty it, or set SPLITFIRE_CACHE to a folder of your own"
            )
        yield folder
    except OSError as error:
        raise ConfigError(
            f"the weights of {card.name} cannot be kept in {folder}: {error}; "
            "set SPLITFIRE_CACHE to a local folder with free space that can be written"
        ) from error


def _key(card: ModelCard) -> str:
    """What cached files are found by: models made of the same files share them."""
    return hashlib.sha256("\n".join(file.sha256 for file in card.files).encode()).hexdigest()[:16]


def _candidates(card: ModelCard, folder: Path) -> list[Path]:
    """Cached files of a model, damaged ones too."""
    is_known = card.files and not card.open_files
    return sorted(folder.glob(f"*-{_key(card)}-*.safetensors")) if is_known else []


def _cached(card: ModelCard, folder: Path) -> Path | None:
    """A cached file whose bytes still have the hash in its name."""
    whole = (path for path in _candidates(card, folder) if path.stem.endswith(f"-{sha256_of(path)}"))
    return next(whole, None)


@contextmanager
def _turn(folder: Path, card: ModelCard) -> Iterator[None]:
    """Wait until no other process is at these files; the kernel frees the lock of a process that dies."""
    with (folder / f"{_key(card)}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _partials(folder: Path, card: ModelCard) -> Iterator[Path]:
    """The folder of files that are on their way; of what came only in part, a later call goes on."""
    partials = folder / f"{_key(card)}.partial"
    partials.mkdir(mode=0o700, exist_ok=True)
    keep: set[Path] = set()
    try:
        yield partials
    except BaseException:
        names = {file.name for file in card.files}  # these are whole, and verified
        left = (
            path for path in partials.iterdir() if path.suffix in (".part", ".mark") or path.name in names
        )
        keep = {path for path in left if path.stat().st_size}
        raise
    finally:
        for path in set(partials.iterdir()) - keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not keep:
            partials.rmdir()


def _build(card: ModelCard, supply: Supply, folder: Path) -> Path:
    """Fetch, verify, convert, and put the result into the cache."""
    with _partials(folder, card) as partials, tempfile.TemporaryDirectory(dir=folder) as scratch:
        files = {file.name: get_file(card, file, supply, partials).path for file in card.files}
        whole = Path(scratch) / "whole"
        try:
            convert(card.name, files, whole)
        except ConfigError:
            for file in files.values():
                file.unlink()  # it is what it should be, and of no use
            raise
        path = folder / f"{card.name}-{_key(card)}-{sha256_of(whole)}.safetensors"
        with whole.open("rb") as opened:
            os.fsync(opened.fileno())
        whole.replace(path)
    return path
