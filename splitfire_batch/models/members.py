"""Which models some settings need: one, or those of its members whose estimates go into the stems asked for.

Known without torch, so that a driver fetches what its workers will load and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from splitfire_batch.config import SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.models.registry import Member, ModelCard, find_card
from splitfire_batch.stems import make_recipes, needed_estimates


def needed_members(
    card: ModelCard, separation: SeparationConfig
) -> Iterator[tuple[SeparationConfig, dict[str, float]]]:
    """The settings for each member that is needed, and the weights of its estimates by stem; none is 0.

    Args:
        card: of a bag or an ensemble.
        separation: names the card.

    Raises:
        ConfigError: a weight below 0, or a needed stem that no member gives.
    """
    needed = needed_estimates(make_recipes(separation, card.stems))
    weights = [_weights(card, member, needed) for member in card.members]
    lacking = [stem for stem in needed if not any(stem in each for each in weights)]
    if lacking:
        raise ConfigError(f"{card.name}: no member gives {lacking[0]} with a weight that is not 0")
    for member, each in zip(card.members, weights, strict=True):
        if each:
            yield replace(separation, model=member.model, stems=tuple(each), residual="drop"), each


def needed_cards(separation: SeparationConfig) -> Iterator[ModelCard]:
    """The models with weights of their own that have to be loaded for some settings, each once."""
    yield from {card.name: card for card in _needed(separation)}.values()


def _needed(separation: SeparationConfig) -> Iterator[ModelCard]:
    card = find_card(separation.model)
    if not card.members:
        yield card
    for settings, _ in needed_members(card, separation) if card.members else ():
        yield from _needed(settings)


def _weights(card: ModelCard, member: Member, needed: Sequence[str]) -> dict[str, float]:
    """By stem, for what is needed of a member."""
    if any(weight < 0 for weight in member.weights.values()):
        raise ConfigError(f"{card.name}: {member.model} has a weight below 0; wanted 0 or more")
    given = find_card(member.model).stems
    weights = {stem: member.weights.get(stem, 1.0) for stem in needed if stem in given}
    return {stem: weight for stem, weight in weights.items() if weight}
