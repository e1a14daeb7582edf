"""How long the tracks of a listing are: as the catalogue says, or from the headers of a sample of them.

The sample is stratified by extension, size and top folder, and drawn by track_id, so that the same listing
gives the same sample in whatever order. In each stratum the length of an unread track is its guess (from size
and extension, see `packing`) times the ratio of length to guess that the headers there have: the separate
ratio estimator, with its usual variance (W. G. Cochran, Sampling Techniques, 1977, §6.10). What cannot be
told from any header stays a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.packing import extensions, guesses, told_durations
from splitfire_batch.records import AudioFormat
from splitfire_batch.rows import Rows

SAMPLE = 512
"""Headers that are read at most: each takes a request or two."""
BLIND = 0.5
"""Relative error of a length that no header backs: half the rates that people use differ by more."""
_CERTAIN = 1.96
"""Standard errors on each side of an interval that holds the truth in 95 of 100 cases."""
_MAX_FOLDERS = 64
_FEW = 2

ReadHeaders = Callable[[Sequence[tuple[str, int]]], Sequence[AudioFormat | None]]
"""What the headers of objects (URI, bytes) say, in their order; None where they do not tell."""


@dataclass(frozen=True, slots=True)
class LengthSample:
    """How the lengths of the tracks to do are known."""

    n_told: int = 0
    """By the catalogue."""
    n_read: int = 0
    """From their own headers."""
    n_scaled: int = 0
    """From headers of tracks like them."""
    n_guessed: int = 0
    """From size and extension alone."""
    error_s: float = 0.0
    """The sum of all lengths is off by no more than this, in 95 of 100 cases."""
    formats: tuple[tuple[float, AudioFormat], ...] = ()
    """What the headers say, each with the seconds of audio that it stands for."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Seconds of every row of a listing; 0 where a `problem` keeps it from being read."""

    seconds: np.ndarray
    sample: LengthSample = field(default_factory=LengthSample)


_Known = tuple[np.ndarray, np.ndarray, np.ndarray]
"""For every row what the catalogue tells (NaN for nothing), a guess, and whether it can be read."""
Measure = Callable[[Rows, np.ndarray], Lengths]
"""Tells the lengths of a listing's rows, best of those for which there is a truth: they are to be done."""


def guess_lengths(listing: Rows, is_todo: np.ndarray) -> Lengths:
    """Lengths that the catalogue tells, or else guesses from sizes; nothing is read."""
    return _guessed(_known(listing), is_todo)


def _guessed(known: _Known, is_todo: np.ndarray) -> Lengths:
    told, guessed, is_open = known
    is_told = np.isfinite(told)
    seconds = np.where(is_open, np.where(is_told, told, guessed), 0.0)
    is_blind = is_todo & is_open & ~is_told
    return Lengths(
        seconds,
        LengthSample(
            n_told=int((is_todo & is_open & is_told).sum()),
            n_guessed=int(is_blind.sum()),
            error_s=BLIND * float(seconds[is_blind].sum()),
        ),
    )


def sample_lengths(listing: Rows, is_todo: np.ndarray, read: ReadHeaders, n_sample: int = SAMPLE) -> Lengths:
    """As `guess_lengths`, corrected by the headers of at most `n_sample` of the tracks to do.

    Args:
        listing: with the columns uri, path, track_id, n_bytes, duration_s and problem.
        is_todo: a truth for each row.
        read: gets the objects to look at.
        n_sample: all tracks are read if there are no more.
    """
    told, guessed, is_open = known = _known(listing)
    found = _guessed(known, is_todo)
    rows = np.flatnonzero(is_todo & is_open & ~np.isfinite(told))
    if not len(rows):
        return found
    strata, keys = _strata(listing, rows)
    chosen = np.sort(_chosen(strata, keys, guessed[rows], n_sample))
    is_wanted = np.zeros(len(told), bool)
    is_wanted[rows[chosen]] = True
    objects = listing.taken(is_wanted, ["uri", "n_bytes"])
    seen = read(list(zip(objects["uri"].to_pylist(), objects["n_bytes"].to_pylist(), strict=True)))
    heads = [(place, head) for place, head in zip(chosen.tolist(), seen, strict=True) if head]
    scaled, sample = _scaled(strata, guessed[rows], heads)
    seconds = found.seconds.copy()
    seconds[rows] = scaled
    n_told = found.sample.n_told
    return Lengths(seconds, LengthSample(n_told, *sample))


def _known(listing: Rows) -> _Known:
    told, guessed, is_open = [], [], []
    for batch in listing.batches(["path", "n_bytes", "duration_s", "problem"]):
        told.append(told_durations(batch).fill_null(np.nan).to_numpy())
        guessed.append(guesses(batch).to_numpy())
        is_open.append(batch["problem"].is_null().to_numpy(zero_copy_only=False))
    none = np.empty(0)
    return (
        np.concatenate([none, *told]),
        np.concatenate([none, *guessed]),
        np.concatenate([none.astype(bool), *is_open]),
    )


