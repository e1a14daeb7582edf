"""What is the same: settings that give the same stems, and the tracks of a sample.

Hashes that are stored beside what they made, so they must come out alike on every machine, for ever.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from splitfire_batch.config import LOSSY_FORMATS, OutputConfig, SeparationConfig

OUTPUT_EPOCH = 6
"""Raised by hand whenever our code starts to write other bytes for the same settings."""

_SKIPS = ("skip_silent_stems", "skip_without_vocals")
_ADDED = ("tail", "overlap")
"""Fields of `SeparationConfig` that destinations may be older than; each does at its default what was done
before there was such a field."""


def is_sampled(track_id: str, percent: float | None) -> bool:
    """Whether a track is among that many percent of all tracks: always the same ones; None takes every one.

    Args:
        track_id: 16 hex digits.
        percent: 0 to 100.
    """
    return percent is None or int(track_id, 16) < percent / 100 * 2**64


def settings(separation: SeparationConfig, output: OutputConfig, weights_id: str) -> dict[str, Any]:
    """Everything that changes a stem's sound or bytes, to be hashed and stored beside the rows it made."""
    sound = dataclasses.asdict(separation)
    standard = dataclasses.asdict(SeparationConfig())
    return {
        # an added field, or a skip, only where it is set, so that older destinations keep their settings_id
        **{name: value for name, value in sound.items() if name not in _ADDED or value != standard[name]},
        "stems": sorted(separation.stems),
        "format": output.format,
        "depth": output.depth,
        "dither": output.dither,
        "metadata": output.metadata,
        **({"quality": output.quality} if output.format in LOSSY_FORMATS else {}),
        "weights_id": weights_id,
        "output_epoch": OUTPUT_EPOCH,
        **{name: value for name in _SKIPS if (value := getattr(output, name)) is not None},
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is not the same, in words for an error's message: `format was 'wav' and is now 'flac'`; or ""."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return ", ".join(f"{name} was {before.get(name)!r} and is now {now.get(name)!r}" for name in names)


def settings_id(values: dict[str, Any], epoch: int = 0) -> str:
    """Hash of `settings(...)`: 16 hex digits, the same on every machine.

    Args:
        values: what `settings` returns.
        epoch: how often the destination's stems were replaced; work of an older epoch does not count.
    """
    text = json.dumps({**values, "epoch": epoch}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
