"""Ensembles: several models whose estimates are blended, stem by stem, into a weighted mean.

Members with the same segments are a `bag`, one model. Others cut a track into segments of their own: each has
its engine, and `ensembles` blends what comes out of them.

Axes: B clips, S stems, C channels, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from splitfire_batch.blending import MixBuffer, OverlapAdd
from splitfire_batch.config import SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.models.bag import Bag, Part, have_same_segments, load_parts
from splitfire_batch.models.registry import ModelCard, with_members
from splitfire_batch.segments import Model


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Loaded members. What it has in common with `segments.Model` means the same."""

    name: str
    sample_rate: int
    n_channels: int
    stems: tuple[str, ...]
    device: torch.device
    parts: tuple[Part[Loaded], ...]
    """Over all of them the weights of a stem sum to 1."""

    @property
    def is_for_one_core(self) -> bool:
        """Whether every member is."""
        return all(part.model.is_for_one_core for part in self.parts)

    def __call__(self, clips: Tensor) -> Tensor:
        """Estimates (B, S, C, T) of whole clips (B, C, T), each as if it were a track; on the CPU.

        For measurements: it holds all of them at once, and uses no batches.
        """
        out = torch.zeros((len(clips), len(self.stems), *clips.shape[1:]))
        for part in self.parts:
            for clip, estimates in zip(clips.cpu(), out, strict=True):
                add_part(part, self.stems, _whole(part.model, clip), estimates)
        return out


Loaded: TypeAlias = Model | Ensemble
"""What `load_model` gives."""


def add_part(part: Part[Loaded], stems: Sequence[str], estimates: Tensor, total: Tensor) -> None:
    """Add a member's share of (..., S, C, T) to those of the ensemble's `stems`, in `total`."""
    with torch.inference_mode():
        for number, stem in enumerate(part.model.stems):
            share = part.weights[stem]
            total[..., stems.index(stem), :, :].add_(estimates[..., number, :, :], alpha=share)


def load_ensemble(
    card: ModelCard, separation: SeparationConfig, load: Callable[[SeparationConfig], Loaded]
) -> Loaded:
    """The members of a card that the settings need, ready to run; as one model where they can be.

    Args:
        card: its stems may be fewer than its members have.
        separation: every member gets its settings.
        load: makes a model of settings that name it.

    Raises:
        ConfigError: no members, or a needed stem that none of them gives. Whether rates, stems and weights
            fit together was seen when the registry was read.
    """
    _check(card)
    parts = load_parts(card, separation, load)
    alike = [Part(part.model, part.weights) for part in parts if not isinstance(part.model, Ensemble)]
    if len(alike) == len(parts) and have_same_segments([part.model for part in alike]):
        return Bag(card, alike)
    stems = tuple(stem for stem in card.stems if any(stem in part.weights for part in parts))
    totals = {stem: sum(part.weights.get(stem, 0.0) for part in parts) for stem in stems}
    shares = tuple(
        replace(part, weights={stem: weight / totals[stem] for stem, weight in part.weights.items()})
        for part in parts
    )
    device = parts[0].model.device
    return Ensemble(card.name, card.sample_rate, card.n_channels, stems, device, shares)


def _check(card: ModelCard) -> None:
    """Refuse what could not be blended."""
    list(with_members(card))  # that none of them is made of itself
    if not card.members:
        raise ConfigError(f"{card.name}: an ensemble without members; name some")


def _whole(model: Loaded, clip: Tensor) -> Tensor:
    """Estimates (S, C, T) of a whole clip (C, T)."""
    if isinstance(model, Ensemble):
        return model(clip[None])[0]
    buffer, blend = MixBuffer(model.n_channels), OverlapAdd(len(model.stems), model.n_channels)
    buffer.push(clip)
    for segment in model.segments(clip.shape[1]):
        estimate = model(buffer.read(segment)[None].to(model.device))[0].cpu()
        blend.add(segment, estimate, model.window(segment))
    return blend.take(clip.shape[1])
