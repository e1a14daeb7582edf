"""What a destination's manifest claims of a track, and how a difference from it is told.

Pure data: `audit` looks, `verify` collects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "MISSING",
    "SIZE",
    "SHA256",
    "UNREADABLE",
    "FORMAT",
    "PCM_MD5",
    "SUM",
    "SOURCE_MISSING",
    "SOURCE_CHANGED",
    "SOURCE_UNREADABLE",
]

_RESTORE = "restore it from a copy; or touch its source (upload it again) and run the job again"
_RERUN = "run the job again: the new source is separated, and its stems replace these"
_NO_SOURCE = "bring the source back to test the sum; without --deep it is not needed"


@dataclass(frozen=True, slots=True)
class StemClaim:
    """What the manifest says of one written stem; names as in records.StemFile."""

    stem: str
    path: str
    subtype: str
    sample_rate: int
    n_channels: int
    n_frames: int
    n_bytes: int
    sha256: str
    pcm_md5: str | None


@dataclass(frozen=True, slots=True)
class Claim:
    """What the manifest says of one done track; names as in its columns."""

    path: str
    uri: str
    settings_id: str
    content_id: str
    sample_rate: int
    n_channels: int
    n_frames: int
    gain_db: float
    sum_residual_db: float | None
    stems: tuple[StemClaim, ...]
    left_out: frozenset[str]
    """Stems that the job did not write because they are silent; what was in them is in the others."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference between a destination and its manifest."""

    kind: Kind
    track: str
    """Path of the track below its catalogue's root."""
    stem: str
    """Its name; several for a sum, "" for the source."""
    path: str
    """The object: below the destination, or the URI of a source."""
    found: str
    wanted: str
    remedy: str


def in_stem(kind: Kind, claim: Claim, stem: StemClaim, found: str, wanted: str) -> Finding:
    """A stem is not what its row says."""
    return Finding(kind, claim.path, stem.stem, stem.path, found, wanted, _RESTORE)


def in_sum(claim: Claim, stems: Sequence[str], found: str, wanted: str) -> Finding:
    """Those stems do not add up to the source."""
    paths = {stem.stem: stem.path for stem in claim.stems}
    return Finding("SUM", claim.path, " + ".join(stems), paths[stems[0]], found, wanted, _RESTORE)


def in_source(kind: Kind, claim: Claim, found: str) -> Finding:
    """The source is not what was separated."""
    wanted = f"sha256 {claim.content_id[:16]}..."
    remedy = _RERUN if kind == "SOURCE_CHANGED" else _NO_SOURCE
    return Finding(kind, claim.path, "", claim.uri, found, wanted, remedy)
