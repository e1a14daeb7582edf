"""One done track against its row: its stems are there, whole, decodable, and sum to the source.

What differs becomes a finding that says what was found, what the row wants and what to do; nothing that is
wrong with a track raises. `verify` decides which tracks are audited, and how far.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from splitfire_batch.audio import open_audio, pcm_bytes, source_bits, to_depth
from splitfire_batch.errors import ConfigError, NoSpace, ObjectMissing, StorageError, TrackError
from splitfire_batch.findings import Claim, Finding, StemClaim, in_source, in_stem, in_sum
from splitfire_batch.null_test import Sum, null_test
from splitfire_batch.storage import Store, Stores
from splitfire_batch.stored import sha256_of

Depth = Literal["fast", "full", "deep"]
"""Existence and size; also the sha256 of every stem; also its audio, and the sum against the source."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What the stems of one settings_id must add up to."""

    to_mix: tuple[tuple[str, ...], ...]
    """Sets of stems that sum to the mix; the first of each is the mix minus the others."""
    measured: tuple[str, ...]
    """The stems whose sum the job compared with the mix; () for none."""
    is_dithered: bool


@dataclass(frozen=True, slots=True)
class Bench:
    """What the audits of a destination share."""

    store: Store
    sources: Stores
    depth: Depth
    sums: Mapping[str, Sums]
    """By settings_id."""
    scratch: Path


@dataclass(frozen=True, slots=True)
class Audit:
    """What came of one track."""

    findings: tuple[Finding, ...]
    n_bytes: int
    """Of the stems that were read."""
    is_summed: bool
    """Whether its stems were added up and compared with the source."""


def audit(claim: Claim, sizes: Sequence[int | None], bench: Bench) -> Audit:
    """Compare one track with its row.

    Args:
        claim: the row.
        sizes: of its stems' objects as they were listed; None for those that were not.
        bench: may serve other tracks in other threads at the same time.

    Raises:
        TransientError: a store does not answer.
        NoSpace: the scratch folder is full.
    """
    listed = [_listed(claim, stem, size) for stem, size in zip(claim.stems, sizes, strict=True)]
    if bench.depth == "fast":
        return Audit(tuple(filter(None, listed)), 0, is_summed=False)
    findings: list[Finding] = []
    files: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(prefix="splitfire-", dir=bench.scratch) as folder:
        for number, (stem, finding) in enumerate(zip(claim.stems, listed, strict=True)):
            copy = Path(folder) / str(number)
            found = finding or _read(claim, stem, copy, bench, files)
            findings += [found] if found else []
            if bench.depth == "full":
                copy.unlink(missing_ok=True)  # a local store gives its own file instead, which stays
        n_bytes = sum(stem.n_bytes for stem in claim.stems if stem.stem in files)
        tests = {} if findings or bench.depth == "full" else _tests(claim, bench.sums[claim.settings_id])
        if tests:
            findings += _sums(claim, tests, files, bench, Path(folder) / "source")
    is_summed = bool(tests) and all(finding.stem for finding in findings)  # those of the source have none
    return Audit(tuple(findings), n_bytes, is_summed)


def _listed(claim: Claim, stem: StemClaim, size: int | None) -> Finding | None:
    if size is None:
        return in_stem("MISSING", claim, stem, "no such object", f"{stem.n_bytes} bytes")
    if size != stem.n_bytes:
        return in_stem("SIZE", claim, stem, f"{size} bytes", f"{stem.n_bytes} bytes")
    return None


def _read(claim: Claim, stem: StemClaim, copy: Path, bench: Bench, files: dict[str, Path]) -> Finding | None:
    """What is wrong with the bytes of a stem, and, if asked for, with its audio; its file goes to `files`."""
    try:
        file = files[stem.stem] = bench.store.fetch(stem.path, copy)
    except ObjectMissing:
        return in_stem("MISSING", claim, stem, "listed, then gone", f"{stem.n_bytes} bytes")
    except NoSpace:
        raise  # of the scratch folder
    except StorageError as error:
        return in_stem("UNREADABLE", claim, stem, error.why, f"{stem.n_bytes} bytes")
    found = sha256_of(file)
    if found != stem.sha256:
        return in_stem("SHA256", claim, stem, f"sha256 {found[:16]}...", f"{stem.sha256[:16]}...")
    return _audio(claim, stem, file) if bench.depth == "deep" else None


