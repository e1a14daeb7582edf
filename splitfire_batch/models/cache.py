"""The folder of this machine that holds weights as safetensors.

A cached file is found by the names and hashes of the published files it was made of, and its own name ends in
the hash of its own bytes, so that damage is noticed. Files appear whole or not at all, and one process builds
one while the others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.cards import ModelCard
from splitfire_batch.models.conversion import CONVERSION
from splitfire_batch.storage.download import mark_of


@dataclass(frozen=True, slots=True)
class Condition:
    """How a cached file is."""

    path: Path
    damage: str
    """Empty if it is whole."""


def cache_folder() -> Path:
    """Where weights are kept: below $SPLITFIRE_CACHE, by default ~/.cache/splitfire."""
    root = os.environ.get("SPLITFIRE_CACHE") or Path("~/.cache/splitfire").expanduser()
    return Path(root) / "weights"


def is_cached(card: ModelCard) -> bool:
    """Whether a model's weights are in the cache; they are not read."""
    return any(_candidates(card, cache_folder()))


def inspect_cached(card: ModelCard) -> list[Condition]:
    """Every cached file of a model, read whole and compared with the hash in its name."""
    found = []
    for path in _candidates(card, cache_folder()):
        wanted, actual = hash_in_name(path.name), sha256_of(path)
        damage = "" if actual == wanted else f"has the sha256 {actual}, wanted {wanted}"
        found.append(Condition(path, damage))
    return found


def cached_file(card: ModelCard, folder: Path) -> Path | None:
    """A cached file whose bytes still have the hash in its name."""
    whole = (path for path in _candidates(card, folder) if sha256_of(path) == hash_in_name(path.name))
    return next(whole, None)


def name_of(card: ModelCard, sha256: str) -> str:
    """What a cached file with that hash is called."""
    return f"{card.name}-{_key(card)}-{sha256}.safetensors"


def is_name_of(card: ModelCard, name: str) -> bool:
    """Whether a cached file of that name has a model's weights; it may be called by another's name."""
    return name.endswith(".safetensors") and name.split("-")[-2:-1] == [_key(card)]


def hash_in_name(name: str) -> str:
    """Of the file's own bytes."""
    return name.removesuffix(".safetensors").rpartition("-")[2]


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def folder_for(card: ModelCard) -> Iterator[Path]:
    """The cache, ready to be used; what the disk says meanwhile becomes ours.

    Raises:
        ConfigError: it cannot be used, or everybody may write into it.
    """
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


@contextmanager
def turn_at(card: ModelCard, folder: Path) -> Iterator[None]:
    """Wait until no other process is at these files; the kernel frees the lock of a process that dies."""
    with (folder / f"{_key(card)}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def partials_of(card: ModelCard, folder: Path) -> Iterator[Path]:
    """The folder of files that are on their way; of what came only in part, a later call goes on."""
    partials = folder / f"{_key(card)}.partial"
    partials.mkdir(mode=0o700, exist_ok=True)
    keep: set[Path] = set()
    try:
        yield partials
    except BaseException:
        names = {file.name for file in card.files}  # these are whole, and verified
        keep = {path for path in partials.iterdir() if path.name in names}
        marks = {path: mark_of(path) for path in partials.iterdir() if path.suffix == ".part"}
        for part, mark in marks.items():
            if part.stat().st_size and mark.exists() and mark.stat().st_size:  # else it would begin anew
                keep |= {part, mark}
        raise
    finally:
        for path in set(partials.iterdir()) - keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not keep:
            partials.rmdir()


def _key(card: ModelCard) -> str:
    """What cached files are found by: models made of the same files, by the same names, share them."""
    made_of = [CONVERSION, *sorted((file.name, file.sha256) for file in card.files)]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


def _candidates(card: ModelCard, folder: Path) -> list[Path]:
    """Cached files of a model, damaged ones too."""
    is_known = card.files and not card.open_files
    return sorted(folder.glob(f"*-{_key(card)}-*.safetensors")) if is_known else []
