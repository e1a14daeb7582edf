"""The manifest: what was done, as Parquet parts below `_splitfire/` in the destination.

A part holds the rows of settled tracks and is written whole, under a name with the hash of its bytes, after
the stems it names: the part's put is the commit. Readers trust parts only. Two attempts at one track may
both leave a row; `resolve` keeps the earliest done one. Views are a convenience made from the parts.

    _splitfire/parts/<settings_id>/<run_id>/<shard>-<hash>.parquet    rows, stems nested: the truth
    _splitfire/views/tracks.parquet, stems.parquet, view.json         one row per track, one per stem
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from splitfire_batch.errors import FAILURE_CODES, ConfigError, ObjectMissing
from splitfire_batch.holdings import is_current, read_holdings
from splitfire_batch.plan import Ledger
from splitfire_batch.records import TrackRow
from splitfire_batch.storage import Store

SCHEMA_VERSION = "1"
ROOT = "_splitfire"
_READERS = 16

_TIME = pa.timestamp("us", tz="UTC")
_STEM = pa.struct(
    [
        ("stem", pa.string()),
        ("path", pa.string()),
        ("container", pa.string()),
        ("subtype", pa.string()),
        ("sample_rate", pa.int32()),
        ("n_channels", pa.int16()),
        ("n_frames", pa.int64()),
        ("n_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("pcm_md5", pa.string()),
        ("peak_db", pa.float32()),
        ("rms_db", pa.float32()),
    ]
)
SCHEMA = pa.schema(
    [
        ("track_id", pa.string()),
        ("source_id", pa.string()),
        ("content_id", pa.string()),
        ("catalogue", pa.string()),
        ("uri", pa.string()),
        ("path", pa.string()),
        ("n_bytes", pa.int64()),
        ("etag", pa.string()),
        ("meta", pa.map_(pa.string(), pa.string())),
        ("status", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("is_retryable", pa.bool_()),
        ("warnings", pa.list_(pa.string())),
        ("attempts", pa.int16()),
        ("container", pa.string()),
        ("subtype", pa.string()),
        ("sample_rate", pa.int32()),
        ("n_channels", pa.int16()),
        ("n_frames", pa.int64()),
        ("duration_s", pa.float64()),
        ("gain_db", pa.float64()),
        ("sum_residual_db", pa.float64()),
        ("stems", pa.list_(_STEM)),
        ("run_id", pa.string()),
        ("shard_id", pa.string()),
        ("settings_id", pa.string()),
        ("model", pa.string()),
        ("weights_id", pa.string()),
        ("precision", pa.string()),
        ("numerics", pa.string()),
        ("device", pa.string()),
        ("fetch_s", pa.float32()),
        ("decode_s", pa.float32()),
        ("device_s", pa.float32()),
        ("encode_s", pa.float32()),
        ("store_s", pa.float32()),
        ("started_at", _TIME),
        ("finished_at", _TIME),
    ],
    metadata={"splitfire.schema": SCHEMA_VERSION},
)


@dataclass(frozen=True, slots=True)
class RunContext:
    """What every row of a run says alike; names as in SCHEMA."""

    run_id: str
    settings_id: str
    catalogue: str
    model: str
    weights_id: str
    precision: str
    numerics: str = ""
    """Whatever the estimates' last bits depend on: device class, precision, batch shape, threads."""
    device: str = ""


def to_table(rows: Iterable[TrackRow], context: RunContext, shard_id: str) -> pa.Table:
    """Rows as a table of SCHEMA."""
    common = {**asdict(context), "shard_id": shard_id}
    return pa.Table.from_pylist([{**common, **_record(row)} for row in rows], schema=SCHEMA)


def _record(row: TrackRow) -> dict[str, object]:
    track, source = row.track, row.source
    names = ("track_id", "source_id", "uri", "path", "n_bytes", "etag", "attempts")
    record: dict[str, object] = {name: getattr(track, name) for name in names}
    if source:
        record |= asdict(source)
        record["duration_s"] = source.n_frames / source.sample_rate
    return record | {
        "meta": list(track.meta),
        "content_id": row.content_id,
        "status": row.status,
        "code": row.code,
        "message": row.message,
        "is_retryable": FAILURE_CODES[row.code].is_retryable if row.code in FAILURE_CODES else None,
        "warnings": list(row.warnings),
        "gain_db": row.gain_db,
        "sum_residual_db": row.sum_residual_db,
        "stems": [asdict(stem) for stem in row.stems],
        **{f"{stage}_s": seconds for stage, seconds in asdict(row.seconds).items()},
        "started_at": int(row.started_at * 1e6),
        "finished_at": int(row.finished_at * 1e6),
    }


def write_part(store: Store, table: pa.Table) -> str:
    """Put one part whole; when this returns, its tracks are settled. Returns the part's path."""
    data = parquet_bytes(table)
    first = table.slice(0, 1).to_pylist()[0]
    folder = f"{ROOT}/parts/{first['settings_id']}/{first['run_id']}"
    path = f"{folder}/{first['shard_id']}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    store.write(path, data)
    return path