def _audio(claim: Claim, stem: StemClaim, file: Path) -> Finding | None:
    """What is wrong with a stem once it is decoded to its last frame."""
    md5 = hashlib.md5(usedforsecurity=False)
    try:
        with open_audio(file) as decoder:
            bits = decoder.bits
            wanted_md5 = stem.pcm_md5 if _is_lossless(stem) else None
            for block in decoder.blocks():
                if wanted_md5:
                    md5.update(pcm_bytes(block if bits is None else to_depth(block, bits), bits))
    except TrackError as error:
        return in_stem("UNREADABLE", claim, stem, str(error), f"{stem.n_frames} frames")
    header = decoder.format
    found = _shape(decoder.n_frames, header.sample_rate, header.n_channels)
    for wanted in (stem, claim):
        shape = _shape(wanted.n_frames, wanted.sample_rate, wanted.n_channels)
        if found != shape:
            return in_stem("FORMAT", claim, stem, found, shape)
    if wanted_md5 and md5.hexdigest() != wanted_md5:
        return in_stem("PCM_MD5", claim, stem, f"MD5 of the samples {md5.hexdigest()}", wanted_md5)
    return None


def _tests(claim: Claim, sums: Sums) -> dict[tuple[str, ...], bool]:
    """The sets of stems whose sum can be told to be right or wrong, and whether it must be the mix."""
    there = {stem.stem for stem in claim.stems if _is_lossless(stem)}
    tests: dict[tuple[str, ...], bool] = {}
    for first, *others in sums.to_mix:
        stems = [stem for stem in others if stem not in claim.left_out]
        if there.issuperset((first, *stems)):
            tests[tuple(sorted((first, *stems)))] = True
    measured = _measured(claim, sums)
    if measured and there.issuperset(measured):
        tests.setdefault(measured, False)
    return tests


def _measured(claim: Claim, sums: Sums) -> tuple[str, ...]:
    return tuple(sorted(set(sums.measured) - claim.left_out))


def _sums(
    claim: Claim, tests: Mapping[tuple[str, ...], bool], files: Mapping[str, Path], bench: Bench, copy: Path
) -> list[Finding]:
    """The first sum that is wrong, or why none could be tested."""
    source = _source(claim, bench, copy)
    if isinstance(source, Finding):
        return [source]
    sums = bench.sums[claim.settings_id]
    wanted = Sum(claim.gain_db, sums.is_dithered)
    for stems, is_mix in tests.items():
        try:
            found = null_test(source, [files[stem] for stem in stems], wanted, bench.scratch)
        except (TrackError, ValueError) as error:
            return [in_source("SOURCE_UNREADABLE", claim, str(error))]
        if is_mix and not found.is_null:
            off = f"sum off by {found.worst:g} at frame {found.frame}"
            return [in_sum(claim, stems, off, f"at most {found.allowed:g}")]
        if stems == _measured(claim, sums) and not found.repeats(claim.sum_residual_db):
            was = _level(claim.sum_residual_db)
            return [in_sum(claim, stems, f"sum - mix is {_level(found.residual_db)}", f"{was}, as written")]
    return []


def _source(claim: Claim, bench: Bench, copy: Path) -> Path | Finding:
    """The very file that was separated, or what is wrong with it."""
    try:
        store, key = bench.sources.locate(claim.uri)
        file = store.fetch(key, copy)
    except ObjectMissing:
        return in_source("SOURCE_MISSING", claim, "no such object")
    except NoSpace:
        raise
    except (StorageError, ConfigError) as error:
        return in_source("SOURCE_UNREADABLE", claim, str(error))
    found = sha256_of(file)
    if found != claim.content_id:
        return in_source("SOURCE_CHANGED", claim, f"sha256 {found[:16]}...")
    return file


def _is_lossless(stem: StemClaim) -> bool:
    return source_bits(stem.subtype) is not None or stem.subtype == "FLOAT"


def _shape(n_frames: int, sample_rate: int, n_channels: int) -> str:
    return f"{n_frames} frames at {sample_rate} Hz x {n_channels}"


def _level(level_db: float | None) -> str:
    return "exactly zero" if level_db is None else f"{level_db:.6f} dB"
