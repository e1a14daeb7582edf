"""Which models obey `overlap` and `tail`, and what an overlap does to the number of their segments."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from splitfire_batch.config import SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.models.registry import ModelCard, model_cards, with_members


def _of_demucs(_: ModelCard) -> float:
    return 0.25


def _of_roformer(card: ModelCard) -> float:
    """What its options say; a config in a file is not read before its weights are, and most of them say 2."""
    inference = card.options.get("inference", {})
    n = inference.get("num_overlap", 2) if isinstance(inference, dict) else 2
    return 1 - 1 / n if isinstance(n, int) and n > 0 else 0.5


OVERLAPS: dict[str, Callable[[ModelCard], float]] = {
    "htdemucs": _of_demucs,
    "bs_roformer": _of_roformer,
    "mel_band_roformer": _of_roformer,
}
"""Architectures that obey `overlap` and `tail`, and the overlap that their models have without a setting."""


def check_obeyed(card: ModelCard, separation: SeparationConfig) -> None:
    """Refuse settings that would change nothing but the settings_id.

    Raises:
        ConfigError: `overlap` or `tail` is set, and the model, or no member of the ensemble, obeys it.
    """
    given = {
        "overlap": separation.overlap is not None,
        "tail": separation.tail != SeparationConfig().tail,
    }
    found = [name for name, is_given in given.items() if is_given]
    if found and not any(part.architecture in OVERLAPS for part in with_members(card)):
        names = ", ".join(other.name for other in model_cards() if other.architecture in OVERLAPS)
        value = getattr(separation, found[0])
        raise ConfigError(
            f"{found[0]}: found {value!r}, which {card.name} ({card.architecture}) does not obey; leave it "
            f"out, or choose a model that does ({', '.join(OVERLAPS)}): {names}"
        )


def segment_s(card: ModelCard, separation: SeparationConfig) -> float:
    """Seconds of audio from one full segment to the next with these settings; of an ensemble on average."""
    overlap = separation.overlap
    if overlap is None:
        return card.segment_s
    parts = [part for part in with_members(card) if not part.members]
    n_segments = fmean(
        (1 - OVERLAPS[part.architecture](part)) / (1 - overlap) if part.architecture in OVERLAPS else 1.0
        for part in parts
    )
    return card.segment_s / n_segments
