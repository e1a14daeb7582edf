"""The plan: what is listed, minus what is done, packed into shards of about equal cost.

Pure: the same listing, ledger and settings give the same plan, down to the names of shards and stems. It
works on Arrow columns, so that a million tracks cost no million Python objects. Longer shards come first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.naming import NamedTrack, make_targets
from splitfire_batch.records import Shard, Track

MAX_SHARD_TRACKS = 2000
_NO_TARGETS = pa.schema([("track_id", pa.string()), ("target", pa.string())])
_NO_RUNS = pa.schema([("source_id", pa.string()), ("n_failed_runs", pa.int16())])
_MIN_COST = 0.02  # of a full segment: fetching, opening and writing a one-shot
_BYTES_PER_SECOND = {"flac": 100_000, "mp3": 28_000, "m4a": 28_000, "aac": 20_000, "mp4": 28_000}
_BYTES_PER_SECOND |= {"ogg": 20_000, "oga": 20_000, "opus": 16_000, "wma": 20_000}
_PCM_BYTES_PER_SECOND = 176_400


@dataclass(frozen=True, slots=True)
class Ledger:
    """What earlier runs settled, for one settings_id: source_ids by status; of failures those that stand."""

    done: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    failed: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    targets: pa.Table = field(default_factory=_NO_TARGETS.empty_table)
    """track_id and target of every track whose stems lie in the destination; of another model's stems, where
    names are plain, an owner that no track is."""
    skipped: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    failed_runs: pa.Table = field(default_factory=_NO_RUNS.empty_table)
    """source_id and n_failed_runs of objects that failed in a way that stands after some runs."""
    newest_run: str = ""
    """The last run_id of all; a new one must be later."""


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What a plan depends on besides the listing and the ledger."""

    model: str
    template: str
    segment_s: float
    """Seconds of audio in one full segment, the unit of cost."""
    shard_cost: float
    """At most this many segments in a shard, unless a single track has more."""
    n_workers: int = 1
    stems: tuple[str, ...] = ()
    """Every stem that the model may ever give, written or not: names do not depend on the choice."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Tracks to do, in shards, and the numbers of what is not to do."""

    tracks: pa.Table
    """The listing's columns plus target, n_failed_runs, cost and shard (int32, ascending)."""
    n_listed: int
    n_done: int
    """Listed tracks that a committed row already says are done."""
    n_skipped_before: int
    """Listed tracks that a committed row says got no stems, as the settings wish."""
    n_failed_before: int
    """Listed tracks whose failure stands: unchanged, and not worth another try."""

    @property
    def audio_s(self) -> float:
        """Estimated seconds of audio to do."""
        return float(pc.sum(self.tracks["duration_s"]).as_py() or 0.0)

    @property
    def n_bytes(self) -> int:
        """Bytes of the objects to do."""
        return int(pc.sum(self.tracks["n_bytes"]).as_py() or 0)

    def shards(self) -> Iterator[Shard]:
        """The shards, most expensive first; their ids hash the tracks in them."""
        numbers = self.tracks["shard"].to_numpy()
        bounds = [*np.flatnonzero(np.diff(numbers, prepend=-1)).tolist(), len(numbers)]
        for begin, end in pairwise(bounds):
            tracks = tuple(_track(row) for row in self.tracks.slice(begin, end - begin).to_pylist())
            digest = blake2b("".join(t.source_id for t in tracks).encode(), digest_size=6)
            yield Shard(digest.hexdigest(), tracks)


