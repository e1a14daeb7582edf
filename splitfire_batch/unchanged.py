"""Objects that are new by their etag and old by their bytes: uploaded again, copied, or touched.

Their tracks need no stems. So that nobody has to read them again, the rows that the tracks have are written
down once more, as rows of the run that found out, with the etag that the objects have now.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.contents import Reader
from splitfire_batch.manifest.parts import latest, read_each, write_part
from splitfire_batch.manifest.schema import SCHEMA, RunContext
from splitfire_batch.plan import Ledger
from splitfire_batch.rows import Rows
from splitfire_batch.settled import Settled
from splitfire_batch.storage import Store

_LISTED = ("track_id", "source_id", "uri", "path", "n_bytes", "etag", "meta")
"""What the listing knows better than an older row."""
_PARTS_AT_ONCE = 64
SHARD_ID = "unchanged"


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Tracks whose rows are to be written again."""

    rows: pa.Table
    """_LISTED; and the status and PART of the row that the track has."""
    parts: list[str]

    def __len__(self) -> int:
        return len(self.rows)


def find_unchanged(listing: Rows, settled: Settled, reader: Reader) -> Unchanged:
    """Read the listed objects that may be unchanged, and say which are.

    Read is an object that no row knows, whose track has stems or was skipped, and that has the length which
    that row says.

    Args:
        listing: all tracks.
        settled: of the run's settings.
        reader: of their objects.

    Raises:
        TransientError: a store does not answer.
    """
    is_wanted = _may_be_unchanged(listing, settled)
    objects = listing.taken(is_wanted, _LISTED)
    of_track = pc.index_in(objects["track_id"], value_set=settled.rows["track_id"].combine_chunks())
    rows = settled.rows.take(of_track)
    is_of = pc.is_in(settled.rows["source_id"], value_set=rows["source_id"].combine_chunks())
    hashes = settled.hashes(is_of)
    known = dict(zip(hashes["track_id"].to_pylist(), hashes["content_id"].to_pylist(), strict=True))
    has_hash = pc.is_in(
        objects["track_id"], pa.array([key for key, value in known.items() if value], pa.string())
    )
    objects, rows = objects.filter(has_hash), rows.filter(has_hash)
    is_same = [
        found is not None and found.content_id == known[track_id]
        for found, track_id in zip(reader.contents(objects), objects["track_id"].to_pylist(), strict=True)
    ]
    objects = objects.append_column("status", rows["status"]).append_column("part", rows["part"])
    return Unchanged(objects.filter(pa.array(is_same, pa.bool_())), settled.parts)


def with_unchanged(ledger: Ledger, unchanged: Unchanged) -> Ledger:
    """The ledger as it will be once their rows are written."""
    rows = unchanged.rows
    done = rows.filter(pc.equal(rows["status"], "done"))["source_id"]
    skipped = rows.filter(pc.equal(rows["status"], "skipped"))["source_id"]
    return replace(ledger, done=_joined(ledger.done, done), skipped=_joined(ledger.skipped, skipped))


def record_unchanged(
    store: Store, unchanged: Unchanged, context: RunContext, check: Callable[[], None]
) -> None:
    """Write their rows; `check` is called before every write, and what it raises is raised.

    Only some parts' rows are in memory at a time; a run that is cut off has recorded those before.
    """
    numbers = pc.unique(unchanged.rows["part"]).to_pylist()
    for start in range(0, len(numbers), _PARTS_AT_ONCE):
        some = numbers[start : start + _PARTS_AT_ONCE]
        fresh = unchanged.rows.filter(pc.is_in(unchanged.rows["part"], value_set=pa.array(some, pa.int32())))
        tables = read_each(store, [unchanged.parts[number] for number in some], SCHEMA)
        check()
        write_part(store, _renewed(pa.concat_tables(tables), fresh, context))


def _may_be_unchanged(listing: Rows, settled: Settled) -> np.ndarray:
    """For each listed track whether its object must be read to know."""
    known, tracks = (settled.rows[name].combine_chunks() for name in ("source_id", "track_id"))
    sizes = settled.rows["n_bytes"].combine_chunks()
    found = [np.empty(0, bool)]
    for batch in listing.batches(["track_id", "source_id", "n_bytes", "problem"]):
        at = pc.index_in(batch["track_id"], value_set=tracks)
        is_of_size = pc.fill_null(pc.equal(sizes.take(at), batch["n_bytes"]), False)
        is_new = pc.invert(pc.is_in(batch["source_id"], value_set=known))
        has_problem = pc.is_valid(batch["problem"])
        found.append(pc.and_not(pc.and_(is_of_size, is_new), has_problem).to_numpy(zero_copy_only=False))
    return np.concatenate(found)


def _renewed(rows: pa.Table, fresh: pa.Table, context: RunContext) -> pa.Table:
    """The rows that count among these, of this run and of the objects as they are listed now."""
    mine = rows.filter(pc.is_in(rows["track_id"], value_set=fresh["track_id"].combine_chunks()))
    mine = latest(mine.filter(pc.equal(mine["settings_id"], context.settings_id)))
    listed = fresh.take(pc.index_in(mine["track_id"], value_set=fresh["track_id"].combine_chunks()))
    columns: dict[str, pa.ChunkedArray | pa.Array] = {name: listed[name] for name in _LISTED}
    now = int(time.time() * 1e6)
    told = {"run_id": context.run_id, "catalogue": context.catalogue, "shard_id": SHARD_ID}
    told_at = {"started_at": now, "finished_at": now}
    for name, value in {**told, **told_at}.items():
        columns[name] = pa.array([value] * len(mine), SCHEMA.field(name).type)
    return pa.table([columns.get(name, mine[name]) for name in SCHEMA.names], schema=SCHEMA)


def _joined(ids: pa.Array, more: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([ids, more.combine_chunks()])
