"""The models on offer: the shipped ones, and those that a user's own registry adds.

Shipped entries are data, in `registry.toml` beside this module, in the form that `registry_file` reads;
`user_registry` reads a user's. Nothing here loads a network or touches the network; `weights` fetches, and
the architectures' own modules build.

Added models are known to the whole process from then on, the only state here: wherever work is done, a name
is enough. Nothing removes them; a process that works for several users must not be handed their registries.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import NoReturn

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.cards import SPLEETER_SEGMENT_S as SPLEETER_SEGMENT_S
from splitfire_batch.models.cards import Member as Member
from splitfire_batch.models.cards import ModelCard as ModelCard
from splitfire_batch.models.cards import PublishedSdr as PublishedSdr
from splitfire_batch.models.cards import WeightsFile as WeightsFile
from splitfire_batch.models.foreign_names import hint
from splitfire_batch.models.registry_file import read_cards

ARCHITECTURES = {
    "spleeter": "spleeter",
    "passthrough": "passthrough",
    "htdemucs": "htdemucs",
    "bs_roformer": "roformer",
    "mel_band_roformer": "roformer",
}
"""The module of this package that builds each of them."""

ENSEMBLE = "ensemble"
"""The architecture of a card whose members are models of any other."""

_FIRST = ("spleeter-2stems", "passthrough")
"""Older than the ids of the others: destinations hold stems under ids of their files alone."""

_added: dict[str, tuple[str, ModelCard]] = {}
"""By name: where a model that was added is from, and its card."""
_adding = threading.Lock()


def model_cards() -> tuple[ModelCard, ...]:
    """Every model: the shipped ones in their order, then those that were added."""
    return (*shipped_cards(), *added_cards())


@functools.cache
def shipped_cards() -> tuple[ModelCard, ...]:
    """Every model of our own registry, in its order."""
    text = resources.files(__package__).joinpath("registry.toml").read_text(encoding="utf-8")
    return tuple(read_cards(text, "registry.toml", _find_nowhere))


def _find_nowhere(name: str) -> NoReturn:
    """Ours are like models above them in the same file."""
    raise ConfigError(f"found {name!r}, wanted a model above")


def added_cards() -> tuple[ModelCard, ...]:
    """The models that `add_cards` added, to be handed on to other processes."""
    return tuple(card for _, card in _added.values())


def add_cards(cards: Sequence[ModelCard], origin: str) -> None:
    """Make models known to this process; all of them, or none.

    Adding what is known already changes nothing. A model of the same origin is replaced.

    Args:
        cards: of models whose members are shipped, known or among them.
        origin: the file that they are from.

    Raises:
        ConfigError: another model has the name of one, a member is not known, or members have no mean.
    """
    with _adding:
        shipped = {card.name: card for card in shipped_cards()}
        for card in cards:
            known = shipped.get(card.name) or _added.get(card.name, ("", card))[1]
            place = "this version" if card.name in shipped else _added.get(card.name, ("", card))[0]
            if known != card and place != origin:
                raise ConfigError(
                    f"{origin}: {card.name}: {place} has another model of this name; call yours otherwise"
                )
        known_then = {**shipped, **{card.name: card for _, card in _added.values()}}
        known_then |= {card.name: card for card in cards}
        for card in cards:
            _check_members(card, known_then, origin)
        _added.update({card.name: (origin, card) for card in cards if card.name not in shipped})


def _check_members(
    card: ModelCard, known: Mapping[str, ModelCard], origin: str, above: tuple[str, ...] = ()
) -> None:
    """Refuse a model that is made of one that is not known, of itself, or of what has no mean."""
    path = (*above, card.name)
    for member in card.members:
        if member.model not in known:
            raise ConfigError(f"{origin}: {card.name}.members: {_unknown(member.model, known)}")
        if member.model in path:
            raise ConfigError(f"{origin}: {card.name}.members: {member.model} is made of itself")
        _check_members(known[member.model], known, origin, path)
    if card.members:
        _check_mean(card, known, f"{origin}: {card.name}.members")


def _check_mean(card: ModelCard, known: Mapping[str, ModelCard], where: str) -> None:
    """Refuse members whose estimates have no weighted mean: workers would be too late to say so."""
    for member in card.members:
        other = known[member.model]
        if (other.sample_rate, other.n_channels) != (card.sample_rate, card.n_channels):
            raise ConfigError(
                f"{where}: {other.name} has {other.sample_rate} Hz and {other.n_channels} channels, "
                f"{card.name} {card.sample_rate} Hz and {card.n_channels}; members must agree in both"
            )
        for stem, weight in member.weights.items():
            if stem not in other.stems:
                given = ", ".join(other.stems)
                raise ConfigError(f"{where}: a weight for {stem} of {other.name}, which gives {given}")
            if not 0 <= weight < math.inf:
                raise ConfigError(f"{where}: {stem} of {other.name} has weight {weight}, wanted 0 or more")
    for stem in card.stems:
        if not any(_weight(member, stem, known) for member in card.members):
            raise ConfigError(f"{where}: no member gives {stem} with a weight that is not 0")


def _weight(member: Member, stem: str, known: Mapping[str, ModelCard]) -> float:
    return member.weights.get(stem, 1.0) if stem in known[member.model].stems else 0.0


def find_card(name: str) -> ModelCard:
    """The model of that name.

    Raises:
        ConfigError: there is none; the message lists the known ones and what may have been meant.
    """
    cards = {card.name: card for card in model_cards()}
    if name in cards:
        return cards[name]
    raise ConfigError(f"model: {_unknown(name, cards)}")


def _unknown(name: str, known: Mapping[str, ModelCard]) -> str:
    meant = hint(name, known)
    return f"found {name!r}, known are {', '.join(known)}{f'; {meant}' if meant else ''}"


def with_members(card: ModelCard) -> Iterator[ModelCard]:
    """A model, and below it all that it is made of; each once.

    Raises:
        ConfigError: it is made of one that is not known.
    """
    seen = {card.name}
    yield card
    for member in card.members:
        for part in with_members(find_card(member.model)):
            if part.name not in seen:
                seen.add(part.name)
                yield part


def check_commercial(card: ModelCard) -> None:
    """Refuse a model that may not be used commercially, as far as is known; bags by all their members.

    Raises:
        ConfigError: which are not cleared, and what is known of their licence.
    """
    refused = [part for part in with_members(card) if not part.is_commercial_ok]
    if refused:
        why = "; ".join(f"{part.name}: {part.weights_license} ({part.license_url})" for part in refused)
        raise ConfigError(
            f"require_commercial: {card.name} is not cleared for commercial use ({why}); "
            "choose another model of `splitfire models list`, or leave the setting out"
        )


def weights_id(card: ModelCard) -> str:
    """Hash over what a model is, 64 hex digits: other weights, options or members, other id."""
    parts = [file.sha256 for file in card.files]
    parts += [json.dumps(dict(card.options), sort_keys=True)] if card.options else []
    for member in card.members:
        parts.append(
            f"{weights_id(find_card(member.model))} {json.dumps(dict(member.weights), sort_keys=True)}"
        )
    if card.name not in _FIRST:
        parts.append(json.dumps([card.architecture, card.stems, card.sample_rate, card.n_channels]))
    return hashlib.sha256(("\n".join(parts) or "none").encode()).hexdigest()
