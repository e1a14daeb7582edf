"""The form of registries, ours and users': TOML with one table per model, whose entries are those of a card.

    [our-vocals]
    like = "melband-roformer-kim"           # what is not said here is as there
    weights_license = "ours"
    license_url = "https://example.com/terms"
    [[our-vocals.files]]
    name = "our-vocals.ckpt"
    sha256 = "..."
    sources = ["/data/our-vocals.ckpt"]

What a table with weights of its own does not say of their licence, clearance for commercial use, training
data and citation is not known; it is not that of the model they are like. What was measured or published of
that model is never taken over; nor are its options, where the files bring a YAML config.

Every mistake is named by file, table and key.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.cards import ModelCard

_DEFAULTS: Mapping[str, Any] = {"sample_rate": 44_100, "n_channels": 2, "files": [], "citation": ""}
_CONFIGS = (".yaml", ".yml")

_OF_OTHER_WEIGHTS: Mapping[str, Any] = {
    "weights_license": "not stated",
    "license_url": "",
    "license_note": "",
    "is_commercial_ok": False,
    "training_data": "not stated",
    "citation": "",
}
"""What nobody has said of weights that are not those of the model they are like."""


def read_cards(text: str, origin: str, find: Callable[[str], ModelCard]) -> list[ModelCard]:
    """The models of a registry, in its order.

    Args:
        text: its TOML.
        origin: what messages call it.
        find: gives a model of another registry by its name, or raises ConfigError.

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
        cards[name] = _card(name, table, lambda like: cards[like] if like in cards else find(like), origin)
    return list(cards.values())


def _card(name: str, table: dict[str, Any], find: Callable[[str], ModelCard], origin: str) -> ModelCard:
    given = dict(table)
    like = given.pop("like", None)
    entry = {**_DEFAULTS, **given}
    if like is not None:
        known = _model_like(str(like), name, find, origin)
        if any(str(file).endswith(_CONFIGS) for file in _names(given.get("files"))):
            known["options"] = {}
        entry = {**known, **({} if _has_same_weights(given, known) else _OF_OTHER_WEIGHTS), **given}
    try:
        return _adapter().validate_python({**entry, "name": name})
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(name, item, origin) for item in error.errors())) from None


@functools.cache
def _adapter() -> TypeAdapter[ModelCard]:
    return TypeAdapter(ModelCard)


def _model_like(like: str, name: str, find: Callable[[str], ModelCard], origin: str) -> dict[str, Any]:
    """The entries of another model, but for what was measured or published of it."""
    try:
        card = find(like)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {name}.like: {str(error).removeprefix('model: ')}") from None
    entry: dict[str, Any] = _adapter().dump_python(card)
    return {**entry, "published_sdr": [], "parity": [], "provenance": "", "x_real_time_from": ""}


def _has_same_weights(given: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a table names no weights, or the very ones of the model it is like."""
    if "files" in given and _hashes(given["files"]) != _hashes(known["files"]):
        return False
    return "members" not in given or _named(given["members"]) == _named(known["members"])


def _hashes(files: Any) -> object:
    """Those of all files; of files whose hash is not known, something that equals nothing."""
    found = [file.get("sha256") for file in files] if _is_tables(files) else []
    return sorted(found) if found and all(isinstance(one, str) and one for one in found) else object()


def _names(files: Any) -> list[object]:
    return [file.get("name") for file in files] if _is_tables(files) else []


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
