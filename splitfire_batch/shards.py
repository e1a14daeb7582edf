"""Shards as they are read back from the rows of a plan, one at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.records import Shard, Track
from splitfire_batch.rows import Rows

_OWN = ("track_id", "source_id", "uri", "path", "n_bytes", "etag", "target", "cost")
"""The first fields of a Track, in their order."""


def shards_of(rows: Rows) -> Iterator[Shard]:
    """The shards of a plan's rows, in their order; their ids hash the tracks in them."""
    waiting, number = list[Track](), -1
    for planned in rows.batches():
        batch = planned.filter(pc.is_null(planned["duplicate"]))  # duplicates are in no shard
        for of, track in zip(batch["shard"].to_pylist(), tracks_of(batch), strict=True):
            if of != number and waiting:
                yield _shard(waiting)
                waiting = []
            number = of
            waiting.append(track)
    if waiting:
        yield _shard(waiting)


def shard_id_of(source_ids: Iterable[str]) -> str:
    """What a shard of these tracks is called."""
    return blake2b("".join(source_ids).encode(), digest_size=6).hexdigest()


def _shard(tracks: list[Track]) -> Shard:
    return Shard(shard_id_of(track.source_id for track in tracks), tuple(tracks))


def tracks_of(batch: pa.RecordBatch) -> Iterator[Track]:
    """Some of a plan's rows as tracks."""
    metas = batch["meta"]
    pairs = list(zip(metas.keys.to_pylist(), metas.items.to_pylist(), strict=True))
    begins, ends = itertools.tee(metas.offsets.to_pylist())
    next(ends)
    columns = (batch[name].to_pylist() for name in ("problem", "n_failed_runs", *_OWN))
    for begin, end, problem, n_failed_runs, *values in zip(begins, ends, *columns, strict=False):
        fields = (*values, 0, problem, tuple(pairs[begin:end]), n_failed_runs)
        yield Track(*fields)