def _strata(listing: Rows, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of these rows the number of its stratum, from 0 on, and a number drawn by its track_id."""
    kinds, sizes, folders, keys = [], [], [], []
    names: dict[str, int] = {}
    start = 0
    for batch in listing.batches(["path", "n_bytes", "track_id"]):
        mine = rows[(rows >= start) & (rows < start + len(batch))] - start
        start += len(batch)
        part = batch.take(pa.array(mine))
        kinds.append(extensions(part).to_numpy())
        sizes.append(np.log2(np.maximum(part["n_bytes"].to_numpy(), 1)).astype(int) // 2)
        folders.append(_folders(part["path"], names))
        keys.append(_keys(part["track_id"]))
    folder = np.concatenate(folders)
    if len(names) > _MAX_FOLDERS:  # so many tell little, and would leave none of the sample to sizes
        folder[:] = 0
    code = (np.concatenate(kinds) * 64 + np.concatenate(sizes)) * (_MAX_FOLDERS + 1) + folder
    return np.unique(code, return_inverse=True)[1], np.concatenate(keys)


def _folders(paths: pa.Array, names: dict[str, int]) -> np.ndarray:
    """The number of each path's top folder; new ones are added to `names` while these are few."""
    if len(names) > _MAX_FOLDERS:
        return np.zeros(len(paths), int)
    first = pc.list_element(pc.split_pattern(paths, "/", max_splits=1), 0)
    top = pc.if_else(pc.match_substring(paths, "/"), first, "").dictionary_encode()
    for name in top.dictionary.to_pylist():
        names.setdefault(name, len(names))
    numbers = np.array([names[name] for name in top.dictionary.to_pylist()], int)
    found: np.ndarray = numbers[top.indices.to_numpy()] % (_MAX_FOLDERS + 1)
    return found


def _keys(track_ids: pa.Array) -> np.ndarray:
    """The first eight letters as a number: ids are hashes, so their order is chance, and always the same."""
    letters = pc.utf8_slice_codeunits(pc.ascii_rpad(track_ids, 8), 0, 8).cast(pa.binary(8))
    data = letters.buffers()[1]
    return np.frombuffer(data, ">u8", len(letters), letters.offset * 8) if data else np.empty(0, ">u8")


def _chosen(strata: np.ndarray, keys: np.ndarray, guessed: np.ndarray, n_sample: int) -> np.ndarray:
    """Which tracks to read: two of each stratum, largest strata first, and more where more audio is."""
    if len(strata) <= n_sample:
        return np.arange(len(strata))
    n_tracks, audio = np.bincount(strata), np.bincount(strata, weights=guessed)
    first = np.minimum(n_tracks, _FEW)
    by_audio = np.argsort(-audio, kind="stable")
    first[by_audio[np.cumsum(first[by_audio]) > n_sample // 2]] = 0
    more = (n_sample - first.sum()) * audio / max(float(audio.sum()), 1e-9)
    quota = np.minimum(n_tracks, first + more.astype(int))
    order = np.lexsort((keys, strata))
    starts = np.cumsum(n_tracks) - n_tracks
    rank = np.arange(len(order)) - starts[strata[order]]
    chosen: np.ndarray = order[rank < quota[strata[order]]]
    return chosen


def _scaled(
    strata: np.ndarray, guessed: np.ndarray, heads: list[tuple[int, AudioFormat]]
) -> tuple[np.ndarray, tuple[int, int, int, float, tuple[tuple[float, AudioFormat], ...]]]:
    """Seconds of every track; and the rest of a LengthSample from `n_read` on."""
    places = np.array([place for place, _ in heads], int)
    lengths = np.array([head.n_frames / max(head.sample_rate, 1) for _, head in heads])
    n_strata = int(strata.max()) + 1
    mine = strata[places]
    n_tracks, n_read = np.bincount(strata), np.bincount(mine, minlength=n_strata)
    heard, thought = (np.bincount(mine, values, n_strata) for values in (lengths, guessed[places]))
    overall = heard.sum() / thought.sum() if thought.sum() else 1.0
    ratios = np.divide(heard, thought, out=np.full(n_strata, overall), where=thought > 0)
    seconds = guessed * ratios[strata]
    errors = lengths - seconds[places]
    seconds[places] = lengths
    totals = np.bincount(strata, seconds, n_strata)
    squares = np.bincount(mine, errors**2, n_strata)
    is_few = n_read < _FEW
    variance = n_tracks * (n_tracks - n_read) * squares / np.maximum(n_read * (n_read - 1.0), 1.0)
    variance[is_few] = (BLIND / _CERTAIN * (totals - heard)[is_few]) ** 2
    per_second = np.divide(totals, heard, out=np.zeros(n_strata), where=heard > 0)
    stands_for = lengths * per_second[mine]
    n_blind = int(n_tracks[n_read == 0].sum())
    formats = tuple((float(s), head) for s, (_, head) in zip(stands_for, heads, strict=True) if s > 0)
    error_s = _CERTAIN * float(np.sqrt(variance.sum()))
    return seconds, (len(heads), len(strata) - len(heads) - n_blind, n_blind, error_s, formats)
