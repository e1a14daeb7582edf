"""The plan: what is listed, minus what is done, packed into shards of about equal cost.

The same listing, ledger and settings give the same plan, down to the names of shards and stems. It works on
Arrow columns, a batch of rows at a time: in memory are a few numbers for each track, and its ids; the rest
stays in files (`rows`). Longer shards come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.clashes import Survey, find_held
from splitfire_batch.codes import NO_CODES, Codes, codes_of
from splitfire_batch.config import Overwrite
from splitfire_batch.lengths import LengthSample, Measure, guess_lengths
from splitfire_batch.packing import Places, ShardSizes, cost_of, in_shards
from splitfire_batch.records import Shard
from splitfire_batch.rows import BATCH_ROWS, Rows, RowWriter, rows_of
from splitfire_batch.shards import shards_of
from splitfire_batch.targets import NAMED, check_columns, first_targets

_NO_TARGETS = pa.schema([("track_id", pa.string()), ("target", pa.string())])
_NO_RUNS = pa.schema([("source_id", pa.string()), ("n_failed_runs", pa.int16())])
_PIECE = 250_000
_PLANNED = (
    pa.field("target", pa.string()),
    pa.field("n_failed_runs", pa.int16()),
    pa.field("cost", pa.float64()),
    pa.field("shard", pa.int32()),
)


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
    done_tracks: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    """The track_ids of `done`."""
    archived: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    """The source_ids of objects that were skipped for lying in an archive: that may be over."""
    codes: pa.Table = field(default_factory=NO_CODES.empty_table)
    """source_id and code of what was skipped, and of failures that stand."""


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
    overwrite: Overwrite = "changed"
    """Which tracks that have stems are done again; see `CatalogueConfig`."""
    measure: Measure = guess_lengths
    """Tells how long tracks are."""

    @property
    def sizes(self) -> ShardSizes:
        """How shards are made."""
        return ShardSizes(self.segment_s, self.shard_cost, self.n_workers)


@dataclass(frozen=True, slots=True)
class Plan:
    """Tracks to do, in shards, and the numbers of what is not to do."""

    rows: Rows
    """The listing's columns plus target, n_failed_runs, cost and shard (int32, ascending)."""
    n_listed: int
    n_done: int
    """Listed tracks that a committed row already says are done."""
    n_skipped_before: int
    """Listed tracks that a committed row says got no stems, as the settings wish."""
    n_failed_before: int
    """Listed tracks whose failure stands: unchanged, and not worth another try."""
    n_shards: int = 0
    audio_s: float = 0.0
    """Estimated seconds of audio to do."""
    n_bytes: int = 0
    """Bytes of the objects to do."""
    sample: LengthSample = field(default_factory=LengthSample)
    """How the seconds of the tracks to do are known."""
    codes: Codes = field(default_factory=Codes)
    """Why tracks have no stems, or will get none."""

    @property
    def n_tracks(self) -> int:
        """Tracks to do."""
        return len(self.rows)

    def source_ids(self) -> pa.Array:
        """Of the tracks to do."""
        return self.rows.table(["source_id"])["source_id"].combine_chunks()

    def shards(self) -> Iterator[Shard]:
        """The shards, most expensive first; their ids hash the tracks in them."""
        return shards_of(self.rows)


def make_plan(listing: Rows, ledger: Ledger, settings: PlanSettings, scratch: str | None = None) -> Plan:
    """Listing minus ledger, in shards.

    Names are given over the whole listing and what the destination holds, so that no track's stems are
    written over by another's, and a track's stems keep their names while others come.

    Args:
        listing: `catalogue.LISTING` columns, every track_id once.
        ledger: what is settled under the same settings_id.
        settings: model, names and shard size.
        scratch: folder for the plan; the system's own for temporary files if None.

    Raises:
        ConfigError: a template that does not fit the listing.
        TransientError: there is no room in `scratch`.
    """
    check_columns((b["meta"] for b in listing.batches(["meta"])), len(listing), settings.template)
    ids = listing.table(["track_id", "source_id", "problem"])
    is_done, is_skipped, is_failed = _settled(ids, ledger, settings.overwrite)
    is_todo = ~(is_done | is_skipped | is_failed)
    lengths = settings.measure(listing, is_todo)
    places = in_shards(listing, is_todo, lengths.seconds, settings.sizes)
    schema = pa.schema([*listing.schema, *_PLANNED])
    if places.n_shards:
        held = find_held(ids["track_id"], ledger.targets)
        survey = Survey(settings.template, settings.model, settings.stems, held)
        pieces = _named(listing, places, survey, settings, scratch)
        rows = _in_order(pieces, survey.changed(listing), ledger.failed_runs, schema, scratch)
    else:  # no stem gets a name
        rows = rows_of([], schema, scratch)
    return Plan(
        rows=rows,
        n_listed=len(listing),
        n_done=int(is_done.sum()),
        n_skipped_before=int(is_skipped.sum()),
        n_failed_before=int(is_failed.sum()),
        n_shards=places.n_shards,
        audio_s=places.audio_s,
        n_bytes=sum(pc.sum(batch["n_bytes"]).as_py() for batch in rows.batches(["n_bytes"])),
        sample=lengths.sample,
        codes=codes_of(ids, ledger.codes, is_skipped, is_failed, is_todo),
    )


