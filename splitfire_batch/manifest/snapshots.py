"""Ledger snapshots: what many parts say, in one object, so that a run is resumed without opening them all.

A snapshot repeats the ledger's columns of every row of the parts it covers, and names the part of each row.
Parts never change, so it may cover any that exist, those of a run that still goes on included. Nothing hangs
on it: rows of parts that are gone do not count, parts it does not cover are read, and if it is damaged or
missing, all are. Its name begins with a number one above all that are there, since the last one covers every
part of its time, however many have gone; it ends in the hash of its bytes, as a part's does.

    _splitfire/ledger/snapshot-<number>-<hash>.parquet
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from splitfire_batch.errors import ObjectExists, ObjectMissing
from splitfire_batch.manifest.parts import (
    PART,
    ROOT,
    has_its_hash,
    hashed_name,
    part_paths,
    read_each,
    schema_of,
)
from splitfire_batch.manifest.schema import parquet_bytes, parquet_source
from splitfire_batch.storage import Store

MAX_LOOSE = 256
"""A snapshot is written when more parts than these are in none."""
COLUMNS: tuple[str, ...] = (
    "track_id",
    "settings_id",
    "run_id",
    "status",
    "code",
    "finished_at",
    "source_id",
    "target",
    "model",
)
COLUMNS += ("is_retryable", "n_failed_runs", "duration_s", "n_bytes", "sample_rate", "n_channels", "n_frames")
"""Of the manifest, what a snapshot holds: enough for the ledger, for `splitfire status`, and to tell which
tracks may be the same."""

_FOLDER = f"{ROOT}/ledger"
_NUMBER = re.compile(rf"{_FOLDER}/snapshot-([0-9]+)-")
_log = logging.getLogger(__name__)


def read_rows(store: Store, settings_ids: set[str], columns: Sequence[str]) -> pa.Table:
    """Every row of every part of these settings, unresolved; from a snapshot what it holds.

    Args:
        store: the destination.
        settings_ids: whose rows.
        columns: of the manifest; with others than COLUMNS all parts are read.
    """
    return read_placed(store, settings_ids, columns)[0].drop_columns([PART.name])


def read_placed(store: Store, settings_ids: set[str], columns: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """As `read_rows`, with the column PART; and the paths of the parts that it numbers."""
    schema = schema_of(columns)
    paths = [path for key in sorted(settings_ids) for path in part_paths(store, key)]
    numbers = {path: number for number, path in enumerate(paths)}
    loose, tables = paths, [schema.append(PART).empty_table()]
    covered = _newest(store, columns) if paths and set(columns) <= set(COLUMNS) else None
    if covered is not None:
        at = pc.index_in(covered["part"], value_set=pa.array(paths, pa.string())).cast(PART.type)
        placed = covered.select(schema.names).cast(schema).append_column(PART, at)
        tables.append(placed.filter(pc.is_valid(at)))
        loose = _loose(paths, covered)
    for path, table in zip(loose, read_each(store, loose, schema), strict=True):
        tables.append(table.append_column(PART, pa.array([numbers[path]] * len(table), PART.type)))
    return pa.concat_tables(tables), paths


def write_snapshot(store: Store, max_loose: int = MAX_LOOSE) -> str | None:
    """Write a snapshot of all parts if more than `max_loose` are in none yet; returns its path if so.

    Of two processes that do this at once, each writes a true one, and either may be read.
    """
    paths = part_paths(store)
    if len(paths) <= max_loose:
        return None
    covered = _newest(store)
    loose = paths if covered is None else _loose(paths, covered)
    if len(loose) <= max_loose:
        return None
    tables = [] if covered is None else [covered.filter(pc.is_in(covered["part"], pa.array(paths)))]
    schema = schema_of(COLUMNS)
    tables += [
        _with_part(table, path) for path, table in zip(loose, read_each(store, loose, schema), strict=True)
    ]
    data = parquet_bytes(pa.concat_tables(tables))
    number = 1 + max((_number_of(path) for path in snapshot_paths(store)), default=0)
    path = hashed_name(f"{_FOLDER}/snapshot-{number:08}", data)
    try:
        store.create(path, data)
    except ObjectExists:  # the same parts give the same bytes at the same time: somebody was quicker
        _log.debug("snapshot_exists path=%s", path)
    return path


def snapshot_paths(store: Store) -> list[str]:
    """Every snapshot, damaged ones included, the last one first."""
    paths = (found.path for found in store.list_under(_FOLDER))
    return sorted(paths, key=lambda path: (_number_of(path), path), reverse=True)


def _number_of(path: str) -> int:
    """The number in a snapshot's name: 0 if it has none."""
    match = _NUMBER.match(path)
    return int(match[1]) if match else 0


def _newest(store: Store, columns: Sequence[str] = COLUMNS) -> pa.Table | None:
    """The rows of the first snapshot that can be used: these columns, and `part`, its path."""
    for path in snapshot_paths(store):
        try:
            names = [*columns, "part"]
            return pq.read_table(_open(store, path), columns=names).select(names)
        except (ObjectMissing, ValueError, KeyError, OSError) as error:
            _log.warning("snapshot_unusable path=%s why=%r", path, str(error))
    return None


def _open(store: Store, path: str) -> pa.BufferReader:
    """A snapshot, if its bytes hash to its name; nobody keeps a second copy of them."""
    data = store.read(path)
    if not has_its_hash(path, data):
        raise ValueError("its name has another hash")
    return parquet_source(data)


def _loose(paths: Sequence[str], covered: pa.Table) -> list[str]:
    names = set(pc.unique(covered["part"]).to_pylist())
    return [path for path in paths if path not in names]


def _with_part(table: pa.Table, path: str) -> pa.Table:
    return table.append_column("part", pa.array([path] * len(table), pa.string()))
