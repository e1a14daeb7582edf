"""Bags: models with the same segments as one, whose estimates are weighted means of theirs.

The estimate of a stem is sum(weight * estimate) / sum(weight) over the members, as in the package `demucs`.
A member has to compute only stems in which its weight is not 0; without any it is not loaded.

Axes: B batch, S stems, C channels, L frames of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from splitfire_batch.config import SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.models.members import needed_members
from splitfire_batch.models.registry import ModelCard
from splitfire_batch.segments import Model, Segment

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, slots=True)
class Part(Generic[Loaded]):
    """A loaded member, and the weight of each of its estimates; none is 0."""

    model: Loaded
    weights: Mapping[str, float]


def load_parts(
    card: ModelCard, separation: SeparationConfig, load: Callable[[SeparationConfig], Loaded]
) -> tuple[Part[Loaded], ...]:
    """The members of a card that the settings need, each with the estimates that they need of it.

    Args:
        card: of a bag or an ensemble.
        separation: names the card.
        load: gives a model for settings that name a member.

    Raises:
        ConfigError: a weight below 0, or a needed stem that no member gives.
    """
    return tuple(Part(load(settings), weights) for settings, weights in needed_members(card, separation))


def have_same_segments(models: Sequence[Model]) -> bool:
    """Whether all models read a track at the same places and blend with the same window."""
    first, full = models[0], models[0].segments(2**62)[0].n_frames
    if any(
        (model.sample_rate, model.n_channels) != (first.sample_rate, first.n_channels) for model in models
    ):
        return False
    lengths = [1, full - 1, full, full + 1, 3 * full, 4 * full + full // 3]
    return all(_agree(first, model, n_frames) for model in models[1:] for n_frames in lengths)


def _agree(one: Model, other: Model, n_frames: int) -> bool:
    segments = list(one.segments(n_frames))
    if segments != list(other.segments(n_frames)):
        return False
    windows = [(one.window(segment), other.window(segment)) for segment in segments]
    return all(
        mine is theirs if mine is None or theirs is None else torch.equal(mine, theirs)
        for mine, theirs in windows
    )


class Bag:
    """Implements `segments.Model`: its parts read the same segments, so each is read once."""

    def __init__(self, card: ModelCard, parts: Sequence[Part[Model]]) -> None:
        """Join models that `have_same_segments`.

        Args:
            card: names the bag and, in order, its stems.
            parts: as `load_parts` gives them, on one device.

        Raises:
            ConfigError: their segments differ.
        """
        models = [part.model for part in parts]
        if not have_same_segments(models):
            names = ", ".join(model.name for model in models)
            raise ConfigError(f"{card.name}: {names} read different segments; a bag's members read the same")
        self.name = card.name
        self.sample_rate, self.n_channels = models[0].sample_rate, models[0].n_channels
        self.device = models[0].device
        self.is_for_one_core = all(model.is_for_one_core for model in models)
        self.is_of_any_length = any(model.is_of_any_length for model in models)
        self.stems = tuple(stem for stem in card.stems if any(stem in part.weights for part in parts))
        self._parts = tuple(parts)
        self._totals = {stem: sum(part.weights.get(stem, 0.0) for part in self._parts) for stem in self.stems}

    @property
    def n_redone(self) -> int:
        """Segments that its parts computed again; see `htdemucs`."""
        return sum(getattr(part.model, "n_redone", 0) for part in self._parts)

    def segments(self, n_frames: int) -> Sequence[Segment]:
        """Those of every part; see `segments.Model.segments`."""
        return self._parts[0].model.segments(n_frames)

    def window(self, segment: Segment) -> Tensor | None:
        """That of every part."""
        return self._parts[0].model.window(segment)

    def __call__(self, segments: Tensor) -> Tensor:
        """Estimates (B, S, C, L) of segments (B, C, L), float32.

        A stem that one part alone gives is its estimate, bit for bit.
        """
        estimates: list[Tensor | None] = [None] * len(self.stems)
        with torch.inference_mode():
            for part in self._parts:
                found = part.model(segments)
                for place, stem in enumerate(part.model.stems):
                    share = found[:, place] * (part.weights[stem] / self._totals[stem])
                    index = self.stems.index(stem)
                    held = estimates[index]
                    estimates[index] = share if held is None else held.add_(share)
            return torch.stack([estimate for estimate in estimates if estimate is not None], dim=1)