def _settled(ids: pa.Table, ledger: Ledger, overwrite: Overwrite) -> tuple[np.ndarray, ...]:
    """For each listed track whether it is done, was skipped, or has a failure that stands."""
    if overwrite == "always":
        nobody = np.zeros(len(ids), bool)
        return nobody, nobody, nobody
    is_done, is_skipped, is_failed = (
        np.array(pc.is_in(ids["source_id"], value_set=known).to_numpy(), bool)
        for known in (ledger.done, ledger.skipped, ledger.failed)
    )
    is_archived = pc.fill_null(pc.starts_with(ids["problem"], "ARCHIVED: "), False)
    was_archived = pc.is_in(ids["source_id"], value_set=ledger.archived)
    is_skipped |= pc.and_(is_archived, was_archived).to_numpy()
    if overwrite == "never":
        is_done |= pc.is_in(ids["track_id"], value_set=ledger.done_tracks).to_numpy()
    is_skipped &= ~is_done
    return is_done, is_skipped, is_failed & ~(is_done | is_skipped)


def _named(
    listing: Rows, places: Places, survey: Survey, settings: PlanSettings, scratch: str | None
) -> list[Rows]:
    """What is to be done with its first target, in pieces of so many places each.

    Only a piece at a time fits into memory to be put in order.
    """
    schema = pa.schema([*listing.schema, *_PLANNED, ("row", pa.int64()), ("place", pa.int64())])
    pieces = [RowWriter(schema, scratch) for _ in range(0, len(places.shards), _PIECE)]
    n_before = 0
    for batch in listing.batches():
        targets = first_targets(batch, settings.template, settings.model)
        survey.add(batch.select(list(NAMED)), targets)
        row = np.arange(n_before, n_before + len(batch))
        place = places.at[row]
        n_before += len(batch)
        lengths_s = places.durations_s[row]
        values = {
            "duration_s": pa.array(lengths_s),
            "target": targets,
            "cost": pa.array(cost_of(lengths_s, settings.segment_s)),
            "row": pa.array(row),
            "place": pa.array(place),
            "shard": pa.array(places.shards[place] if len(places.shards) else np.zeros(len(row), np.int32)),
            "n_failed_runs": pa.array(np.zeros(len(row), np.int16)),
        }
        columns = [values[name] if name in values else batch[name] for name in schema.names]
        full = pa.RecordBatch.from_arrays(columns, schema=schema)
        for piece in np.unique(place[place >= 0] // _PIECE).tolist():
            pieces[piece].write(full.filter(pa.array((place >= 0) & (place // _PIECE == piece))))
    return [piece.rows() for piece in pieces]


def _in_order(
    pieces: list[Rows],
    changed: dict[int, str],
    failed_runs: pa.Table,
    schema: pa.Schema,
    scratch: str | None,
) -> Rows:
    """All pieces, each sorted by place, with what only the whole listing tells."""
    writer = RowWriter(schema, scratch)
    rows_changed = pa.array(list(changed), pa.int64())
    targets = pa.array(list(changed.values()), pa.string())
    known = failed_runs["source_id"].combine_chunks()
    for piece in pieces:
        table = piece.table()
        table = table.take(pc.sort_indices(table["place"]))
        target = targets.take(pc.index_in(table["row"], value_set=rows_changed))
        n_failed_runs = failed_runs["n_failed_runs"].take(pc.index_in(table["source_id"], value_set=known))
        values = {
            "target": pc.coalesce(target, table["target"]),
            "n_failed_runs": pc.fill_null(n_failed_runs, 0),
        }
        columns = [values.get(name, table[name]) for name in schema.names]
        for batch in pa.table(columns, schema=schema).to_batches(BATCH_ROWS):
            writer.write(batch)
    return writer.rows()
