"""The manifest: parts are the truth, rows resolve to one per track, and others can read it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from splitfire_batch.config import OutputConfig, SeparationConfig
from splitfire_batch.errors import ConfigError, TransientError
from splitfire_batch.identity import settings
from splitfire_batch.manifest.holdings import choose_holding, record_holding
from splitfire_batch.manifest.ledger import (
    current_rows,
    latest,
    read_ledger,
    read_parts,
    refresh_views,
    write_part,
)
from splitfire_batch.manifest.parts import KEYS, part_paths, read_each, read_latest, schema_of, whole_rows
from splitfire_batch.manifest.schema import (
    SCHEMA,
    SCHEMA_VERSION,
    STEM,
    RunContext,
    parquet_bytes,
    parquet_source,
    to_table,
)
from splitfire_batch.observations import Levels
from splitfire_batch.records import AudioFormat, StageSeconds, StemFile, Track, TrackRow
from splitfire_batch.storage import Store, open_store

A = settings(SeparationConfig(), OutputConfig(), "w")
B = settings(SeparationConfig(short_clip="reference"), OutputConfig(), "w")
LEVELS = Levels(peak_db=None, rms_db=-3.0, loudness_lufs=-7.5, clipped_samples=3, side_ratio=0.25)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"), {})


def stem(name: str) -> StemFile:
    return StemFile(name, f"m/x_{name}.wav", "WAV", "PCM_24", 48_000, 2, 96_000, 9, "ab", "cd", LEVELS, -6.0)


def row(track: str = "t", source: str = "s", at: float = 1e9, code: str | None = None) -> TrackRow:
    """A row that finished `at`; failed if it has a code."""
    made = () if code else (stem("vocals"), stem("accompaniment"))
    return TrackRow(
        track=Track(
            track, source, "/in/ü.wav", f"{track}.wav", 9, "e", "x", meta=(("title", "T"), ("n", "1"))
        ),
        status="failed" if code else "done",
        code=code,
        message="why" if code else None,
        warnings=("w1", "w2"),
        content_id="c",
        source=AudioFormat("WAV", "PCM_24", 48_000, 2, 96_000),
        levels=None if code else LEVELS,
        pcm_md5=None if code else "md5",
        qc_flags=() if code else ("dc",),
        gain_db=-0.5,
        stems=made,
        seconds=StageSeconds(1, 2, 3, 4, 5),
        started_at=at - 1.5,
        finished_at=at,
    )


def context(settings_id: str = "id", run_id: str = "run") -> RunContext:
    return RunContext(run_id, settings_id, "/in", "spleeter-2stems", "w", "fp32", "cpu/fp32/batch1", "cpu")


def table(*rows: TrackRow, settings_id: str = "id", run_id: str = "run") -> pa.Table:
    return to_table(rows, context(settings_id, run_id), "shard")


def held(store: Store, values: dict[str, object], replace: bool = False) -> str:
    holding = choose_holding(store, values, is_immutable=False, replace=replace)
    record_holding(store, holding)
    return holding.settings_id


def test_rows_come_back_from_a_part_as_they_were(store):
    written = table(row(), row("u", code="EMPTY"))
    write_part(store, written)
    assert read_parts(store).to_pylist() == written.to_pylist()
    done, failed = read_parts(store).to_pylist()
    assert [item["stem"] for item in done["stems"]] == ["vocals", "accompaniment"]
    wanted = {**asdict(stem("vocals")), **asdict(LEVELS)}
    del wanted["levels"]
    wanted["preserved_chunks"] = list(wanted["preserved_chunks"])
    assert done["stems"][0] == wanted
    assert {name: done[name] for name in Levels.__slots__} == asdict(LEVELS)
    assert (done["pcm_md5"], done["qc_flags"]) == ("md5", ["dc"])
    assert (failed["rms_db"], failed["pcm_md5"], failed["qc_flags"]) == (None, None, [])
    assert done["duration_s"] == 2.0
    assert done["meta"] == [("title", "T"), ("n", "1")]
    assert done["finished_at"].timestamp() == 1e9
    assert (done["is_retryable"], failed["is_retryable"]) == (None, False)
    assert (done["fetch_s"], done["store_s"]) == (1.0, 5.0)
    assert (done["numerics"], done["shard_id"]) == ("cpu/fp32/batch1", "shard")


def test_every_file_carries_the_schema_and_its_version(store):
    path = write_part(store, table(row(), settings_id=held(store, A)))
    refresh_views(store, "run")
    for name in (path, "_splitfire/views/tracks.parquet", "_splitfire/views/stems.parquet"):
        schema = pq.read_schema(io.BytesIO(store.read(name)))
        assert schema.metadata[b"splitfire.schema"] == SCHEMA_VERSION.encode(), name
    assert pq.read_schema(io.BytesIO(store.read(path))).equals(SCHEMA)


def test_a_parts_name_ends_in_the_hash_of_its_bytes(store):
    path = write_part(store, table(row()))
    digest = hashlib.sha256(store.read(path)).hexdigest()[:16]
    assert path == f"_splitfire/parts/id/run/shard-{digest}.parquet"
    assert write_part(store, table(row())) == path  # the same rows again are the same part


def test_parts_can_be_read_by_settings_and_by_run(store):
    for settings_id, run_id in (("a", "1"), ("a", "2"), ("b", "1")):
        write_part(store, to_table([row()], context(settings_id, run_id), "x"))
    assert [len(read_parts(store, *key)) for key in ((), ("a",), ("a", "2"), ("c",))] == [3, 2, 1, 0]
    assert read_parts(store, columns=["status"]).column_names == ["status"]


def test_within_a_run_done_beats_failed_and_the_earliest_done_counts():
    rows = [row(at=1, code="OOM"), row(at=5), row(at=3), row(at=9, code="INTERNAL")]
    for order in (rows, rows[::-1]):
        (found,) = latest(table(*order)).to_pylist()
        assert (found["status"], found["finished_at"].timestamp()) == ("done", 3)


def test_among_failed_rows_the_latest_counts():
    rows = [row(at=1, code="SOURCE_READ"), row(at=5, code="CORRUPT_DATA")]
    for order in (rows, rows[::-1]):
        assert latest(table(*order))["code"].to_pylist() == ["CORRUPT_DATA"]


def test_each_track_and_each_settings_keeps_a_row_of_its_own():
    both = pa.concat_tables([table(row(), row("t2")), table(row(), settings_id="other")])
    assert len(latest(both)) == 3


def test_the_newest_run_says_what_a_track_is():
    old = table(row(at=1), run_id="20260101T000000Z-ffffff")
    newer_failed = table(row(source="s2", at=5, code="OOM"), run_id="20260102T000000Z-000000")
    newest = table(row(source="s2", at=7), run_id="20260103T000000Z-000000")
    (found,) = latest(pa.concat_tables([newer_failed, old])).to_pylist()
    assert (found["source_id"], found["status"]) == ("s2", "failed")
    (found,) = latest(pa.concat_tables([newest, old, newer_failed])).to_pylist()
    assert (found["source_id"], found["status"]) == ("s2", "done")


def test_an_object_that_came_back_is_not_done_by_its_first_row(store):
    settings_id = held(store, A)
    write_part(store, table(row(source="first"), settings_id=settings_id, run_id="1"))
    write_part(store, table(row(source="second"), settings_id=settings_id, run_id="2"))
    assert read_ledger(store, settings_id).done.to_pylist() == ["second"]


def test_a_track_that_failed_for_good_after_a_passing_failure_stands(store):
    settings_id = held(store, A)
    write_part(store, table(row(code="SOURCE_READ"), settings_id=settings_id, run_id="1"))
    write_part(store, table(row(code="WORKER_CRASH"), settings_id=settings_id, run_id="2"))
    assert read_ledger(store, settings_id).failed.to_pylist() == ["s"]


def test_rows_that_count_are_read_narrow_and_some_of_them_whole(store):
    rows = [row(f"t{n}", f"s{n}", code="OOM" if n % 2 else None) for n in range(6)]
    for n in range(0, 6, 2):
        write_part(store, table(*rows[n : n + 2]))
    write_part(store, table(row("t1", "s1", at=2e9)))  # done after all
    older = table(row("old", "old"))
    stems = pa.array([[{"stem": "vocals", "path": "m/old"}]])
    write_part(store, older.set_column(older.schema.get_field_index("stems"), "stems", stems))
    paths, wanted = part_paths(store), schema_of((*KEYS, "stems"), ("path", "etag"))
    found = read_latest(store, paths, wanted)
    assert found.schema.names == [*KEYS, "stems", "part"]
    names = {item["track_id"]: [stem["path"] for stem in item["stems"]] for item in found.to_pylist()}
    both = ["m/x_vocals.wav", "m/x_accompaniment.wav"]
    assert names == {"t0": both, "t1": both, "t2": both, "t3": [], "t4": both, "t5": [], "old": ["m/old"]}
    failed = whole_rows(store, paths, found.filter(pc.equal(found["status"], "failed")))
    assert failed.schema.equals(SCHEMA)
    assert sorted(failed.to_pylist(), key=str) == sorted(table(rows[3], rows[5]).to_pylist(), key=str)
    assert len(read_latest(store, [], wanted)) == len(whole_rows(store, [], found.slice(0, 0))) == 0


def test_no_rows_resolve_to_no_rows(store):
    assert len(latest(read_parts(store))) == 0
    assert len(current_rows(store)) == 0


def test_the_ledger_holds_what_is_done_and_failures_that_stand_and_names_taken(store):
    first, other = held(store, A), "other"
    rows = [row("d", "done"), row("s", "stands", code="EMPTY"), row("a", "again", code="OOM")]
    rows.append(replace(row("n", "skipped", code="NO_VOCALS"), status="skipped"))
    write_part(store, table(*rows, settings_id=first))
    write_part(store, table(row("b", "both", code="EMPTY"), row("b", "both"), settings_id=first))
    write_part(store, table(row("e", "elsewhere"), settings_id=other))
    ledger = read_ledger(store, first)
    assert sorted(ledger.done.to_pylist()) == ["both", "done"]
    assert ledger.failed.to_pylist() == ["stands"]
    assert ledger.skipped.to_pylist() == ["skipped"]
    assert sorted(ledger.targets.to_pylist(), key=str) == [
        {"track_id": "b", "target": "x"},
        {"track_id": "d", "target": "x"},
    ]
    assert len(read_ledger(store, "nothing").done) == 0


def test_a_part_of_an_older_version_is_read_with_nulls_for_what_it_lacks(store):
    old = table(row()).drop_columns(["meta", "stems", "sum_residual_db", "numerics", "finished_at"])
    old = old.append_column("forgotten", pa.array([1]))
    write_part(store, old.set_column(0, "track_id", pa.array(["old"])))
    write_part(store, table(row("new")))
    found = {item["track_id"]: item for item in read_parts(store).to_pylist()}
    assert (found["old"]["stems"], found["old"]["numerics"], found["old"]["path"]) == (None, None, "t.wav")
    assert found["new"] == table(row("new")).to_pylist()[0]
    assert len(latest(read_parts(store))) == 2


def test_stems_of_an_older_version_are_read_with_nulls_for_what_was_not_measured(store):
    measured = [field.name for field in dataclasses.fields(Levels) if field.name not in ("peak_db", "rms_db")]
    lacking = {*measured, "energy_share_db", "is_silent"}
    fields = [field for field in STEM if field.name not in lacking]
    stems = pa.list_(pa.struct(fields))
    new = table(row())
    old = [[{f.name: item[f.name] for f in fields} for item in new["stems"][0].as_py()]]
    at = SCHEMA.get_field_index("stems")
    write_part(store, new.set_column(at, "stems", pa.array(old, stems)))
    (found,) = read_parts(store).to_pylist()
    wanted = {**new["stems"][0].as_py()[0], **dict.fromkeys(lacking)}
    assert found["stems"][0] == wanted


@pytest.mark.parametrize("damage", ["empty", "half", "no footer", "no parquet", "one bit"])
def test_a_damaged_part_is_refused_by_its_name(store, damage):
    path = write_part(store, table(*(row(f"t{i}") for i in range(50))))
    data = store.read(path)
    middle = len(data) // 3
    damaged = {
        "empty": b"",
        "half": data[: len(data) // 2],
        "no footer": data[:-12],
        "no parquet": b"x" * len(data),
        "one bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
    }[damage]
    store.write(path, damaged)
    with pytest.raises(ConfigError, match=f"{path} .*; move it away"):
        read_parts(store)


def test_views_hold_the_latest_rows_and_their_json_the_hashes(store):
    settings_id = held(store, A)
    write_part(store, table(row("a"), row("b", "s2"), row("c", "s3", code="EMPTY"), settings_id=settings_id))
    write_part(store, table(row("b", "s4", at=2e9), settings_id=settings_id, run_id="run2"))
    refresh_views(store, "run9")
    view = json.loads(store.read("_splitfire/views/view.json"))
    assert (view["run_id"], view["n_tracks"]) == ("run9", 3)
    for name, digest in view["sha256"].items():
        assert hashlib.sha256(store.read(f"_splitfire/views/{name}")).hexdigest() == digest
    tracks = pq.read_table(io.BytesIO(store.read("_splitfire/views/tracks.parquet"))).to_pylist()
    assert [(item["track_id"], item["source_id"]) for item in tracks] == [
        ("a", "s"),
        ("b", "s4"),
        ("c", "s3"),
    ]
    stems = pq.read_table(io.BytesIO(store.read("_splitfire/views/stems.parquet"))).to_pylist()
    assert [(item["track_id"], item["path"], item["stem"]) for item in stems] == [
        (track, f"{track}.wav", name) for track in "ab" for name in ("vocals", "accompaniment")
    ]
    assert stems[0]["stem_path"] == "m/x_vocals.wav"


def test_rows_whose_stems_were_replaced_are_not_current_and_not_done(store):
    first = held(store, A)
    write_part(store, table(row(), settings_id=first))
    second = held(store, B, replace=True)
    assert len(current_rows(store)) == 0
    write_part(store, table(row(), settings_id=second))
    assert current_rows(store)["settings_id"].to_pylist() == [second]
    back = held(store, A, replace=True)
    assert len(read_ledger(store, back).done) == 0


def test_a_destination_without_parts_gets_no_views(store):
    refresh_views(store, "run")
    assert not list(store.list())


def test_views_are_made_again_when_the_parts_are_others_and_only_then(store):
    settings_id = held(store, A)
    write_part(store, table(row("a"), settings_id=settings_id))
    refresh_views(store, "run1")
    refresh_views(store, "run2")
    assert json.loads(store.read("_splitfire/views/view.json"))["run_id"] == "run1"
    write_part(store, table(row("b", "s2"), settings_id=settings_id))
    refresh_views(store, "run3")
    view = json.loads(store.read("_splitfire/views/view.json"))
    assert (view["run_id"], view["n_tracks"]) == ("run3", 2)


def check_views(store: Store) -> None:
    """Both tables are the ones that view.json names."""
    for name, digest in json.loads(store.read("_splitfire/views/view.json"))["sha256"].items():
        assert hashlib.sha256(store.read(f"_splitfire/views/{name}")).hexdigest() == digest, name


@pytest.mark.parametrize("name", ["tracks.parquet", "stems.parquet"])
def test_a_view_that_a_late_rival_wrote_over_is_made_again(store, name):
    settings_id = held(store, A)
    write_part(store, table(row("a"), settings_id=settings_id))
    refresh_views(store, "first")
    late = store.read(f"_splitfire/views/{name}")
    write_part(store, table(row("b", "s2"), settings_id=settings_id))
    refresh_views(store, "second")
    store.write(f"_splitfire/views/{name}", late)
    refresh_views(store, "third")
    check_views(store)


def test_a_rival_that_writes_between_ours_is_noticed_by_the_very_run(store, monkeypatch):
    """It knew all the same parts, so that only the tables tell."""
    settings_id = held(store, A)
    write_part(store, table(row("a"), settings_id=settings_id))
    refresh_views(store, "first")
    theirs = store.read("_splitfire/views/tracks.parquet")
    write_part(store, table(row("b", "s2"), settings_id=settings_id))
    true_write, written = store.write, []

    def write(path: str, data: bytes) -> None:
        true_write(path, data)
        written.append(path)
        if path.endswith("stems.parquet") and len(written) == 2:
            true_write("_splitfire/views/tracks.parquet", theirs)

    monkeypatch.setattr(store, "write", write)
    refresh_views(store, "ours")
    check_views(store)
    assert json.loads(store.read("_splitfire/views/view.json"))["n_tracks"] == 2


def test_views_that_rivals_never_leave_alone_are_given_up_for_the_next_run(store, monkeypatch, caplog):
    write_part(store, table(row("a"), settings_id=held(store, A)))
    true_write = store.write

    def write(path: str, data: bytes) -> None:
        true_write(path, data)
        if path.endswith("view.json"):
            true_write("_splitfire/views/stems.parquet", b"theirs")

    monkeypatch.setattr(store, "write", write)
    refresh_views(store, "ours")
    assert "views_contended" in caplog.text
    monkeypatch.undo()
    refresh_views(store, "next")
    check_views(store)


def test_duckdb_reads_parts_and_views_with_one_statement(store):
    settings_id = held(store, A)
    write_part(store, table(row("a"), row("b", "s2"), settings_id=settings_id))
    write_part(store, table(row("c", "s3", code="EMPTY"), settings_id=settings_id))
    refresh_views(store, "run")
    root = f"{store.url}/_splitfire"

    def ask(question: str, *where: str) -> list[tuple[object, ...]]:
        return duckdb.execute(question, [f"{root}/{path}" for path in where]).fetchall()

    parts = "select track_id, s.stem, meta['title'] from (select *, unnest(stems) as s from read_parquet(?))"
    found = sorted(ask(parts, "parts/*/*/*.parquet"))
    assert found == [(track, name, "T") for track in "ab" for name in ("accompaniment", "vocals")]
    tracks = "select status, count(*) from read_parquet(?) group by 1 order by 1"
    assert ask(tracks, "views/tracks.parquet") == [("done", 2), ("failed", 1)]
    assert ask("select count(*) from read_parquet(?)", "views/stems.parquet") == [(4,)]


def test_the_same_table_gives_the_same_bytes():
    assert parquet_bytes(table(row())) == parquet_bytes(table(row()))


def test_a_part_that_was_listed_and_is_not_there_is_worth_another_run(tmp_path):
    path = f"_splitfire/parts/settings/run/shard-{'0' * 16}.parquet"
    with pytest.raises(TransientError, match=rf"{path} was listed and is not there; run again"):
        read_each(open_store(str(tmp_path), {}), [path], schema_of(None))


def test_arrow_is_never_the_last_to_hold_bytes_of_ours():
    """A thread of its own that let go of them while Python ends would abort the process."""
    data = parquet_bytes(table(row()))
    held = sys.getrefcount(data)
    for _ in range(100):
        pq.read_table(parquet_source(data))
        assert sys.getrefcount(data) == held
