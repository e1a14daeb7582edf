"""A model's weights, ready to be read: from the cache, or fetched once, verified and kept as safetensors.

Every published file is checked for size and SHA-256 before any parser sees a byte (`downloads`). What was
verified is converted (`conversion`) and kept (`cache`). The registry says which sources there are; what the
tensors mean is known to the architectures.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from splitfire_batch.errors import ConfigError, TransientError
from splitfire_batch.models.cache import (
    cache_folder,
    cached_file,
    folder_for,
    hash_in_name,
    inspect_cached,
    is_cached,
    is_name_of,
    name_of,
    partials_of,
    sha256_of,
    turn_at,
)
from splitfire_batch.models.cards import ModelCard
from splitfire_batch.models.conversion import convert, read_texts
from splitfire_batch.models.downloads import get_file
from splitfire_batch.models.mirrors import mirror_weights
from splitfire_batch.models.sources import bring
from splitfire_batch.models.supply import NOTHING_SET, Away, Supply, Unavailable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "cache_folder",
    "fetch_weights",
    "inspect_cached",
    "is_cached",
    "load_texts",
    "load_weights",
    "mirror_weights",
]


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
    with folder_for(card) as folder:
        found = cached_file(card, folder)
        if found:
            return found
        with turn_at(card, folder):
            return cached_file(card, folder) or _take(card, supply, folder) or _build(card, supply, folder)


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


def _take(card: ModelCard, supply: Supply, folder: Path) -> Path | None:
    """The file of another machine's cache, if the run offers one: verified there, and compared here."""
    url = next((url for url in supply.offers if is_name_of(card, url.rpartition("/")[2])), None)
    if url is None:
        return None
    name = url.rpartition("/")[2]
    with partials_of(card, folder) as partials:
        part = partials / f"{hash_in_name(name)}.part"
        try:
            whole = bring(url, supply, part, name)
        except Away as error:
            raise TransientError(f"the weights of {card.name} that the run stored: {error}") from error
        except Unavailable as error:
            raise ConfigError(
                f"the weights of {card.name} that the run stored at {url}: {error}; run it again"
            ) from error
        if sha256_of(whole) != hash_in_name(name):
            whole.unlink()
            raise ConfigError(f"{url} is not what the run stored there: it has another sha256; remove it")
        return whole.replace(folder / name)


def _build(card: ModelCard, supply: Supply, folder: Path) -> Path:
    """Fetch, verify, convert, and put the result into the cache."""
    with partials_of(card, folder) as partials, tempfile.TemporaryDirectory(dir=folder) as scratch:
        files = {file.name: get_file(card, file, supply, partials).path for file in card.files}
        whole = Path(scratch) / "whole"
        try:
            convert(card.name, files, whole)
        except ConfigError:
            for file in files.values():
                file.unlink()  # it is what it should be, and of no use
            raise
        path = folder / name_of(card, sha256_of(whole))
        with whole.open("rb") as opened:
            os.fsync(opened.fileno())
        whole.replace(path)
    return path
