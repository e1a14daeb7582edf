"""How far a faster way of computing is from fp32, in dB per stem, and the floors it has to keep.

Measured on a few seconds of music that this module makes itself: a voice of formants over chords, bass and
drums, such that no stem is near silence. Real music is measured by the tests with the same functions.

Axes: S stems, C channels, T frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.ensemble import Ensemble, Loaded
from splitfire_batch.segments import Model

FLOORS_DB = {"fp32": 90.0, "tf32": 60.0, "fp16": 60.0, "bf16": 40.0}
"""The least SNR against eager fp32; in fp32 itself only compilation makes a difference."""
QUIET_DB = 30.0
"""A stem that is this far below the mix is what the model leaves of an absent one: the mix is its measure."""

_BEAT_S = 0.5
_BASS_HZ = (110.0, 87.31, 130.81, 98.0)
_TUNE_HZ = (440.0, 493.88, 523.25, 587.33, 659.26, 587.33, 523.25, 392.0)
_FORMANTS = ((700, 160, 1.0), (1220, 200, 0.6), (2600, 300, 0.35), (3300, 300, 0.25))


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How well one stem agrees with fp32."""

    stem: str
    snr_db: float
    level_db: float
    """Of the stem, relative to the mix."""

    def keeps(self, floor_db: float) -> bool:
        """Whether it is as good as wanted; not if it is no number."""
        measure_db = self.level_db if self.level_db < -QUIET_DB else 0.0
        return self.snr_db - measure_db >= floor_db


def measure(model: Loaded, reference: Loaded, segment: Tensor) -> tuple[Fidelity, ...]:
    """What `model` makes of a segment (C, L) against what `reference` makes of it, per stem."""
    found, wanted = (of(segment[None].to(of.device))[0].double().cpu() for of in (model, reference))
    mix = _power(segment.double())
    return tuple(
        Fidelity(stem, _db(_power(right), _power(right - ours)), _db(_power(right), mix))
        for stem, ours, right in zip(model.stems, found, wanted, strict=True)
    )


def check_fidelity(model: Model, reference: Model, precision: str) -> None:
    """Returns if every stem of the made music keeps the floor of its precision.

    Raises:
        ConfigError: one does not.
    """
    segment = excerpt(full_segment(model), model.sample_rate)[: model.n_channels]
    floor_db = FLOORS_DB[precision]
    for found in measure(model, reference, segment):
        if not found.keeps(floor_db):
            raise ConfigError(
                f"precision: {model.name} in {precision} on {model.device} keeps only {found.snr_db:.1f} dB "
                f"of fp32 in {found.stem}, wanted at least {floor_db:.0f} dB; use fp32, without compile"
            )


def full_segment(model: Loaded) -> int:
    """Frames of a segment in the middle of a long track; of an ensemble, of its longest."""
    if isinstance(model, Ensemble):
        return max(full_segment(part.model) for part in model.parts)
    return model.segments(2**62)[0].n_frames


def excerpt(n_frames: int, sample_rate: int) -> Tensor:
    """Music (2, n_frames), float32, peak 0.5: always the same."""
    t = torch.arange(n_frames, dtype=torch.float64) / sample_rate
    beat, since = (t / _BEAT_S).long(), (t % _BEAT_S).float()
    ends = (since / 0.02).clamp(max=1) * ((_BEAT_S - since) / 0.06).clamp(max=1)
    root = torch.tensor(_BASS_HZ, dtype=torch.float64)[beat // 4 % len(_BASS_HZ)]
    bass, low, middle, high = (_saw(step * root, sample_rate) for step in (1, 2, 2.5, 3))
    kick = torch.sin(2 * math.pi * 55 * since) * torch.exp(-25 * since)
    noise = torch.rand(n_frames, generator=torch.Generator().manual_seed(0)) - 0.5
    drums = torch.where(beat % 2 == 0, kick, noise * torch.exp(-30 * since))
    voice = _voice(beat, (1 + 0.012 * torch.sin(11 * math.pi * t)), sample_rate)
    centre = ends * (0.3 * bass + 0.3 * voice) + 0.5 * drums + 0.05 * middle
    music = torch.stack((centre + 0.06 * low + 0.02 * high, centre + 0.02 * low + 0.06 * high))
    return 0.5 * music / music.abs().max()


def _saw(hz: Tensor, sample_rate: int) -> Tensor:
    """A tone with all its harmonics (T,) of that pitch (T,)."""
    return (2 * ((hz.cumsum(0) / sample_rate) % 1) - 1).float()


def _voice(beat: Tensor, vibrato: Tensor, sample_rate: int) -> Tensor:
    """An open vowel (T,), a note a beat."""
    tune = torch.tensor(_TUNE_HZ, dtype=torch.float64)
    note = beat % len(tune)
    phase = ((tune[note] * vibrato).cumsum(0) / sample_rate % 1).float() * (2 * math.pi)
    out = torch.zeros_like(phase)
    for k in range(1, 10):
        gains = sum(gain * torch.exp(-(((k * tune - at) / width) ** 2)) for at, width, gain in _FORMANTS)
        out += torch.as_tensor(gains).float()[note] * torch.sin(k * phase)
    return out


def _power(signal: Tensor) -> float:
    return float(signal.square().mean())


def _db(power: float, reference: float) -> float:
    if not reference:
        return math.inf
    return 10 * (math.log10(power) - math.log10(reference)) if power else -math.inf
