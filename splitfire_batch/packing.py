"""Packing: what tracks cost, and which of them go into a shard together.

Durations are guessed here, from sizes; `lengths` knows them better. Only numbers are in memory, some for each
track; names are looked at where costs are equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.rows import BATCH_ROWS, Rows

MAX_SHARD_TRACKS = 2000
MIN_COST = 0.02  # of a full segment: fetching, opening and writing a one-shot
_BYTES_PER_SECOND = {"flac": 100_000, "mp3": 28_000, "m4a": 28_000, "aac": 20_000, "mp4": 28_000}
_BYTES_PER_SECOND |= {"ogg": 20_000, "oga": 20_000, "opus": 16_000, "wma": 20_000}
_PCM_BYTES_PER_SECOND = 176_400


@dataclass(frozen=True, slots=True)
class ShardSizes:
    """How shards are made."""

    segment_s: float
    """Seconds of audio in one full segment, the unit of cost."""
    shard_cost: float
    """At most this many segments in a shard, unless a single track has more."""
    n_workers: int = 1
    """A small job is cut finer, so that each gets several."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where each row of a listing comes in its plan."""

    at: np.ndarray
    """By row: its place, -1 if it is not to be done."""
    shards: np.ndarray
    """By place: the number of its shard, ascending."""
    n_shards: int
    audio_s: float
    durations_s: np.ndarray
    """By row."""


FLAC = 1
"""Its number."""


def extensions(batch: pa.RecordBatch) -> pa.Array:
    """Numbers of the paths' extensions, those of PCM and unknown ones alike 0."""
    found = pc.ascii_lower(pc.replace_substring_regex(batch["path"], r"(?s)^.*\.", ""))
    known = pc.index_in(found, value_set=pa.array(list(_BYTES_PER_SECOND)))
    return pc.add(pc.fill_null(known, -1), 1)


def guesses(batch: pa.RecordBatch) -> pa.Array:
    """Seconds of audio, from size and extension."""
    rates = pa.array([_PCM_BYTES_PER_SECOND, *_BYTES_PER_SECOND.values()], pa.float64())
    return pc.divide(batch["n_bytes"].cast(pa.float64()), rates.take(extensions(batch)))


def told_durations(batch: pa.RecordBatch) -> pa.Array:
    """Seconds of audio by the catalogue, which may say -1 or NaN for "unknown"; null for that."""
    told = batch["duration_s"]
    return pc.if_else(pc.and_(pc.is_finite(told), pc.greater_equal(told, 0)), told, None)


def cost_of(durations_s: np.ndarray, segment_s: float) -> np.ndarray:
    """Expected numbers of full segments."""
    return durations_s / segment_s + MIN_COST


def in_shards(listing: Rows, is_todo: np.ndarray, durations_s: np.ndarray, sizes: ShardSizes) -> Places:
    """Fill shards by falling cost, each until the next track would pass the limit; dearest shards first.

    Args:
        listing: with the columns path and track_id.
        is_todo: a truth for each row.
        durations_s: of each row.
        sizes: what shards are to be like.
    """
    costs = cost_of(durations_s, sizes.segment_s)
    rows = _by_cost(listing, costs, np.flatnonzero(is_todo))
    ordered = costs[rows]
    limit = min(sizes.shard_cost, max(float(ordered.sum()) / (4 * sizes.n_workers), 1.0))
    numbers = _numbers(ordered, limit)
    by_cost = np.argsort(-np.bincount(numbers, weights=ordered), kind="stable")
    numbers = np.argsort(by_cost).astype(np.int32)[numbers]
    order = np.argsort(numbers, kind="stable")
    at = np.full(len(costs), -1)
    at[rows[order]] = np.arange(len(rows))
    return Places(at, numbers[order], len(by_cost), float(durations_s[is_todo].sum()), durations_s)


def with_last(places: Places, is_last: np.ndarray) -> Places:
    """The places, and behind them, in no shard, those of these rows in their order."""
    at = places.at.copy()
    at[is_last] = np.arange(len(places.shards), len(places.shards) + int(is_last.sum()))
    numbers = np.full(int(is_last.sum()), places.n_shards, np.int32)
    return replace(places, at=at, shards=np.concatenate([places.shards, numbers]))


def _by_cost(listing: Rows, costs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """These rows by falling cost; paths, or else ids, decide between equal ones."""
    rows = rows[np.argsort(-costs[rows], kind="stable")]
    ordered = costs[rows]
    starts = np.flatnonzero(np.diff(ordered, prepend=np.nan) != 0)
    sizes = np.diff(starts, append=len(rows))
    is_tied = np.repeat(sizes > 1, sizes)
    if is_tied.any():
        tied = rows[is_tied]
        is_wanted = np.zeros(len(costs), bool)
        is_wanted[tied] = True
        names = listing.taken(is_wanted, ["path", "track_id"])
        group = np.repeat(np.arange(len(sizes)), sizes)[is_tied]
        names = names.append_column("group", pa.array(group[np.argsort(tied)]))
        by = [(name, "ascending") for name in ("group", "path", "track_id")]
        rows[is_tied] = np.flatnonzero(is_wanted)[pc.sort_indices(names, by).to_numpy()]
    return rows


def _numbers(costs: np.ndarray, limit: float) -> np.ndarray:
    """The number of the shard that each track is put into, of tracks in this order."""
    numbers = np.zeros(len(costs), np.int32)
    number, in_shard, cost = -1, 0, math.inf
    for start in range(0, len(costs), BATCH_ROWS):
        for index, track_cost in enumerate(costs[start : start + BATCH_ROWS].tolist(), start):
            if cost + track_cost > limit or in_shard == MAX_SHARD_TRACKS:
                number, in_shard, cost = number + 1, 0, 0.0
            numbers[index] = number
            in_shard, cost = in_shard + 1, cost + track_cost
    return numbers
