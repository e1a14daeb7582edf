"""Plain names: whether what lies under the names that rows give is what the rows say.

A plain name can be written over, by a worker that outlived its run or by a person, and its object deleted. So
the rows of every run are compared with a listing once: when the run ends, or, if it was cut off, by the next
run. One listing serves all; only what looks different there is opened. Tracks that were changed are done
again: the next plan does not count them as done, and at the end of a run a row takes back what is still so.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.errors import FAILURE_CODES, ObjectMissing
from splitfire_batch.manifest.parts import (
    KEYS,
    REVOKED,
    ROOT,
    part_paths,
    read_latest,
    run_of,
    schema_of,
    whole_rows,
    write_part,
)
from splitfire_batch.manifest.schema import SCHEMA
from splitfire_batch.plan import Ledger
from splitfire_batch.storage import Store, StoredObject
from splitfire_batch.stored import listed, sha256_at

MAX_ASKED = 256
"""So many stems are asked for one by one; for more the store is listed."""
_THREADS = 16
_MARKS = ("run.json", "checked.json")
_NEEDED = schema_of((*KEYS, "source_id", "stems"), ("path", "n_bytes", "sha256", "etag"))


def without_changed(store: Store, ledger: Ledger, settings_id: str) -> Ledger:
    """The ledger without tracks of unchecked runs whose stems are no longer what their rows say."""
    changed = changed_rows(store, unchecked_rows(store, settings_id))
    if not len(changed):
        return ledger
    return replace(
        ledger,
        done=_without(ledger.done, changed["source_id"]),
        done_tracks=_without(ledger.done_tracks, changed["track_id"]),
        done_since=_without(ledger.done_since, changed["track_id"]),
    )


def _without(ids: pa.Array, others: pa.ChunkedArray) -> pa.Array:
    return ids.filter(pc.invert(pc.is_in(ids, value_set=others.combine_chunks())))


def revoke_changed(
    store: Store, settings_id: str, run_id: str, check: Callable[[], None] = lambda: None
) -> pa.Table:
    """Take back the rows of unchecked runs that do not hold, by rows of this run; those, as they were.

    From then on those runs are checked; this one will be by its own record. `check` is called before every
    write, and what it raises is raised: to compare a large destination takes long.
    """
    paths = _unchecked_parts(store, settings_id)
    narrow = changed_rows(store, read_latest(store, paths, _NEEDED))
    changed = whole_rows(store, paths, narrow)
    if len(changed):
        check()
        write_part(store, _taken_back(changed, run_id))
    # also runs whose rows all count no more: alone, the next time, they would seem to count again
    for other in sorted({run_of(path) for path in paths} - {run_id}):
        check()
        store.write(f"{ROOT}/runs/{other}/checked.json", json.dumps({"by": run_id}).encode())
    return changed


def unchecked_rows(store: Store, settings_id: str) -> pa.Table:
    """The rows that count among those of runs that were never compared with what lies there."""
    return read_latest(store, _unchecked_parts(store, settings_id), _NEEDED)


def _unchecked_parts(store: Store, settings_id: str) -> list[str]:
    marked = {found.path.split("/")[2] for found in store.list_under(f"{ROOT}/runs") if _is_mark(found.path)}
    return [path for path in part_paths(store, settings_id) if run_of(path) not in marked]


def _is_mark(path: str) -> bool:
    return path.rpartition("/")[2] in _MARKS


def changed_rows(store: Store, rows: pa.Table) -> pa.Table:
    """The done rows among these with a stem that is missing or has other bytes than the row says.

    A stem of the size and the etag in its row is taken to be unchanged; another is hashed.
    """
    done = rows.filter(pc.equal(rows["status"], "done"))
    stems = done["stems"].combine_chunks()
    flat = pa.Table.from_struct_array(stems.flatten()).select(["path", "n_bytes", "sha256", "etag"])
    flat = flat.append_column("row", pc.list_parent_indices(stems))
    flat = flat.filter(pc.is_valid(flat["path"]))
    suspects = flat.filter(_differs(flat, _listing(store, flat["path"])))
    with ThreadPoolExecutor(_THREADS) as pool:
        is_changed = list(pool.map(lambda stem: _is_changed(store, stem), suspects.to_pylist()))
    found = suspects.filter(pa.array(is_changed, pa.bool_()))
    return done.take(pc.unique(found["row"]).cast(pa.int64()).sort())


def _differs(flat: pa.Table, listed: pa.Table) -> pa.ChunkedArray:
    at = pc.index_in(flat["path"], value_set=listed["path"])
    there = listed.take(at)
    is_same = pc.and_(
        pc.equal(there["n_bytes"], flat["n_bytes"]),
        # rows of older versions have no etag: then the size must do
        pc.fill_null(pc.equal(there["etag"], flat["etag"]), pc.is_valid(there["path"])),
    )
    return pc.invert(pc.fill_null(is_same, False))


def _listing(store: Store, paths: pa.ChunkedArray) -> pa.Table:
    """What the store shows of these paths, and maybe of others."""
    if len(paths) <= MAX_ASKED:
        with ThreadPoolExecutor(_THREADS) as pool:
            found = iter(
                [item for item in pool.map(lambda path: _stat(store, path), paths.to_pylist()) if item]
            )
    else:
        # what lies below both the first and the last path lies below all between them
        folders = [path.rpartition("/")[0] for path in pc.min_max(paths).as_py().values()]
        found = store.list_under(os.path.commonpath(folders))
    return listed(found, ("path", "n_bytes", "etag"))


def _stat(store: Store, path: str) -> StoredObject | None:
    try:
        return store.stat(path)
    except ObjectMissing:
        return None


def _is_changed(store: Store, stem: dict[str, object]) -> bool:
    """Whether a stem that looked different is: the same bytes, written again, are not."""
    path = str(stem["path"])
    found = _stat(store, path)
    if found is None or found.n_bytes != stem["n_bytes"]:
        return True
    return sha256_at(store, path, found.n_bytes) != stem["sha256"]


def _taken_back(rows: pa.Table, run_id: str) -> pa.Table:
    """Failed rows of this run for tracks that earlier rows called done."""
    now = int(time.time() * 1e6)
    why = "a stem is missing, or is no longer what was recorded; run the job again, which makes it anew"
    values = {
        "status": "failed",
        "code": REVOKED,
        "is_retryable": FAILURE_CODES[REVOKED].is_retryable,
        "run_id": run_id,
        "shard_id": "reconcile",
        "started_at": now,
        "finished_at": now,
    }
    for name, value in values.items():
        field = SCHEMA.field(name)
        column = pa.array([value] * len(rows), field.type)
        rows = rows.set_column(SCHEMA.get_field_index(name), field, column)
    messages = pc.binary_join_element_wise(rows["path"], why, ": ")
    rows = rows.set_column(SCHEMA.get_field_index("message"), SCHEMA.field("message"), messages)
    none = pa.array([[]] * len(rows), SCHEMA.field("stems").type)
    return rows.set_column(SCHEMA.get_field_index("stems"), SCHEMA.field("stems"), none)
