"""A user's own registry: a TOML file with one table per model, in the form of `registry.toml`.

    [our-vocals]
    like = "melband-roformer-kim"           # what is not said here is as there
    weights_license = "ours"
    license_url = "https://example.com/terms"
    [[our-vocals.files]]
    name = "our-vocals.ckpt"
    sha256 = "..."
    sources = ["/data/our-vocals.ckpt"]

What a table with weights of its own does not say of their licence, clearance for commercial use, training
data and citation is not known; it is not that of the model they are like.

Every mistake is named by file, table and key. The file is read where a command or a flow runs, once; cards
travel on to workers.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from splitfire_batch.config import RuntimeConfig
from splitfire_batch.errors import ConfigError, StorageError
from splitfire_batch.models.cards import ModelCard
from splitfire_batch.models.registry import add_cards, find_card
from splitfire_batch.storage import Options, open_store
from splitfire_batch.storage.download import is_local
from splitfire_batch.storage.urls import refuse_secrets

_MAX_BYTES = 4 * 2**20
_DEFAULTS: Mapping[str, Any] = {"sample_rate": 44_100, "n_channels": 2, "files": [], "citation": ""}

_OF_OTHER_WEIGHTS: Mapping[str, Any] = {
    "weights_license": "not stated",
    "license_url": "",
    "license_note": "",
    "is_commercial_ok": False,
    "training_data": "not stated",
    "citation": "",
}
"""What nobody has said of weights that are not those of the model they are like."""


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
    """The models of a registry, in its order.

    Args:
        text: its TOML.
        origin: what messages call it.

    Raises:
        ConfigError: file, table and key that are wrong, what was found and what is wanted.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is no TOML: {error}") from None
    cards: dict[str, ModelCard] = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{origin}: {name}: found {_shown(table)}, wanted a table, one for each model")
        cards[name] = _card(name, table, cards, origin)
    return list(cards.values())


def _card(name: str, table: dict[str, Any], above: Mapping[str, ModelCard], origin: str) -> ModelCard:
    given = dict(table)
    like = given.pop("like", None)
    entry = {**_DEFAULTS, **given}
    if like is not None:
        known = _model_like(like, name, above, origin)
        entry = {**known, **({} if _has_same_weights(given, known) else _OF_OTHER_WEIGHTS), **given}
    try:
        card = TypeAdapter(ModelCard).validate_python({**entry, "name": name})
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(name, item, origin) for item in error.errors())) from None
    for file in card.files:
        try:
            refuse_secrets(*file.sources)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {name}.files: {file.name}: {error}") from None
    return card


def _model_like(like: object, name: str, above: Mapping[str, ModelCard], origin: str) -> dict[str, Any]:
    """The entries of another model, but for what was measured or published of it."""
    try:
        card = above[like] if isinstance(like, str) and like in above else find_card(str(like))
    except ConfigError as error:
        raise ConfigError(f"{origin}: {name}.like: {str(error).removeprefix('model: ')}") from None
    entry: dict[str, Any] = TypeAdapter(ModelCard).dump_python(card)
    return {**entry, "published_sdr": [], "parity": [], "provenance": ""}


def _has_same_weights(given: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a table names no weights, or the very ones of the model it is like."""
    if "files" in given and _hashes(given["files"]) != _hashes(known["files"]):
        return False
    return "members" not in given or _named(given["members"]) == _named(known["members"])


def _hashes(files: Any) -> object:
    """Those of all files; of files whose hash is not known, something that equals nothing."""
    found = [file.get("sha256") for file in files] if _is_tables(files) else []
    return sorted(found) if found and all(isinstance(one, str) and one for one in found) else object()


def _named(members: Any) -> object:
    """Names of members; weights of their mean change nothing of what the members are."""
    return sorted(str(member.get("model")) for member in members) if _is_tables(members) else object()


def _is_tables(found: Any) -> bool:
    return isinstance(found, list | tuple) and all(isinstance(one, Mapping) for one in found)


def _explain(name: str, item: Any, origin: str) -> str:
    """One of pydantic's errors in our words."""
    where = ".".join(str(part) for part in (name, *item["loc"]))
    if item["type"] == "unexpected_keyword_argument":
        known = "name, sha256, n_bytes, sources" if item["loc"][0] == "files" else ", ".join(_KEYS)
        return f"{origin}: {where} is no key of this table; known are {known}"
    if item["type"] in ("missing", "missing_argument"):
        return f"{origin}: {where} is missing; say it, or name a model that is `like` this one"
    is_whole = isinstance(item["input"], Mapping) or not item["loc"]
    found = "" if is_whole else f"found {_shown(item['input'])}; "
    return f"{origin}: {where}: {found}{item['msg'].removeprefix('Value error, ')}"


_KEYS = ("like", *(key for key in ModelCard.__dataclass_fields__ if key != "name"))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _text(origin: str, options: Options) -> str:
    """The registry's text, from a local file or a store."""
    refuse_secrets(origin)
    try:
        if "://" in origin:
            root, _, name = origin.rpartition("/")
            content = open_store(root, options).read(name)
        else:
            content = Path(origin).expanduser().read_bytes()
    except (OSError, StorageError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"registry: {origin} cannot be read: {why}; name a TOML file of models") from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"registry: {origin} has {len(content)} bytes, wanted at most {_MAX_BYTES}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{origin} is no TOML: it is not UTF-8: {error}") from None
