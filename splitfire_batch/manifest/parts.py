"""Manifest parts: the rows of settled tracks, written whole. A part's put is the commit.

A part lies under a name that ends in the hash of its bytes, after the stems it names, and never changes.
Several attempts at one track may each leave a row; `latest` says which one counts.

    _splitfire/parts/<settings_id>/<run_id>/<shard>-<hash>.parquet    rows, stems nested: the truth
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from splitfire_batch.errors import ConfigError, ObjectMissing, TransientError
from splitfire_batch.manifest.schema import SCHEMA, STEM, USAGE, parquet_bytes, parquet_source
from splitfire_batch.storage import Store

ROOT = "_splitfire"
REVOKED = "STEMS_CHANGED"
"""Code of a row by which a run takes back what it said of a track before."""
KEYS = ("track_id", "settings_id", "run_id", "status", "code", "finished_at")
"""What `latest` chooses by."""
PART = pa.field("part", pa.int32())
"""In which of some parts a row lies, by its number."""
_READERS = 16


def write_part(store: Store, table: pa.Table) -> str:
    """Put one part whole; when this returns, its tracks are settled. Returns the part's path."""
    data = parquet_bytes(table)
    first = table.slice(0, 1).to_pylist()[0]
    folder = f"{ROOT}/parts/{first['settings_id']}/{first['run_id']}"
    path = hashed_name(f"{folder}/{first['shard_id']}", data)
    store.write(path, data)
    return path


def hashed_name(stem: str, data: bytes) -> str:
    """The path of an object that never changes: it ends in the hash of its bytes."""
    return f"{stem}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"


def has_its_hash(path: str, data: bytes) -> bool:
    """Whether `hashed_name` gave the path to these bytes."""
    return path.endswith(hashed_name("", data))


def part_paths(store: Store, settings_id: str = "", run_id: str = "") -> list[str]:
    """Where the parts are, sorted: all, those of one settings_id, or of one of its runs."""
    prefix = "/".join(part for part in (ROOT, "parts", settings_id, run_id) if part)
    return sorted(found.path for found in store.list_under(prefix) if found.path.endswith(".parquet"))


def settings_ids(store: Store) -> set[str]:
    """Of the parts that are there, whether or not the settings themselves are recorded."""
    return {settings_of(path) for path in part_paths(store)}


def settings_of(path: str) -> str:
    """The settings_id in a part's path."""
    return path.split("/")[2]


def run_of(path: str) -> str:
    """The run_id in a part's path."""
    return path.split("/")[3]


def read_parts(
    store: Store, settings_id: str = "", run_id: str = "", columns: Sequence[str] | None = None
) -> pa.Table:
    """Every row of every part, of one settings_id or one of its runs if given; unresolved."""
    schema = schema_of(columns)
    tables = read_each(store, part_paths(store, settings_id, run_id), schema)
    return pa.concat_tables([schema.empty_table(), *tables])


def read_each(store: Store, paths: Sequence[str], schema: pa.Schema) -> list[pa.Table]:
    """The tables of these parts, in their order."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda path: _read_part(store, path, schema), paths))


def read_used(store: Store, path: str, schema: pa.Schema) -> tuple[pa.Table, dict[str, float]]:
    """The rows of one part, and what their shard's worker had used when it was written (`with_usage`)."""
    file = _open(store, path)
    usage = (file.schema_arrow.metadata or {}).get(USAGE, b"{}")
    return _rows(file, schema), json.loads(usage)


def schema_of(columns: Sequence[str] | None, of_stems: Sequence[str] = ()) -> pa.Schema:
    """The manifest's schema with these columns only, and these of each stem; all for None and none."""
    schema = pa.schema([SCHEMA.field(name) for name in columns or SCHEMA.names], metadata=SCHEMA.metadata)
    if not of_stems:
        return schema
    stems = pa.list_(pa.struct([STEM.field(name) for name in of_stems]))
    return schema.set(schema.get_field_index("stems"), pa.field("stems", stems))


