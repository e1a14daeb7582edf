"""The manifest: what was done, as Parquet parts below `_splitfire/` in the destination.

A part holds the rows of settled tracks and is written whole, under a name with the hash of its bytes, after
the stems it names: the part's put is the commit. Readers trust parts only. Several attempts at one track may
each leave a row; `latest` says which one counts. Views are a convenience made from the parts.

    _splitfire/parts/<settings_id>/<run_id>/<shard>-<hash>.parquet    rows, stems nested: the truth
    _splitfire/views/tracks.parquet, stems.parquet, view.json         one row per track, one per stem
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from splitfire_batch.errors import ConfigError, ObjectMissing
from splitfire_batch.holdings import is_current, read_holdings
from splitfire_batch.plan import Ledger
from splitfire_batch.schema import SCHEMA, SCHEMA_VERSION, STEM, parquet_bytes
from splitfire_batch.storage import Store

ROOT = "_splitfire"
_VIEW = f"{ROOT}/views/view.json"
_READERS = 16
_LEDGER_COLUMNS = (
    "track_id",
    "source_id",
    "target",
    "settings_id",
    "run_id",
    "model",
    "status",
    "is_retryable",
    "n_failed_runs",
    "finished_at",
)


def write_part(store: Store, table: pa.Table) -> str:
    """Put one part whole; when this returns, its tracks are settled. Returns the part's path."""
    data = parquet_bytes(table)
    first = table.slice(0, 1).to_pylist()[0]
    folder = f"{ROOT}/parts/{first['settings_id']}/{first['run_id']}"
    path = f"{folder}/{first['shard_id']}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    store.write(path, data)
    return path


def part_paths(store: Store, settings_id: str = "", run_id: str = "") -> list[str]:
    """Where the parts are, sorted: all, those of one settings_id, or of one of its runs."""
    prefix = "/".join(part for part in (ROOT, "parts", settings_id, run_id) if part)
    return sorted(found.path for found in store.list_under(prefix) if found.path.endswith(".parquet"))


def read_parts(
    store: Store, settings_id: str = "", run_id: str = "", columns: Sequence[str] | None = None
) -> pa.Table:
    """Every row of every part, of one settings_id or one of its runs if given; unresolved."""
    schema = _part_schema(columns)
    paths = part_paths(store, settings_id, run_id)
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(lambda path: _read_part(store, path, schema), paths))
    return pa.concat_tables([schema.empty_table(), *tables])


def _part_schema(columns: Sequence[str] | None) -> pa.Schema:
    return pa.schema([SCHEMA.field(name) for name in columns or SCHEMA.names], metadata=SCHEMA.metadata)


def _read_part(store: Store, path: str, schema: pa.Schema) -> pa.Table:
    """One part, if its bytes hash to its name; columns that an older part lacks are null."""
    data = store.read(path)
    if not path.endswith(f"-{hashlib.sha256(data).hexdigest()[:16]}.parquet"):
        raise ConfigError(f"{store.uri_of(path)} is damaged: its name has another hash; move it away")
    held = pq.read_schema(io.BytesIO(data)).names
    table = pq.read_table(io.BytesIO(data), columns=[name for name in schema.names if name in held])
    missing = [field for field in schema if field.name not in table.column_names]
    for field in missing:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(schema.names).cast(schema)


def latest(rows: pa.Table) -> pa.Table:
    """One row per track_id and settings_id: that of the newest run which had the track in its plan.

    Within a run, where several attempts may each have left a row, the earliest done or skipped one counts,
    else the latest failed one. An older run's done row does not count against a newer one: with plain names
    its stems have been written over.
    """
    is_failed = pc.equal(rows["status"], "failed")
    finished = pc.cast(rows["finished_at"], pa.int64())
    ordered = rows.append_column("_rank", pc.if_else(is_failed, 1, 0))
    ordered = ordered.append_column("_order", pc.if_else(is_failed, pc.negate(finished), finished))
    keys = [("run_id", "descending"), ("_rank", "ascending"), ("_order", "ascending")]
    return _first_of_each(
        ordered.sort_by(keys).drop_columns(["_rank", "_order"]), ["track_id", "settings_id"]
    )


