"""Puts weights where workers find them that have neither this machine's cache nor a way to the publishers.

A mirror holds a model's files as they were published; an operator fills it, for any number of runs. What a
run offers its own workers, below its destination, are the files of its cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from splitfire_batch.errors import ConfigError, ObjectMissing, TransientError
from splitfire_batch.models.cache import folder_for, partials_of, sha256_of, turn_at
from splitfire_batch.models.cards import ModelCard, WeightsFile
from splitfire_batch.models.downloads import get_file
from splitfire_batch.models.supply import NOTHING_SET, Supply
from splitfire_batch.storage import Store, StoredObject, open_store, refuse_file
from splitfire_batch.storage.download import is_local

OFFERED = "_splitfire/weights"
"""Below a destination, weights for the workers of its runs."""


def mirror_weights(card: ModelCard, to: str, supply: Supply = NOTHING_SET) -> Iterator[str]:
    """Put a model's published files where workers with the mirror `to` look for them; their URLs.

    Files that are there are verified, and left.

    Args:
        card: the model; of a bag, each of its members is a model of its own.
        to: URL or folder.
        supply: where the files may come from, and the options of the stores.

    Raises:
        ConfigError: as `weights.fetch_weights`; `to` is a file, or the mirror has another file of the name.
        StorageError: the mirror refuses.
        TransientError: the mirror, or a source, does not answer.
    """
    if supply.is_offline and not is_local(to):
        raise ConfigError(f"offline: {to} is not on this machine, and no connection may be opened")
    refuse_file(to)
    store = open_store(to, supply.options)
    for file in card.files:
        path = f"{card.name}/{file.name}"
        with folder_for(card) as folder, turn_at(card, folder), partials_of(card, folder) as partials:
            with _answering(store):
                found = _stat(store, path)
            if found is None:
                whole = get_file(card, file, supply, partials).path
                with _answering(store):
                    store.write(path, whole)
            else:
                with _answering(store):
                    _check_mirrored(store, found, file, folder)
        yield store.uri_of(path)


def offer_weights(paths: Sequence[Path], store: Store) -> tuple[str, ...]:
    """Put files of the cache into a destination, where they are not there yet; their URLs.

    Raises:
        StorageError, TransientError: the destination does not take one.
    """
    offered = {f"{OFFERED}/{path.name}": path for path in paths}
    for name, path in offered.items():
        found = _stat(store, name)
        if found is None or found.n_bytes != path.stat().st_size:
            store.write(name, path)
    return tuple(store.uri_of(name) for name in offered)


@contextmanager
def _answering(mirror: Store) -> Iterator[None]:
    """What fails here is the mirror, and no source."""
    try:
        yield
    except TransientError as error:
        raise TransientError(f"the mirror {mirror.url} does not answer: {error}") from error


def _stat(store: Store, path: str) -> StoredObject | None:
    try:
        return store.stat(path)
    except ObjectMissing:
        return None


def _check_mirrored(store: Store, found: StoredObject, file: WeightsFile, folder: Path) -> None:
    """Compare a file of a mirror with the published one."""
    uri, remedy = store.uri_of(found.path), "The mirror holds another file of this name; remove it."
    if file.n_bytes not in (None, found.n_bytes):
        raise ConfigError(f"{uri}: has {found.n_bytes} bytes, wanted {file.n_bytes}\n{remedy}")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        actual = sha256_of(store.fetch(found.path, Path(scratch) / "copy", found.n_bytes))
    if actual != file.sha256:
        raise ConfigError(f"{uri}: has the sha256 {actual}, wanted {file.sha256}\n{remedy}")
