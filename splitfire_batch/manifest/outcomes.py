"""What the driver is told of a settled track: made from its row, or read back from the part it lies in."""

from __future__ import annotations

import re

import pyarrow as pa

from splitfire_batch.manifest.parts import KEYS, latest, part_paths, read_each, schema_of
from splitfire_batch.manifest.schema import RunContext
from splitfire_batch.records import Outcome, TrackRow
from splitfire_batch.storage import Store

_COLUMNS = (*KEYS, "path", "message", "duration_s", "stems")


def outcome_of(row: TrackRow) -> Outcome:
    """What the driver needs to know of a row."""
    source = row.source
    return Outcome(
        track_id=row.track.track_id,
        path=row.track.path,
        status=row.status,
        code=row.code,
        message=row.message,
        audio_s=source.n_frames / source.sample_rate if source else 0.0,
        n_bytes_out=sum(stem.n_bytes for stem in row.stems),
    )


def recorded(store: Store, context: RunContext, shard_id: str) -> tuple[Outcome, ...]:
    """What this run's parts say of a shard: its worker may have put one and died before it could tell.

    Raises:
        TransientError: the store does not answer.
    """
    is_of_shard = re.compile(rf".*/{re.escape(shard_id)}-[0-9a-f]{{16}}\.parquet").fullmatch
    paths = [path for path in part_paths(store, context.settings_id, context.run_id) if is_of_shard(path)]
    schema = schema_of(_COLUMNS, of_stems=("n_bytes",))
    rows = latest(pa.concat_tables([schema.empty_table(), *read_each(store, paths, schema)]))
    return tuple(
        Outcome(
            track_id=row["track_id"],
            path=row["path"],
            status=row["status"],
            code=row["code"],
            message=row["message"],
            audio_s=row["duration_s"] or 0.0,
            n_bytes_out=sum(stem["n_bytes"] for stem in row["stems"] or ()),
        )
        for row in rows.to_pylist()
    )