def read_parts(
    store: Store, settings_id: str = "", run_id: str = "", columns: Sequence[str] | None = None
) -> pa.Table:
    """Every row of every part, of one settings_id or one of its runs if given; unresolved."""
    prefix = "/".join(part for part in (ROOT, "parts", settings_id, run_id) if part)
    names = [found.path for found in store.list_under(prefix) if found.path.endswith(".parquet")]
    wanted = list(columns) if columns else SCHEMA.names
    schema = pa.schema([SCHEMA.field(name) for name in wanted], metadata=SCHEMA.metadata)
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(lambda name: _read_part(store, name, schema), sorted(names)))
    return pa.concat_tables([schema.empty_table(), *tables])


def _read_part(store: Store, path: str, schema: pa.Schema) -> pa.Table:
    """One part, if its bytes hash to its name; columns that an older part lacks are null."""
    data = store.read(path)
    if not path.endswith(f"-{hashlib.sha256(data).hexdigest()[:16]}.parquet"):
        raise ConfigError(f"{store.uri_of(path)} is damaged: its name has another hash; move it away")
    table = pq.read_table(io.BytesIO(data))
    missing = [field for field in schema if field.name not in table.column_names]
    for field in missing:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(schema.names).cast(schema)


def resolve(rows: pa.Table) -> pa.Table:
    """One row per source_id and settings_id: done before failed, then the earliest."""
    rank = pc.if_else(pc.equal(rows["status"], "failed"), 1, 0)
    ordered = rows.append_column("_rank", rank)
    ordered = ordered.sort_by([("_rank", "ascending"), ("finished_at", "ascending")])
    return _first_of_each(ordered.drop_columns("_rank"), ["source_id", "settings_id"])


def latest(rows: pa.Table) -> pa.Table:
    """One row per track_id and settings_id: that of the object as it was last seen."""
    newest_first = resolve(rows).sort_by([("finished_at", "descending")])
    return _first_of_each(newest_first, ["track_id", "settings_id"])


def _first_of_each(rows: pa.Table, keys: list[str]) -> pa.Table:
    numbered = rows.append_column("_at", pa.array(range(len(rows)), pa.int64()))
    first = numbered.group_by(keys).aggregate([("_at", "min")])["_at_min"]
    return rows.take(first.combine_chunks().sort())


def read_ledger(store: Store, settings_id: str) -> Ledger:
    """What is settled under `settings_id`; failures worth another try are not."""
    columns = ("source_id", "settings_id", "status", "is_retryable", "finished_at")
    try:
        rows = resolve(read_parts(store, settings_id, columns=columns))
    except ObjectMissing:
        return Ledger()
    failed = rows.filter(pc.equal(rows["status"], "failed"))
    standing = failed.filter(pc.invert(pc.fill_null(failed["is_retryable"], False)))
    done = rows.filter(pc.not_equal(rows["status"], "failed"))
    return Ledger(done["source_id"].combine_chunks(), standing["source_id"].combine_chunks())


def current_rows(store: Store, columns: Sequence[str] | None = None) -> pa.Table:
    """The latest row of every track and settings; those whose stems were replaced are left out."""
    holdings = read_holdings(store)
    current = [item.settings_id for item in holdings if is_current(item, holdings)]
    rows = read_parts(store, columns=columns)
    return latest(rows.filter(pc.is_in(rows["settings_id"], value_set=pa.array(current, pa.string()))))


def write_views(store: Store, run_id: str) -> None:
    """Make the views from the parts: the latest row of every track, and its stems one per row.

    `view.json` is written last and names the hashes of both tables, so that a reader can tell a pair that
    belongs together.
    """
    tracks = current_rows(store).sort_by([("path", "ascending"), ("model", "ascending")])
    digests = {}
    for name, table in (("tracks", tracks), ("stems", _flat_stems(tracks))):
        data = parquet_bytes(table)
        store.write(f"{ROOT}/views/{name}.parquet", data)
        digests[f"{name}.parquet"] = hashlib.sha256(data).hexdigest()
    view = {"run_id": run_id, "n_tracks": len(tracks), "sha256": digests, "schema": SCHEMA_VERSION}
    store.write(f"{ROOT}/views/view.json", json.dumps(view, indent=1).encode())


def _flat_stems(tracks: pa.Table) -> pa.Table:
    """One row per stem: its own columns behind the track's ids and path."""
    stems = tracks["stems"].combine_chunks()
    parents = pc.list_parent_indices(stems)
    flat = pa.Table.from_struct_array(stems.flatten()).rename_columns(
        [{"path": "stem_path"}.get(field.name, field.name) for field in _STEM]
    )
    for index, name in enumerate(("track_id", "path", "settings_id", "run_id", "model")):
        flat = flat.add_column(index, name, tracks[name].take(parents))
    return flat.replace_schema_metadata(SCHEMA.metadata)


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as one Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_index=True)
    return sink.getvalue()
