"""What a run costs before its first track and after its last: ledgers of many parts, and reconciling.

Synthetic parts of 64 rows each in a folder, a tenth as many in the real S3 server: the ledger is read with a
snapshot and without. Then a destination of plain names whose stems are small files: all of a run's rows are
compared with one listing. `--quick` is a tenth of it all.
"""

from __future__ import annotations

import argparse
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from splitfire_batch.config import OutputConfig, SeparationConfig
from splitfire_batch.identity import settings
from splitfire_batch.manifest.holdings import choose_holding, record_holding
from splitfire_batch.manifest.ledger import read_ledger, write_part
from splitfire_batch.manifest.reconcile import changed_rows, unchecked_rows
from splitfire_batch.manifest.schema import RunContext, to_table
from splitfire_batch.manifest.snapshots import snapshot_paths, write_snapshot
from splitfire_batch.observations import Levels
from splitfire_batch.records import AudioFormat, StemFile, Track, TrackRow
from splitfire_batch.storage import Store, open_store
from splitfire_batch.worker import PART_ROWS
from tests.s3_server import S3Server

N_PARTS, N_STEMS = 10_000, 100_000
STEMS = ("vocals", "accompaniment")


def main(arguments: Sequence[str] = ()) -> None:
    """Print seconds."""
    parser = argparse.ArgumentParser(prog="resume")
    parser.add_argument("--quick", action="store_true", help="a tenth of the parts and stems")
    scale = 10 if parser.parse_args(list(arguments)).quick else 1
    with tempfile.TemporaryDirectory() as folder:
        _measure_ledger("folder", open_store(f"{folder}/ledger", {}), N_PARTS // scale)
        _measure_reconciling(open_store(f"{folder}/plain", {}), N_STEMS // scale)
    with S3Server() as server:
        os.environ.update(server.environment)
        server.make_bucket("bench")
        _measure_ledger("S3", open_store("s3://bench/out", {}), N_PARTS // scale // 10)


def _measure_ledger(kind: str, store: Store, n_parts: int) -> None:
    holding = choose_holding(
        store, settings(SeparationConfig(), OutputConfig(), "w"), is_immutable=True, replace=False
    )
    record_holding(store, holding)
    made = _table(0, holding.settings_id)

    def put(number: int) -> None:
        ids = pa.array([f"{number:08x}{n:08x}" for n in range(PART_ROWS)])
        part = made.set_column(0, "track_id", ids).set_column(1, "source_id", ids)
        write_part(store, part.replace_schema_metadata(made.schema.metadata))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(n_parts)))

    def read() -> None:
        assert len(read_ledger(store, holding.settings_id).done) == n_parts * PART_ROWS

    without = _seconds(read)
    writing = _seconds(lambda: write_snapshot(store, max_loose=0))
    n_bytes = store.stat(snapshot_paths(store)[0]).n_bytes
    print(
        f"{kind}: {n_parts:,} parts, {n_parts * PART_ROWS:,} rows: ledger read in {without:.1f} s without a "
        f"snapshot, {_seconds(read):.1f} s with one ({n_bytes / 2**20:.1f} MiB, written in {writing:.1f} s)"
    )


def _measure_reconciling(store: Store, n_stems: int) -> None:
    rows = []
    for n in range(n_stems // len(STEMS)):
        stems = []
        for stem in STEMS:
            file = Path(store.url, f"m/{n // 1000}/{n}_{stem}.wav")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"123456789")
            path = file.relative_to(store.url).as_posix()
            stems.append(replace(_stem(stem), path=path, etag=store.stat(path).etag))
        rows.append(replace(_row(f"{n:016x}"), stems=tuple(stems)))
    for begin in range(0, len(rows), PART_ROWS):
        write_part(store, to_table(rows[begin : begin + PART_ROWS], _context("plain"), f"{begin}"))
    begin_s = time.monotonic()
    unchecked = unchecked_rows(store, "plain")
    reading_s = time.monotonic() - begin_s
    comparing_s = _seconds(lambda: _assert_none(changed_rows(store, unchecked)))
    print(f"folder: {n_stems:,} stems compared in {comparing_s:.1f} s; their rows read in {reading_s:.1f} s")


def _assert_none(rows: pa.Table) -> None:
    assert len(rows) == 0


def _table(number: int, settings_id: str) -> pa.Table:
    return to_table([_row(f"{number:08x}{n:08x}") for n in range(PART_ROWS)], _context(settings_id), "shard")


def _context(settings_id: str) -> RunContext:
    return RunContext("20260101T000000000Z-000000", settings_id, "/in", "spleeter-2stems", "w", "fp32")


def _row(track_id: str) -> TrackRow:
    target = f"spleeter-2stems/artist/album/{track_id}_{{stem}}.{{ext}}"
    track = Track(
        track_id, track_id, f"/in/artist/album/{track_id}.wav", f"artist/album/{track_id}.wav", 9, "e", target
    )
    made = tuple(_stem(stem) for stem in STEMS)
    source = AudioFormat("WAV", "PCM_24", 48_000, 2, 96_000)
    return TrackRow(track, "done", source=source, levels=Levels(), stems=made, finished_at=1e9)


def _stem(name: str) -> StemFile:
    digest = secrets.token_hex(32)
    return StemFile(name, f"m/{name}", "WAV", "PCM_24", 48_000, 2, 96_000, 9, digest, digest[:32])


def _seconds(work: Callable[[], object]) -> float:
    begin = time.monotonic()
    work()
    return time.monotonic() - begin
