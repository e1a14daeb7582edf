"""Rows of tracks that are duplicates of others: once the originals have theirs, they get the same stems.

A stem whose name ends in the hash of its bytes is referred to: nothing else will ever have that name, and
`vacuum` keeps what any row names. A stem under a plain name will be written over when its track changes, so
it is copied, within the store, to the name that the duplicate's own stem would have. Whatever becomes of the
original later, the row stays true. An original without stems gives its duplicates none: they fail with
ORIGINAL_FAILED, and the next run separates each by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.children import Codecs
from splitfire_batch.errors import LeaseLost, SplitfireError, StorageError, TrackError
from splitfire_batch.manifest.parts import KEYS, latest, whole_rows, write_part
from splitfire_batch.manifest.reconcile import changed_rows
from splitfire_batch.manifest.schema import SCHEMA, RunContext, to_table
from splitfire_batch.manifest.snapshots import read_placed
from splitfire_batch.metadata import describe
from splitfire_batch.mishaps import mishap
from splitfire_batch.naming import stem_path
from splitfire_batch.observations import Description
from splitfire_batch.plan import Plan
from splitfire_batch.records import Outcome, StageSeconds, Track, TrackRow
from splitfire_batch.scratch import scratch_folder
from splitfire_batch.shards import tracks_of
from splitfire_batch.storage import Store, Stores

SHARD_ID = "duplicates"
_PAGE = 40  # of tracks: the stems of so many are asked for one by one, and not listed
_THREADS = 8
Row = dict[str, Any]
"""A row of the manifest, by its columns."""


@dataclass(frozen=True, slots=True)
class DuplicateBench:
    """What duplicates are settled with."""

    store: Store
    context: RunContext
    is_immutable: bool
    """Whether names of stems end in the hash of their bytes."""
    sources: Stores
    scratch: str | None
    codecs: Callable[[], Codecs]
    """Who reads the tags of a duplicate that has other ones than its original."""
    check: Callable[[], None]
    """Called before every write; what it raises is raised."""


def settle_duplicates(plan: Plan, bench: DuplicateBench) -> Iterator[tuple[Outcome, ...]]:
    """Write a row for every duplicate in the plan whose original has one; tells what came of some at a time.

    A duplicate whose original has no row yet, because the run was stopped, gets none either.

    Raises:
        LeaseLost: what `check` raises.
        TransientError: a store does not answer.
    """
    if not plan.n_duplicates:
        return
    rows, parts = read_placed(bench.store, {bench.context.settings_id}, KEYS)
    rows = latest(rows)
    for batch in plan.rows.batches():
        duplicates = batch.filter(pc.is_valid(batch["duplicate"]))
        for start in range(0, len(duplicates), _PAGE):
            page = duplicates.slice(start, _PAGE)
            wanted = pc.is_in(rows["track_id"], value_set=page["duplicate"].field("of"))
            made = _rows_of(page, whole_rows(bench.store, parts, rows.filter(wanted)), bench)
            if made:
                bench.check()
                write_part(bench.store, pa.Table.from_pylist(made, schema=SCHEMA))
                yield tuple(map(_outcome, made))


def _rows_of(page: pa.RecordBatch, originals: pa.Table, bench: DuplicateBench) -> list[Row]:
    """The rows of these duplicates, their stems being where the rows say; of some there may be none yet."""
    by_track = {row["track_id"]: row for row in originals.to_pylist()}
    to_copy = [key for key, row in by_track.items() if not all(map(_keeps_its_bytes, row["stems"]))]
    looked_at = originals.filter(pc.is_in(originals["track_id"], value_set=pa.array(to_copy, pa.string())))
    harmed = set(changed_rows(bench.store, looked_at)["track_id"].to_pylist())

    def row_of(track: Track, duplicate: Mapping[str, str]) -> Row | None:
        original = by_track.get(duplicate["of"])
        if original and original["status"] == "failed" and original["run_id"] == bench.context.run_id:
            return _failed(track, duplicate, f"{original['path']} is the original, and failed", bench)
        if original is None or not _is_same_audio(original, duplicate):
            return None
        if original["track_id"] in harmed:
            return _failed(track, duplicate, f"the stems of {original['path']} were changed", bench)
        try:
            return _copied(track, duplicate, original, bench)
        except LeaseLost:
            raise
        except (SplitfireError, OSError) as error:
            ours = mishap(error, track.track_id, Path(bench.scratch) if bench.scratch else None)
            return _failed(track, duplicate, ours.why, bench, ours.code)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="copy") as pool:
        made = pool.map(row_of, tracks_of(page), page["duplicate"].to_pylist())
        return [row for row in made if row is not None]


def _is_same_audio(original: Row, duplicate: Mapping[str, str]) -> bool:
    """Whether a row is of the audio that was compared: that of an older object of the track may be other."""
    if original["audio_id"] is None:  # of an older version
        return bool(original["content_id"] == duplicate["content_id"])
    return bool(original["audio_id"] == duplicate["audio_id"])


def _copied(track: Track, duplicate: Mapping[str, str], original: Row, bench: DuplicateBench) -> Row:
    """The original's row as the duplicate's own: what differs are names, tags and the places of stems."""
    now = int(time.time() * 1e6)
    row = {**original, **_own(track, duplicate, bench), "started_at": now}
    row |= {f"{stage}_s": 0.0 for stage in asdict(StageSeconds())}
    if original["message"]:
        row["message"] = f"{track.path}: as {original['message']}"
    if original["content_id"] != duplicate["content_id"]:
        row |= _description(track, original["n_frames"], bench)
        row["warnings"] = [*original["warnings"], f"its stems carry the tags of {original['path']}"]
    row["stems"] = [_placed(stem, track, bench) for stem in original["stems"]]
    return row | {"finished_at": int(time.time() * 1e6)}


def _own(track: Track, duplicate: Mapping[str, str], bench: DuplicateBench) -> Row:
    """Columns that say which track it is."""
    names = ("track_id", "source_id", "uri", "path", "target", "n_bytes", "etag", "attempts", "n_failed_runs")
    return {
        **{name: getattr(track, name) for name in names},
        "meta": list(track.meta),
        "catalogue": bench.context.catalogue,
        "content_id": duplicate["content_id"],
        "audio_id": duplicate["audio_id"],
        "duplicate_of": duplicate["of"],
        "run_id": bench.context.run_id,
        "shard_id": SHARD_ID,
    }


def _description(track: Track, n_frames: int, bench: DuplicateBench) -> Row:
    """What the duplicate's own tags say; nothing, should they not be readable any more."""
    with scratch_folder(bench.scratch) as folder, closing(bench.codecs()) as codecs:
        store, path = bench.sources.locate(track.uri)
        try:
            file = store.fetch(path, folder / "source")
            return asdict(describe(codecs.read_metadata(file), track.path, n_frames))
        except (StorageError, TrackError):
            return asdict(Description())