def _first_of_each(rows: pa.Table, keys: list[str]) -> pa.Table:
    numbered = rows.append_column("_at", pa.array(range(len(rows)), pa.int64()))
    first = numbered.group_by(keys).aggregate([("_at", "min")])["_at_min"]
    return rows.take(first.combine_chunks().sort())


def read_ledger(store: Store, settings_id: str, plain_for: str | None = None) -> Ledger:
    """What is settled under `settings_id`, failures worth another try left out, and which names are taken.

    Names are taken by every track whose stems lie in the destination, under whatever settings.

    Args:
        store: the destination.
        settings_id: of the run to come.
        plain_for: its model, if names are plain: a track's stems by another model then need other names.
    """
    rows = current_rows(store, _LEDGER_COLUMNS)
    done, skipped, failed = (
        rows.filter(pc.equal(rows["status"], status)) for status in ("done", "skipped", "failed")
    )
    standing = failed.filter(pc.invert(pc.fill_null(failed["is_retryable"], False)))

    def source_ids(table: pa.Table) -> pa.Array:
        mine = table.filter(pc.equal(table["settings_id"], settings_id))
        return mine["source_id"].combine_chunks()

    targets = done.select(["track_id", "target"])
    if plain_for is not None:
        foreign = pc.binary_join_element_wise(done["model"], done["track_id"], ":")
        owners = pc.if_else(pc.equal(done["model"], plain_for), done["track_id"], foreign)
        targets = targets.set_column(0, "track_id", owners)
    runs = failed.filter(pc.greater(pc.fill_null(failed["n_failed_runs"], 0), 0))
    runs = runs.filter(pc.equal(runs["settings_id"], settings_id)).select(["source_id", "n_failed_runs"])
    return Ledger(source_ids(done), source_ids(standing), targets, source_ids(skipped), runs)


def current_rows(store: Store, columns: Sequence[str] | None = None) -> pa.Table:
    """The latest row of every track and settings; those whose stems were replaced are left out."""
    holdings = read_holdings(store)
    current = [item.settings_id for item in holdings if is_current(item, holdings)]
    tables = [read_parts(store, settings_id, columns=columns) for settings_id in current]
    return latest(pa.concat_tables(tables)) if tables else _part_schema(columns).empty_table()


def refresh_views(store: Store, run_id: str) -> None:
    """Make the views from the parts: the latest row of every track, and its stems one per row.

    Nothing is done when they were made from these very parts. `view.json` is written last; it names the
    hashes of both tables, so that a reader can tell a pair that belongs together, and of the parts' names.
    """
    parts = "\n".join([*part_paths(store), *(item.settings_id for item in read_holdings(store))])
    made_from = hashlib.sha256(parts.encode()).hexdigest()
    if not parts or _views_are_from(store, made_from):
        return
    tracks = current_rows(store).sort_by([("path", "ascending"), ("model", "ascending")])
    digests = {}
    for name, table in (("tracks", tracks), ("stems", _flat_stems(tracks))):
        data = parquet_bytes(table)
        store.write(f"{ROOT}/views/{name}.parquet", data)
        digests[f"{name}.parquet"] = hashlib.sha256(data).hexdigest()
    view = {"run_id": run_id, "n_tracks": len(tracks), "sha256": digests, "made_from": made_from}
    store.write(_VIEW, json.dumps({**view, "schema": SCHEMA_VERSION}, indent=1).encode())


def _views_are_from(store: Store, made_from: str) -> bool:
    try:
        view = json.loads(store.read(_VIEW))
    except (ObjectMissing, ValueError):
        return False
    return bool(view.get("made_from") == made_from)


def _flat_stems(tracks: pa.Table) -> pa.Table:
    """One row per stem: its own columns behind the track's ids and path."""
    stems = tracks["stems"].combine_chunks()
    parents = pc.list_parent_indices(stems)
    flat = pa.Table.from_struct_array(stems.flatten()).rename_columns(
        [{"path": "stem_path"}.get(field.name, field.name) for field in STEM]
    )
    for index, name in enumerate(("track_id", "path", "settings_id", "run_id", "model")):
        flat = flat.add_column(index, name, tracks[name].take(parents))
    return flat.replace_schema_metadata(SCHEMA.metadata)