def make_plan(listing: pa.Table, ledger: Ledger, settings: PlanSettings) -> Plan:
    """Listing minus ledger, in shards.

    Names are given over the whole listing and what the destination holds, so that no track's stems are
    written over by another's, and a track's stems keep their names while others come.

    Args:
        listing: `catalogue.LISTING` columns, every track_id once.
        ledger: what is settled under the same settings_id.
        settings: model, names and shard size.
    """
    listing = _with_durations(listing, settings)
    listing = listing.append_column(
        "target", pa.array(_targets(listing, ledger.targets, settings), pa.string())
    )
    listing = listing.append_column("n_failed_runs", _failed_runs(listing, ledger.failed_runs))
    is_done = pc.is_in(listing["source_id"], value_set=ledger.done)
    is_skipped = pc.and_not(pc.is_in(listing["source_id"], value_set=ledger.skipped), is_done)
    is_settled = pc.or_(is_done, is_skipped)
    is_failed = pc.and_not(pc.is_in(listing["source_id"], value_set=ledger.failed), is_settled)
    todo = listing.filter(pc.invert(pc.or_(is_settled, is_failed)))
    return Plan(
        tracks=_in_shards(todo, settings),
        n_listed=len(listing),
        n_done=pc.sum(is_done).as_py() or 0,
        n_skipped_before=pc.sum(is_skipped).as_py() or 0,
        n_failed_before=pc.sum(is_failed).as_py() or 0,
    )


def _with_durations(listing: pa.Table, settings: PlanSettings) -> pa.Table:
    """Durations where the catalogue has none, from size and extension, and the cost in segments."""
    extensions = [path.rpartition(".")[2].lower() for path in listing["path"].to_pylist()]
    rates = np.array([_BYTES_PER_SECOND.get(ext, _PCM_BYTES_PER_SECOND) for ext in extensions], float)
    guessed = pa.array(listing["n_bytes"].to_numpy() / rates if len(rates) else rates)
    told = listing["duration_s"]  # a catalogue may say -1 or NaN for "unknown"
    told = pc.if_else(pc.and_(pc.is_finite(told), pc.greater_equal(told, 0)), told, None)
    durations = pc.coalesce(told, pa.chunked_array([guessed]))
    cost = pc.add(pc.divide(durations, settings.segment_s), _MIN_COST)
    listing = listing.set_column(listing.schema.get_field_index("duration_s"), "duration_s", durations)
    return listing.append_column("cost", cost)


def _failed_runs(listing: pa.Table, known: pa.Table) -> pa.ChunkedArray:
    """How often each object failed before, 0 for nearly all."""
    at = pc.index_in(listing["source_id"], value_set=known["source_id"].combine_chunks())
    return pc.fill_null(known["n_failed_runs"].take(at), 0)


def _targets(listing: pa.Table, held: pa.Table, settings: PlanSettings) -> list[str]:
    columns = zip(*(listing[name].to_pylist() for name in ("path", "track_id", "meta")), strict=True)
    tracks = [NamedTrack(path, track_id, dict(meta or ())) for path, track_id, meta in columns]
    owned = dict(zip(held["track_id"].to_pylist(), held["target"].to_pylist(), strict=True))
    return make_targets(tracks, settings.template, settings.model, owned, settings.stems)


def _in_shards(todo: pa.Table, settings: PlanSettings) -> pa.Table:
    """Fill shards by falling cost, each until the next track would pass the limit; dearest shards first."""
    todo = todo.sort_by([("cost", "descending"), ("path", "ascending")])
    total = pc.sum(todo["cost"]).as_py() or 0.0
    # a small job is cut finer, so that every worker gets several shards
    limit = min(settings.shard_cost, max(total / (4 * settings.n_workers), 1.0))
    numbers = np.zeros(len(todo), np.int32)
    number, in_shard, cost = -1, 0, math.inf
    for index, track_cost in enumerate(todo["cost"].to_pylist()):
        if cost + track_cost > limit or in_shard == MAX_SHARD_TRACKS:
            number, in_shard, cost = number + 1, 0, 0.0
        numbers[index] = number
        in_shard, cost = in_shard + 1, cost + track_cost
    by_cost = np.argsort(-np.bincount(numbers, weights=todo["cost"].to_numpy()), kind="stable")
    numbers = np.argsort(by_cost).astype(np.int32)[numbers]
    return todo.append_column("shard", pa.array(numbers)).take(np.argsort(numbers, kind="stable"))


def _track(row: dict[str, object]) -> Track:
    own = (
        "track_id",
        "source_id",
        "uri",
        "path",
        "n_bytes",
        "etag",
        "target",
        "cost",
        "problem",
        "n_failed_runs",
    )
    return Track(**{name: row[name] for name in own}, meta=tuple(row["meta"] or ()))  # type: ignore[arg-type]
