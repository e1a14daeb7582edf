"""What a row says of audio: levels that were measured, and what a file says of itself.

Everything here is frozen, small and picklable, like `records`, which it is part of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Measurements = Literal["all", "basic", "none"]
"""What is measured of audio: everything, all but what costs most, or the sample peak alone."""


@dataclass(frozen=True, slots=True)
class Levels:
    """What one signal measures; full scale is 1.0 or 0 dB. None where nothing is there, or measured."""

    peak_db: float | None = None
    """Sample peak; None for digital silence."""
    rms_db: float | None = None
    true_peak_db: float | None = None
    """ITU-R BS.1770; between the samples as well."""
    loudness_lufs: float | None = None
    """Integrated, ITU-R BS.1770; None below 0.4 s, or if nowhere above -70 LUFS."""
    loudness_range_lu: float | None = None
    """EBU Tech 3342; None below 3 s, or if nowhere above -70 LUFS."""
    dc_offset: float | None = None
    """Mean of the channel where it is farthest from zero."""
    clipped_samples: int | None = None
    """Samples at full scale, or beyond it in a float format."""
    clipped_run: int | None = None
    """The most of them that follow each other in one channel."""
    silence_ratio: float | None = None
    """Part of the time, in steps of 100 ms, without a sample above -60 dB."""
    side_ratio: float | None = None
    """Energy of the channels' difference over that of sum and difference, 0 to 1; None unless stereo."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a track's file says of it in chunks, tags and its name; None where nothing does for certain."""

    title: str | None = None
    artist: str | None = None
    album: str | None = None
    isrc: str | None = None
    """Twelve characters, without hyphens (ISO 3901)."""
    bpm: float | None = None
    bpm_source: str | None = None
    """tag, acid or filename."""
    key: str | None = None
    """Tonic, accidental, `m` for minor: Am, C#m, Eb, F."""
    key_source: str | None = None
    """tag, acid, basc (Apple Loops) or filename."""
    sample_type: str | None = None
    """loop or one-shot."""
    beats: int | None = None
    root_note: int | None = None
    """MIDI note at which a sampler plays it unchanged; 60 is middle C."""
    loop_start: int | None = None
    """First frame of the first loop."""
    loop_end: int | None = None
    """Its last frame, as `smpl` counts: it still sounds."""
