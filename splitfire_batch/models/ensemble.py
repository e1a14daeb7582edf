"""Ensembles: several models whose estimates are blended, stem by stem, into a weighted mean.

Members may cut a track into segments of their own: each has its engine, and `ensembles` blends what comes out
of them. Here it is decided who is in it, with which weights, and whether they fit together. Only members that
a wanted stem is made of are loaded.

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
from splitfire_batch.models.registry import Member, ModelCard, find_card, with_members
from splitfire_batch.segments import Model
from splitfire_batch.stems import make_recipes, needed_estimates


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Loaded members. What it has in common with `segments.Model` means the same."""

    name: str
    sample_rate: int
    n_channels: int
    stems: tuple[str, ...]
    device: torch.device
    parts: tuple[Part, ...]

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
                part.add(self.stems, _whole(part.model, clip), estimates)
        return out


Loaded: TypeAlias = Model | Ensemble
"""What `load_model` gives."""


@dataclass(frozen=True, slots=True)
class Part:
    """One member."""

    model: Loaded
    weights: tuple[float, ...]
    """By its stems; over all members those of one stem sum to 1."""

    def add(self, stems: Sequence[str], estimates: Tensor, total: Tensor) -> None:
        """Add its estimates (..., S, C, T) to those of the ensemble's `stems`, in `total`."""
        with torch.inference_mode():
            for number, (stem, weight) in enumerate(zip(self.model.stems, self.weights, strict=True)):
                total[..., stems.index(stem), :, :].add_(estimates[..., number, :, :], alpha=weight)


def load_ensemble(
    card: ModelCard, separation: SeparationConfig, load: Callable[[SeparationConfig], Loaded]
) -> Ensemble:
    """The members of an ensemble that the settings need, ready to run.

    Args:
        card: its stems may be fewer than its members have.
        separation: every member gets its settings.
        load: makes a model of settings that name it.

    Raises:
        ConfigError: members that do not fit together, a stem that no member has, weights that are negative or
            for no stem of the member.
    """
    _check(card)
    needed = needed_estimates(make_recipes(separation, card.stems))
    stems = tuple(stem for stem in card.stems if stem in needed)
    totals = {stem: sum(_weight(member, stem) for member in card.members) for stem in stems}
    parts = []
    for member in card.members:
        wanted = tuple(stem for stem in stems if _weight(member, stem) > 0)
        if wanted:
            model = load(replace(separation, model=member.model, stems=wanted, residual="drop"))
            weights = tuple(_weight(member, stem) / totals[stem] for stem in model.stems)
            parts.append(Part(model, weights))
    device = parts[0].model.device
    return Ensemble(card.name, card.sample_rate, card.n_channels, stems, device, tuple(parts))


def _check(card: ModelCard) -> None:
    """Refuse what could not be blended."""
    list(with_members(card))  # that none of them is made of itself
    if not card.members:
        raise ConfigError(f"{card.name}: an ensemble without members; name some")
    for member in card.members:
        other = find_card(member.model)
        if (other.sample_rate, other.n_channels) != (card.sample_rate, card.n_channels):
            raise ConfigError(
                f"{card.name}: {other.name} has {other.sample_rate} Hz and {other.n_channels} channels, the "
                f"ensemble {card.sample_rate} Hz and {card.n_channels}; members must agree in both"
            )
        for stem, weight in member.weights.items():
            if stem not in other.stems:
                known = ", ".join(other.stems)
                raise ConfigError(f"{card.name}: a weight for {stem} of {other.name}, which gives {known}")
            if not 0 <= weight < float("inf"):
                raise ConfigError(
                    f"{card.name}: {stem} of {other.name} has weight {weight}, wanted 0 or more"
                )
    for stem in card.stems:
        if not any(_weight(member, stem) > 0 for member in card.members):
            raise ConfigError(f"{card.name}: no member gives {stem} with a weight; leave it out of its stems")


def _weight(member: Member, stem: str) -> float:
    return member.weights.get(stem, 1.0) if stem in find_card(member.model).stems else 0.0


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
