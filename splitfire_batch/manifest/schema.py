"""The manifest's columns, and how rows become a table of them.

One row per track with its stems nested. New columns are added at will: readers take a missing one for null.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from splitfire_batch.errors import FAILURE_CODES
from splitfire_batch.records import DeviceSeconds, TrackRow

SCHEMA_VERSION = "1"
USAGE = b"splitfire.usage"
"""In a part's metadata: what its shard had used when it was written, as JSON."""

_TIME = pa.timestamp("us", tz="UTC")
_LEVELS = [
    ("peak_db", pa.float32()),
    ("rms_db", pa.float32()),
    ("true_peak_db", pa.float32()),
    ("loudness_lufs", pa.float32()),
    ("loudness_range_lu", pa.float32()),
    ("dc_offset", pa.float32()),
    ("clipped_samples", pa.int64()),
    ("clipped_run", pa.int64()),
    ("silence_ratio", pa.float32()),
    ("side_ratio", pa.float32()),
]
"""Of a stem; and of the source, in the track's own row."""
STEM = pa.struct(
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
        *_LEVELS,
        ("energy_share_db", pa.float32()),
        ("is_silent", pa.bool_()),
        ("preserved_chunks", pa.list_(pa.string())),
        ("etag", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("track_id", pa.string()),
        ("source_id", pa.string()),
        ("content_id", pa.string()),
        ("audio_id", pa.string()),
        ("duplicate_of", pa.string()),
        ("catalogue", pa.string()),
        ("uri", pa.string()),
        ("path", pa.string()),
        ("target", pa.string()),
        ("n_bytes", pa.int64()),
        ("etag", pa.string()),
        ("meta", pa.map_(pa.string(), pa.string())),
        ("status", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("is_retryable", pa.bool_()),
        ("warnings", pa.list_(pa.string())),
        ("attempts", pa.int16()),
        ("n_failed_runs", pa.int16()),
        ("container", pa.string()),
        ("subtype", pa.string()),
        ("sample_rate", pa.int32()),
        ("n_channels", pa.int16()),
        ("n_frames", pa.int64()),
        ("channel_mask", pa.int64()),
        ("duration_s", pa.float64()),
        ("title", pa.string()),
        ("artist", pa.string()),
        ("album", pa.string()),
        ("isrc", pa.string()),
        ("bpm", pa.float32()),
        ("bpm_source", pa.string()),
        ("key", pa.string()),
        ("key_source", pa.string()),
        ("sample_type", pa.string()),
        ("beats", pa.int16()),
        ("root_note", pa.int8()),
        ("loop_start", pa.int64()),
        ("loop_end", pa.int64()),
        ("pcm_md5", pa.string()),
        *_LEVELS,
        ("qc_flags", pa.list_(pa.string())),
        ("gain_db", pa.float64()),
        ("sum_residual_db", pa.float64()),
        ("stems", pa.list_(STEM)),
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
        ("blend_s", pa.float32()),
        ("wait_memory_s", pa.float32()),
        ("wait_device_s", pa.float32()),
        ("measure_s", pa.float32()),
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


def with_usage(table: pa.Table, wall_s: float, device: DeviceSeconds) -> pa.Table:
    """The table with what a shard had used when it was written, as USAGE in its metadata."""
    usage = json.dumps({"wall_s": wall_s, **asdict(device)})
    return table.replace_schema_metadata({**SCHEMA.metadata, USAGE: usage})


def _record(row: TrackRow) -> dict[str, object]:
    track, source = row.track, row.source
    names = ("track_id", "source_id", "uri", "path", "target", "n_bytes", "etag", "attempts")
    record: dict[str, object] = {name: getattr(track, name) for name in names}
    code = FAILURE_CODES.get(row.code or "")
    n_failed_runs = track.n_failed_runs + (code is not None and code.stands_after is not None)
    if source:
        record |= asdict(source)
        record["duration_s"] = source.n_frames / source.sample_rate
    if row.levels:
        record |= asdict(row.levels)
    return record | {
        **asdict(row.description),
        "meta": list(track.meta),
        "content_id": row.content_id,
        "audio_id": row.audio_id,
        "pcm_md5": row.pcm_md5,
        "qc_flags": list(row.qc_flags),
        "status": row.status,
        "code": row.code,
        "message": row.message,
        "is_retryable": code.is_worth_retry(n_failed_runs) if code else None,
        "n_failed_runs": n_failed_runs,
        "warnings": list(row.warnings),
        "gain_db": row.gain_db,
        "sum_residual_db": row.sum_residual_db,
        "stems": [{**asdict(stem), **asdict(stem.levels)} for stem in row.stems],
        **{f"{stage}_s": seconds for stage, seconds in asdict(row.seconds).items()},
        "started_at": int(row.started_at * 1e6),
        "finished_at": int(row.finished_at * 1e6),
    }


def parquet_source(data: bytes) -> pa.BufferReader:
    """What Arrow reads `data` from: a copy of its own, since its threads may let go of it late.

    Bytes of Python's that one of them is the last to hold abort a process that is ending.
    """
    sink = pa.BufferOutputStream()
    sink.write(data)
    return pa.BufferReader(sink.getvalue())


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as one Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_index=True)
    return sink.getvalue()