def _keeps_its_bytes(stem: Row) -> bool:
    """Whether a stem's name ends in the hash of its bytes; or it was silent, and has none."""
    path = stem["path"]
    return path is None or path.rpartition(".")[0].endswith(f"-{stem['sha256'][:16]}")


def _placed(stem: Row, track: Track, bench: DuplicateBench) -> Row:
    """The stem as it is, or copied to a name of the track's own."""
    if _keeps_its_bytes(stem):
        return stem
    path = str(stem["path"])
    ext = path.rpartition(".")[2]
    to = stem_path(track.target, stem["stem"], ext, stem["sha256"] if bench.is_immutable else None)
    bench.check()
    bench.store.copy(to, path)
    return {**stem, "path": to, "etag": None if bench.is_immutable else bench.store.stat(to).etag}


def _failed(
    track: Track, duplicate: Mapping[str, str], why: str, bench: DuplicateBench, code: str = "ORIGINAL_FAILED"
) -> Row:
    now = time.time()
    message = f"{track.path}: {why}; run the job again"
    row = TrackRow(track, "failed", code, message, started_at=now, finished_at=now)
    made: Row = to_table([row], bench.context, SHARD_ID).to_pylist()[0]
    return made | _own(track, duplicate, bench)


def _outcome(row: Row) -> Outcome:
    """No audio was separated for it; what it refers to was written before."""
    n_bytes = sum(stem["n_bytes"] for stem in row["stems"] if stem["etag"] is not None)
    return Outcome(row["track_id"], row["path"], row["status"], row["code"], row["message"], 0.0, n_bytes)
