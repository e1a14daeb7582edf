"""A user's own registry: a TOML file in the form of ours, see `registry_file`.

It is read where a command or a flow runs; cards travel on to workers.
"""

from __future__ import annotations

import os
from pathlib import Path

from splitfire_batch.config import RuntimeConfig
from splitfire_batch.errors import ConfigError, StorageError
from splitfire_batch.models.cards import ModelCard
from splitfire_batch.models.registry import ARCHITECTURES, ENSEMBLE, add_cards, find_card
from splitfire_batch.models.registry_file import read_cards
from splitfire_batch.storage import Options, open_store
from splitfire_batch.storage.download import is_local
from splitfire_batch.storage.files import open_regular
from splitfire_batch.storage.urls import refuse_secrets

_MAX_BYTES = 4 * 2**20


def use_registry(runtime: RuntimeConfig) -> None:
    """Make the models of `runtime.registry` known to this process, if there is one.

    Raises:
        ConfigError: the file is missing or no such registry; a model of it has the name of another.
        TransientError: its store does not answer.
    """
    if runtime.registry is not None:
        origin = runtime.registry
        if runtime.offline and not is_local(origin):
            raise ConfigError(
                f"offline: the registry {origin} is not on this machine, and no connection may be opened"
            )
        add_cards(read_registry(_text(origin, runtime.storage), origin), origin)


def read_registry(text: str, origin: str) -> list[ModelCard]:
    """The models of a user's registry, in its order.

    Args:
        text: its TOML.
        origin: what messages call it.

    Raises:
        ConfigError: file, table and key that are wrong, what was found and what is wanted.
    """
    cards = read_cards(text, origin, find_card)
    for card in cards:
        if card.architecture not in (*ARCHITECTURES, ENSEMBLE):
            raise ConfigError(
                f"{origin}: {card.name}.architecture: found {card.architecture!r}, wanted one of "
                f"{', '.join((*ARCHITECTURES, ENSEMBLE))}"
            )
        for file in card.files:
            try:
                refuse_secrets(*file.sources)
            except ConfigError as error:
                raise ConfigError(f"{origin}: {card.name}.files: {file.name}: {error}") from None
    return cards


def _text(origin: str, options: Options) -> str:
    """The registry's text, from a local file or a store."""
    refuse_secrets(origin)
    try:
        if "://" in origin:
            root, _, name = origin.rpartition("/")
            store = open_store(root, options)
            n_bytes = store.stat(name).n_bytes
            content = store.read(name, n_bytes) if n_bytes <= _MAX_BYTES else b""
        else:
            with open_regular(str(Path(origin).expanduser())) as file:
                n_bytes = os.fstat(file.fileno()).st_size
                content = file.read(_MAX_BYTES + 1)
    except (OSError, StorageError) as error:
        why = error.strerror if isinstance(error, OSError) else error.why
        raise ConfigError(f"registry: {origin} cannot be read: {why}; name a TOML file of models") from error
    if max(n_bytes, len(content)) > _MAX_BYTES:
        raise ConfigError(f"registry: {origin} has {n_bytes} bytes, wanted at most {_MAX_BYTES}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{origin} is no TOML: it is not UTF-8: {error}") from None