def read_latest(store: Store, paths: Sequence[str], schema: pa.Schema) -> pa.Table:
    """The rows that count among those of these parts, and by `part` in which of the paths each lies.

    Args:
        store: the destination.
        paths: of parts of the same settings_id.
        schema: by `schema_of`, with KEYS: at a million tracks a whole row each is too much.
    """
    tables = [schema.append(PART).empty_table()]
    for number, table in enumerate(read_each(store, paths, schema)):
        tables.append(table.append_column(PART, pa.array([number] * len(table), PART.type)))
    return latest(pa.concat_tables(tables))


def whole_rows(store: Store, paths: Sequence[str], rows: pa.Table) -> pa.Table:
    """Some of what `read_latest` gave for these paths, with all columns of the manifest."""
    wanted = [paths[number] for number in pc.unique(rows["part"]).to_pylist()]
    found = latest(pa.concat_tables([SCHEMA.empty_table(), *read_each(store, wanted, SCHEMA)]))
    return found.filter(pc.is_in(found["track_id"], value_set=rows["track_id"].combine_chunks()))


def _read_part(store: Store, path: str, schema: pa.Schema) -> pa.Table:
    """One part as a table."""
    return _rows(_open(store, path), schema)


def _open(store: Store, path: str) -> pq.ParquetFile:
    """One part, if its bytes hash to its name."""
    try:
        data = store.read(path)
    except ObjectMissing as error:  # parts are never removed: the listing, or the answer, was wrong
        raise TransientError(f"{store.uri_of(path)} was listed and is not there; run again") from error
    if not has_its_hash(path, data):
        raise ConfigError(f"{store.uri_of(path)} is damaged: its name has another hash; move it away")
    return pq.ParquetFile(parquet_source(data))


def _rows(file: pq.ParquetFile, schema: pa.Schema) -> pa.Table:
    """The rows of a part; columns that an older one lacks are null."""
    table = file.read(columns=_columns(file, schema))
    missing = [field for field in schema if field.name not in table.column_names]
    for field in missing:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(schema.names).cast(schema)


def _columns(file: pq.ParquetFile, schema: pa.Schema) -> list[str]:
    """What to read of a file; where a schema wants less of each stem, no more of them."""
    held = set(file.schema_arrow.names)
    columns = [field.name for field in schema if field.name in held]
    if "stems" not in columns or schema.field("stems").type == SCHEMA.field("stems").type:
        return columns
    wanted = {field.name for field in schema.field("stems").type.value_type}
    leaves = (file.schema.column(n).path for n in range(len(file.schema.names)))
    stems = [leaf for leaf in leaves if leaf.startswith("stems.") and leaf.rpartition(".")[2] in wanted]
    return [name for name in columns if name != "stems"] + stems


def latest(rows: pa.Table) -> pa.Table:
    """One row per track_id and settings_id: that of the newest run which had the track in its plan.

    Within a run, where several attempts may each have left a row, the earliest done or skipped one counts,
    else the latest failed one; before all, one that takes a done row back (REVOKED). An older
    run's done row does not count against a newer one: with plain names its stems have been written over. With
    immutable ones they may still be there, but nobody can say. So of two runs without a lease, one that fails
    a track hides the other's row, and it is done again.
    """
    is_failed = pc.equal(rows["status"], "failed")
    finished = pc.cast(rows["finished_at"], pa.int64())
    is_revoked = pc.fill_null(pc.equal(rows["code"], REVOKED), False)
    ordered = rows.append_column("_rank", pc.if_else(is_revoked, -1, pc.if_else(is_failed, 1, 0)))
    ordered = ordered.append_column("_order", pc.if_else(is_failed, pc.negate(finished), finished))
    keys = [("run_id", "descending"), ("_rank", "ascending"), ("_order", "ascending")]
    return _first_of_each(
        ordered.sort_by(keys).drop_columns(["_rank", "_order"]), ["track_id", "settings_id"]
    )


def _first_of_each(rows: pa.Table, keys: list[str]) -> pa.Table:
    numbered = rows.append_column("_at", pa.array(range(len(rows)), pa.int64()))
    first = numbered.group_by(keys).aggregate([("_at", "min")])["_at_min"]
    return rows.take(first.combine_chunks().sort())
