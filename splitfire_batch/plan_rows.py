"""The rows of a plan: those of a listing that are to be done, in the plan's order, with their targets.

Only a piece of a plan at a time fits into memory to be put in order; a piece is a file of its own (`rows`).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.clashes import Survey
from splitfire_batch.packing import Places, cost_of
from splitfire_batch.rows import BATCH_ROWS, Rows, RowWriter
from splitfire_batch.targets import NAMED, first_targets

_PIECE = 250_000
_DUPLICATE = pa.struct([("of", pa.string()), ("content_id", pa.string()), ("audio_id", pa.string())])
NO_DUPLICATES = pa.schema([("track_id", pa.string()), ("duplicate", _DUPLICATE)]).empty_table()
"""Of a duplicate: its track_id, that of its original, its own content_id and audio_id."""
_PLANNED = (
    pa.field("duplicate", _DUPLICATE),
    pa.field("target", pa.string()),
    pa.field("n_failed_runs", pa.int16()),
    pa.field("cost", pa.float64()),
    pa.field("shard", pa.int32()),
)
_PLACE = ("row", "place")
"""Columns of a piece: which row of the listing it is, and where it comes in the plan."""


def planned_schema(listing: pa.Schema) -> pa.Schema:
    """Columns of a plan of such a listing."""
    return pa.schema([*listing, *_PLANNED])


def ids_of(duplicates: pa.Table) -> pa.Array:
    """The track_ids of such a table as NO_DUPLICATES."""
    return duplicates["track_id"].combine_chunks()


def named(listing: Rows, places: Places, survey: Survey, segment_s: float, scratch: str | None) -> list[Rows]:
    """What is to be done with its first target, in pieces of so many places each.

    Only a piece at a time fits into memory to be put in order.
    """
    schema = pa.schema([*planned_schema(listing.schema), *((name, pa.int64()) for name in _PLACE)])
    pieces = [RowWriter(schema, scratch) for _ in range(0, len(places.shards), _PIECE)]
    n_before = 0
    for batch in listing.batches():
        targets = first_targets(batch, survey.template, survey.model)
        survey.add(batch.select(list(NAMED)), targets)
        row = np.arange(n_before, n_before + len(batch))
        place = places.at[row]
        n_before += len(batch)
        lengths_s = places.durations_s[row]
        values = {
            "duration_s": pa.array(lengths_s),
            "target": targets,
            "cost": pa.array(cost_of(lengths_s, segment_s)),
            "row": pa.array(row),
            "place": pa.array(place),
            "shard": pa.array(places.shards[place] if len(places.shards) else np.zeros(len(row), np.int32)),
            "n_failed_runs": pa.array(np.zeros(len(row), np.int16)),
            "duplicate": pa.nulls(len(row), _DUPLICATE),
        }
        columns = [values[name] if name in values else batch[name] for name in schema.names]
        full = pa.RecordBatch.from_arrays(columns, schema=schema)
        for piece in np.unique(place[place >= 0] // _PIECE).tolist():
            pieces[piece].write(full.filter(pa.array((place >= 0) & (place // _PIECE == piece))))
    return [piece.rows() for piece in pieces]


def in_order(
    pieces: list[Rows],
    changed: dict[int, str],
    failed_runs: pa.Table,
    duplicates: pa.Table,
    scratch: str | None,
) -> Rows:
    """All pieces, each sorted by place, with what only the whole listing tells."""
    schema = pa.schema([field for field in pieces[0].schema if field.name not in _PLACE])
    writer = RowWriter(schema, scratch)
    rows_changed = pa.array(list(changed), pa.int64())
    targets = pa.array(list(changed.values()), pa.string())
    known = failed_runs["source_id"].combine_chunks()
    values_of = duplicates["duplicate"].combine_chunks()
    for piece in pieces:
        table = piece.table()
        table = table.take(pc.sort_indices(table["place"]))
        target = targets.take(pc.index_in(table["row"], value_set=rows_changed))
        n_failed_runs = failed_runs["n_failed_runs"].take(pc.index_in(table["source_id"], value_set=known))
        values = {
            "target": pc.coalesce(target, table["target"]),
            "n_failed_runs": pc.fill_null(n_failed_runs, 0),
            "duplicate": values_of.take(pc.index_in(table["track_id"], value_set=ids_of(duplicates))),
        }
        columns = [values.get(name, table[name]) for name in schema.names]
        for batch in pa.table(columns, schema=schema).to_batches(BATCH_ROWS):
            writer.write(batch)
    return writer.rows()
