"""Which of many tracks are duplicates, and what has to be read to know, of objects that are made up."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from splitfire_batch.audio import Shape
from splitfire_batch.catalogue import LISTING
from splitfire_batch.contents import Content, Reader
from splitfire_batch.duplicates import find_duplicates
from splitfire_batch.manifest.ledger import write_part
from splitfire_batch.manifest.schema import SCHEMA
from splitfire_batch.plan import Ledger
from splitfire_batch.rows import BATCH_ROWS, Rows, rows_of
from splitfire_batch.settled import Settled, read_settled
from splitfire_batch.storage import Stores, open_store


class MadeUp(Reader):
    """Objects whose URI says what they are: shape/audio/bytes; counts those that are read whole."""

    def __init__(self) -> None:
        object.__setattr__(self, "read", [])

    def contents(self, objects: pa.Table) -> Iterator[Content | None]:
        for uri in objects["uri"].to_pylist():
            self.read.append(uri)
            _, audio, content = uri.split("/")
            yield None if content == "gone" else Content(content, audio)

    def shapes(self, objects: pa.Table) -> Iterator[Shape | None]:
        for uri in objects["uri"].to_pylist():
            n_frames = uri.partition("/")[0]
            yield None if n_frames == "unseen" else (44_100, 2, int(n_frames))


def listing(*uris: str, n_bytes: int = 9) -> Rows:
    return rows_of(_batches(uris, n_bytes), LISTING)


def _batches(uris: Sequence[str], n_bytes: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(uris), BATCH_ROWS):
        rows = [
            {
                "track_id": f"t{n}",
                "source_id": f"s{n}",
                "uri": uri,
                "path": f"{n:07}.wav",
                "n_bytes": n_bytes,
                "etag": "",
                "meta": [],
            }
            for n, uri in enumerate(uris[start : start + BATCH_ROWS], start)
        ]
        yield pa.RecordBatch.from_pylist(rows, LISTING)


def settled(tmp_path: Path, *rows: dict[str, object]) -> Settled:
    """What these rows of a manifest say."""
    store = open_store(str(tmp_path), {})
    same = {"settings_id": "set", "run_id": "run", "finished_at": 1, "sample_rate": 44_100, "n_channels": 2}
    whole = [{**same, "shard_id": "shard", "status": "done", **row} for row in rows]
    if whole:
        write_part(store, pa.Table.from_pylist(whole, schema=SCHEMA))
    done = [row["source_id"] for row in whole if row["status"] == "done"]
    return read_settled(store, "set", Ledger(done=pa.array(done, pa.string())))


def found(rows: Rows, known: Settled, reader: Reader | None = None) -> dict[str, str]:
    """By track_id of each duplicate that of its original."""
    everything = np.ones(len(rows), bool)
    table = find_duplicates(rows, everything, known, reader or MadeUp()).to_pylist()
    return {row["track_id"]: row["duplicate"]["of"] for row in table}


def test_the_first_by_path_is_the_original_of_all_with_its_audio(tmp_path: Path) -> None:
    rows = listing("7/x/a", "7/y/b", "7/x/a", "7/x/c", "8/x/a", "9/z/d")
    reader = MadeUp()
    assert found(rows, settled(tmp_path), reader) == {"t2": "t0", "t3": "t0"}
    assert reader.read == ["7/x/a", "7/y/b", "7/x/a", "7/x/c"]


def test_a_track_that_has_stems_is_the_original_and_rather_one_that_is_no_duplicate(tmp_path: Path) -> None:
    known = settled(
        tmp_path,
        {"track_id": "a", "source_id": "1", "path": "a", "audio_id": "x", "duplicate_of": "b", "n_frames": 7},
        {"track_id": "b", "source_id": "2", "path": "b", "audio_id": "x", "n_frames": 7},
        {"track_id": "c", "source_id": "3", "path": "c", "audio_id": "y", "n_frames": 99},
    )
    reader = MadeUp()
    assert found(listing("7/x/1", "8/y/2"), known, reader) == {"t0": "b"}
    assert reader.read == ["7/x/1"]


def test_a_shape_that_cannot_be_seen_is_looked_for_by_length(tmp_path: Path) -> None:
    known = settled(tmp_path, {"track_id": "a", "source_id": "1", "path": "a", "audio_id": "x", "n_bytes": 9})
    assert found(listing("unseen/x/1"), known) == {"t0": "a"}
    reader = MadeUp()
    assert found(listing("unseen/x/1", n_bytes=10), known, reader) == {}
    assert reader.read == []


def test_what_is_to_be_done_again_is_no_original(tmp_path: Path) -> None:
    known = settled(
        tmp_path,
        {"track_id": "t0", "source_id": "old", "path": "a", "audio_id": "x", "n_frames": 7},
    )
    assert found(listing("7/y/1", "7/x/2"), known) == {}


def test_what_failed_before_is_neither_original_nor_duplicate_of_what_is_to_be_done(tmp_path: Path) -> None:
    known = settled(tmp_path, {"track_id": "t0", "source_id": "s0", "path": "a", "status": "failed"})
    assert found(listing("7/x/1", "7/x/1", "7/x/1"), known) == {"t2": "t1"}


def test_what_cannot_be_read_is_no_duplicate(tmp_path: Path) -> None:
    assert found(listing("7/x/gone", "7/x/1", "7/x/gone"), settled(tmp_path)) == {}


def test_objects_of_a_store_that_are_gone_or_changed_tell_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), {})
    for name in ("same", "changed", "gone"):
        store.write(name, b"123")
    rows = {
        "uri": [store.uri_of(name) for name in ("same", "changed", "gone")],
        "n_bytes": [3, 3, 3],
        "etag": [store.stat(name).etag for name in ("same", "changed", "gone")],
    }
    store.write("changed", b"321")
    store.delete("gone")
    contents = list(Reader(Stores({})).contents(pa.table(rows)))
    assert [content is not None for content in contents] == [True, False, False]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_tracks_are_looked_through_in_bounded_memory(tmp_path: Path) -> None:
    uris = [f"{n // 2}/a{n // 2}/{n}" if n < 2_000 else f"{n}/a{n}/{n}" for n in range(1_000_000)]
    rows, known, reader = listing(*uris), settled(tmp_path), MadeUp()
    before_mb, begin_s = _peak_mb(), time.process_time()
    duplicates = found(rows, known, reader)
    print(f"{time.process_time() - begin_s:.1f} CPU s, {_peak_mb() - before_mb:.0f} MB more at the peak")
    assert (len(reader.read), len(duplicates)) == (2_000, 1_000)
    assert _peak_mb() - before_mb < 500


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
