"""Vacuum removes what no row names and is certainly ours, and never anything else."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.vacuum import parse_age
from splitfire_batch.config import OutputConfig
from splitfire_batch.errors import ConfigError, LeaseLost
from splitfire_batch.lease import hold, unheld
from splitfire_batch.manifest.ledger import write_part
from splitfire_batch.manifest.snapshots import snapshot_paths, write_snapshot
from splitfire_batch.records import TrackRow
from splitfire_batch.runs import new_run_id
from splitfire_batch.storage import Store, open_store
from splitfire_batch.storage.leftovers import list_leftovers, try_leftovers
from splitfire_batch.vacuum import Vacuumed, vacuum
from tests.small_library import run_main
from tests.test_job import check_stems, make_job, run, tone, view
from tests.test_manifest import row, stem, table
from tests.test_snapshots import recorded


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A destination of either kind."""
    url = request.getfixturevalue("bucket") + "/out" if request.param == "s3" else str(tmp_path / "out")
    return open_store(url, {})


def clean(store: Store, older_than_s: float = 0.0, is_dry: bool = False) -> Vacuumed:
    return vacuum(store, unheld(), older_than_s, is_dry)


def all_paths(store: Store) -> set[str]:
    return {found.path for found in store.list()}


def hashed(data: bytes, ext: str = "wav") -> str:
    """An immutable name."""
    return f"m/d/x_vocals-{hashlib.sha256(data).hexdigest()[:16]}.{ext}"


def done(store: Store, track: str, paths: dict[str, bytes]) -> TrackRow:
    """A row whose stems are there."""
    for path, data in paths.items():
        store.write(path, data)
    stems = [replace(stem("vocals"), path=path, n_bytes=len(data)) for path, data in paths.items()]
    return replace(row(track, track), stems=tuple(stems))


def test_stems_that_rows_name_stay_and_others_of_ours_go(store):
    settings_id = recorded(store)[0]
    new, old, orphan = hashed(b"new"), hashed(b"old"), hashed(b"orphan", "flac")
    write_part(store, table(done(store, "t", {old: b"old"}), settings_id=settings_id, run_id="run1"))
    write_part(store, table(done(store, "t", {new: b"new"}), settings_id=settings_id, run_id="run2"))
    foreign = {
        "m/d/mine_vocals.wav": b"by hand",
        "readme.txt": b"x",
        hashed(b"as it was"): b"and was changed",
        hashed(b"no audio", "txt"): b"no audio",
    }
    for path, data in {orphan: b"orphan", **foreign}.items():
        store.write(path, data)
    before = all_paths(store)
    dry = clean(store, is_dry=True)
    assert all_paths(store) == before
    found = clean(store)
    assert {item.path for item in found.garbage} == {item.path for item in dry.garbage} == {old, orphan}
    assert before - all_paths(store) == {old, orphan}
    assert (found.n_named, found.n_young, found.n_foreign) == (1, 0, len(foreign))
    assert clean(store).garbage == ()


def test_the_last_stems_of_a_track_stay_when_it_failed_since(store):
    settings_id = recorded(store)[0]
    kept, gone, archived = hashed(b"kept"), hashed(b"gone"), hashed(b"archived")
    for track, path in (("t", kept), ("u", gone), ("v", archived)):
        write_part(
            store,
            table(done(store, track, {path: path.encode()}), settings_id=settings_id, run_id="run1"),
        )
    later = [
        row("t", "t2", code="SOURCE_DENIED"),
        row("u", code="STEMS_CHANGED"),  # this one takes the row back
        replace(row("v", "v2"), status="skipped", code="ARCHIVED", stems=()),
    ]
    write_part(store, table(*later, settings_id=settings_id, run_id="run2"))
    assert [item.path for item in clean(store, is_dry=True).garbage] == [gone]


def test_stems_that_are_still_to_be_replaced_stay(tmp_path):
    for name, frequency in (("a", 220), ("b", 330)):
        tone(tmp_path / f"in/{name}.wav", frequency)
    out = tmp_path / "out"
    run(make_job(tmp_path / "in", out))
    flac = make_job(tmp_path / "in", out, output=OutputConfig(format="flac"), replace=True)
    run(replace(flac, catalogue=replace(flac.catalogue, limit=1)))
    assert {path.suffix for path in out.rglob("a_*")} == {".wav", ".flac"}
    found = clean(open_store(str(out), {}))
    assert sorted(Path(item.path).name[:2] for item in found.garbage) == ["a_", "a_"]
    assert {path.suffix for path in out.rglob("b_*")} == {".wav"}


def test_only_what_is_old_by_the_stores_own_clock_goes(store, monkeypatch):
    settings_id = recorded(store)[0]
    write_part(store, table(done(store, "t", {hashed(b"t"): b"t"}), settings_id=settings_id))
    store.write(hashed(b"orphan"), b"orphan")
    true_time = time.time
    for skew_s in (-3600.0, 3600.0):
        monkeypatch.setattr(time, "time", lambda skew_s=skew_s: true_time() + skew_s)
        found = clean(store, older_than_s=1800)
        assert (found.garbage, found.n_young) == ((), 1)
    if store.is_local:
        os.utime(Path(store.url) / hashed(b"orphan"), (true_time() - 2000,) * 2)
        assert len(clean(store, older_than_s=1800).garbage) == 1


def test_a_stem_that_is_recorded_while_we_look_stays(store, monkeypatch):
    settings_id = recorded(store)[0]
    write_part(store, table(done(store, "t", {hashed(b"t"): b"t"}), settings_id=settings_id))
    late = done(store, "late", {hashed(b"late"): b"late"})
    true_list = store.list

    def list_and_commit(*arguments: Any) -> Any:
        yield from true_list(*arguments)
        write_part(store, table(late, settings_id=settings_id, run_id="later"))

    monkeypatch.setattr(store, "list", list_and_commit)
    assert clean(store).garbage == ()


@pytest.mark.parametrize("how", ["written again", "named by a new part"])
def test_a_stem_that_comes_to_count_before_it_is_removed_stays(store, monkeypatch, how):
    """As by a run without a lease, which makes the same bytes under the same name, while we hash others."""
    settings_id = recorded(store)[0]
    write_part(store, table(done(store, "t", {hashed(b"t"): b"t"}), settings_id=settings_id))
    again = done(store, "again", {hashed(b"again"): b"again"})
    store.write(hashed(b"orphan"), b"orphan")
    if how == "written again" and not store.is_local:
        time.sleep(1.1)  # an object's own answer tells whole seconds

    def rival(*arguments: Any) -> Any:
        if how == "written again":
            done(store, "again", {hashed(b"again"): b"again"})
        else:
            write_part(store, table(again, settings_id=settings_id, run_id="rival"))
        return try_leftovers(*arguments)

    monkeypatch.setattr("splitfire_batch.vacuum.try_leftovers", rival)
    found = clean(store)
    assert [item.path for item in found.garbage] == [hashed(b"orphan")]
    assert (found.n_young, store.exists(hashed(b"again"))) == (1, True)
    assert not store.exists(hashed(b"orphan"))


def test_our_own_leftovers_go(store):
    settings_id = recorded(store)[0]
    for n in range(4):
        write_part(store, table(done(store, f"t{n}", {hashed(b"t"): b"t"}), settings_id=settings_id))
        write_snapshot(store, max_loose=0)
    snapshots = snapshot_paths(store)
    probes = ["_splitfire/doctor-00ff00ff", "_splitfire/doctor-00ff00fe/list/1"]
    for path in [*probes, "_splitfire/doctor-mine"]:
        store.write(path, b"one")
    if store.is_local:
        temporary = Path(store.url) / "m/d/.splitfire-0011223344556677.tmp"
        temporary.write_bytes(b"half")
        (Path(store.url) / "m/d/.splitfire-mine").write_bytes(b"mine")
    found = clean(store)
    kinds = {
        kind: [item.path for item in found.garbage if item.kind == kind] for kind in ("snapshot", "probe")
    }
    assert kinds == {"snapshot": sorted(snapshots[2:]), "probe": sorted(probes)}
    assert snapshot_paths(store) == snapshots[:2]
    if store.is_local:
        assert not temporary.exists()
        assert (Path(store.url) / "m/d/.splitfire-mine").exists()


def test_uploads_that_nobody_completes_go_after_a_day(bucket, monkeypatch):
    store = open_store(f"{bucket}/out", {})
    settings_id = recorded(store)[0]
    write_part(store, table(done(store, "t", {hashed(b"t"): b"t"}), settings_id=settings_id))
    name = bucket.removeprefix("s3://")
    ours = sorted([hashed(b"never completed"), hashed(b"t"), "_splitfire/parts/x.parquet"])
    strangers = "backups/whole.tar"
    for key in ("elsewhere/m/dead.wav", f"out/{strangers}", *(f"out/{path}" for path in ours)):
        store._backend._fs.call_s3("create_multipart_upload", Bucket=name, Key=key)  # type: ignore[union-attr]
    assert sorted(left.path for left in list_leftovers(store)) == sorted([*ours, strangers])
    assert clean(store).garbage == ()
    monkeypatch.setattr("splitfire_batch.vacuum._UPLOAD_S", 0.0)
    found = clean(store)
    assert [(item.kind, item.path) for item in found.garbage] == [("upload", path) for path in ours]
    assert found.n_foreign == 1
    assert [left.path for left in list_leftovers(store)] == [strangers]
    assert [left.path for left in list_leftovers(open_store(f"{bucket}/elsewhere", {}))] == ["m/dead.wav"]


@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [(403, "AccessDenied", "s3:ListBucketMultipartUploads"), (501, "NotImplemented", "lifecycle rule")],
)
def test_a_store_that_does_not_show_uploads_is_cleaned_of_the_rest(
    status, code, remedy, bucket, main, monkeypatch
):
    store = open_store(f"{bucket}/out", {})
    settings_id = recorded(store)[0]
    write_part(store, table(done(store, "t", {hashed(b"t"): b"t"}), settings_id=settings_id))
    store.write(hashed(b"orphan"), b"orphan")
    files = type(store._backend._fs)  # type: ignore[union-attr]
    true_call = files.call_s3

    def call_s3(self, method, *arguments, **named):
        if method == "list_multipart_uploads":
            answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise ClientError(answer, method)
        return true_call(self, method, *arguments, **named)

    monkeypatch.setattr(files, "call_s3", call_s3)
    exit_code, listed, _ = main("vacuum", store.url, "--older-than", "0")
    assert exit_code == 0
    assert "1 objects" in listed
    assert "never completed are not seen" in listed
    assert remedy in listed
    found = clean(store)
    assert [(item.kind, item.path) for item in found.garbage] == [("stem", hashed(b"orphan"))]
    assert code in found.as_dict()["remark"]
    assert not store.exists(hashed(b"orphan"))


@pytest.mark.parametrize("harm", ["no parts", "a run's parts", "a damaged part"])
def test_it_refuses_when_it_cannot_know_what_is_named(tmp_path, harm):
    for name in ("a", "b"):
        tone(tmp_path / f"in/{name}.wav", 220)
        run(make_job(tmp_path / "in", tmp_path / "out"))
    store = open_store(str(tmp_path / "out"), {})
    parts = sorted(found.path for found in store.list_under("_splitfire/parts"))
    if harm == "a damaged part":
        store.write(parts[0], b"x")
    for path in {"no parts": parts, "a run's parts": parts[:1], "a damaged part": []}[harm]:
        store.delete(path)
    before = all_paths(store)
    with pytest.raises(ConfigError):
        clean(store)
    assert all_paths(store) == before


def test_it_refuses_when_some_parts_of_a_run_are_gone(tmp_path):
    tone(tmp_path / "in/a.wav", 220)
    report = run(make_job(tmp_path / "in", tmp_path / "out"))
    store = open_store(str(tmp_path / "out"), {})
    record = f"_splitfire/runs/{report.run_id}/run.json"
    told = json.loads(store.read(record))
    store.write(record, json.dumps({**told, "n_failed": 1}).encode())  # as if a second part had been there
    with pytest.raises(ConfigError, match=f"run {report.run_id} ended with rows of 2 tracks, found 1"):
        clean(store)
    check_stems(tmp_path / "out", 1)
    store.delete(record)  # as the message says
    assert clean(store).garbage == ()


def test_settings_without_a_record_keep_their_stems(store):
    write_part(store, table(done(store, "t", {hashed(b"t"): b"t"}), settings_id="unrecorded"))
    assert clean(store).garbage == ()


def test_a_stem_of_the_container_before_goes_when_the_settings_were_replaced(tmp_path):
    tone(tmp_path / "in/a.wav", 220)
    out = tmp_path / "out"
    run(make_job(tmp_path / "in", out))
    mine = out / "passthrough/a_mine.wav"
    mine.write_bytes(b"by hand")
    run(make_job(tmp_path / "in", out, output=OutputConfig(format="flac"), replace=True))
    wavs = {path for path in out.rglob("*.wav") if path != mine}
    assert wavs
    found = clean(open_store(str(out), {}))
    assert {out / item.path for item in found.garbage} == wavs
    assert mine.exists()
    check_stems(out, 1)
    assert run(make_job(tmp_path / "in", out, output=OutputConfig(format="flac"))).n_planned == 0


def test_a_destination_inside_another_keeps_its_stems(store):
    settings_id = recorded(store)[0]
    write_part(store, table(done(store, "t", {hashed(b"t"): b"t"}), settings_id=settings_id))
    inner = open_store(f"{store.url}/albums/inner", {})
    for where in (store, inner):
        where.write(f"albums/{hashed(b'orphan')}", b"orphan")
    write_part(inner, table(done(inner, "u", {hashed(b"u"): b"u"}), settings_id=recorded(inner)[0]))
    if store.is_local:
        (Path(inner.url) / ".splitfire-0011223344556677.tmp").write_bytes(b"half")
    assert [item.path for item in clean(store).garbage] == [f"albums/{hashed(b'orphan')}"]
    if store.is_local:
        (Path(inner.url) / ".splitfire-0011223344556677.tmp").unlink()
    assert [item.path for item in clean(inner).garbage] == [f"albums/{hashed(b'orphan')}"]


def test_a_lost_lease_ends_it_before_it_removes(store):
    settings_id = recorded(store)[0]
    write_part(store, table(done(store, "t", {hashed(b"t"): b"t"}), settings_id=settings_id))
    store.write(hashed(b"orphan"), b"orphan")
    lease = unheld()
    lease.is_lost.set()
    with pytest.raises(LeaseLost):
        vacuum(store, lease, 0.0, is_dry=False)
    assert store.exists(hashed(b"orphan"))


TRACKS = st.lists(
    st.tuples(
        st.integers(0, 3),  # track
        st.integers(0, 2),  # run
        st.integers(0, 1),  # settings
        st.booleans(),  # done
        st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=3),  # content; immutable name
    ),
    max_size=12,
)
OTHERS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["orphan", "foreign", "plain"])), max_size=6)


@given(TRACKS, OTHERS)
@settings(max_examples=20, deadline=None)
def test_whatever_lies_there_what_counts_stays_and_what_is_foreign_too(tracks, others):
    store = open_store(f"memory://vacuum-{secrets.token_hex(8)}", {})
    ids = recorded(store)
    write_part(store, table(row("base", "base", code="EMPTY"), settings_id=ids[0]))
    newest: dict[tuple[int, int], tuple[int, set[str]]] = {}
    ever: set[str] = set()
    for at, (track, run_number, settings_number, is_done, contents) in enumerate(tracks):
        paths = {}
        for content, is_immutable in contents:
            data = str(content).encode()
            paths[hashed(data) if is_immutable else f"m/{track}_{content}.wav"] = data
        made = done(store, f"t{track}", paths) if is_done else row(f"t{track}", code="OOM")
        made = replace(made, finished_at=1e9 + at)
        write_part(store, table(made, settings_id=ids[settings_number], run_id=f"run{run_number}"))
        ever |= set(paths) if is_done else set()
        # an independent `latest`: of the newest run with a done row the earliest one
        key = (track, settings_number)
        if is_done and (key not in newest or run_number > newest[key][0]):
            newest[key] = run_number, set(paths)
    foreign = set()
    for content, kind in others:
        data = f"other {content}".encode()
        path = {
            "orphan": hashed(data),
            "foreign": hashed(data).replace(".wav", ".txt"),
            "plain": f"m/by hand_{content}.wav",
        }[kind]
        store.write(path, data)
        foreign |= {path} if kind != "orphan" else set()
    named = set().union(*(paths for _, paths in newest.values()))
    clean(store)
    left = {path for path in all_paths(store) if not path.startswith("_splitfire/")}
    assert left == named | foreign
    assert clean(store).garbage == ()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7d", 604_800), ("0", 0), ("1", 86_400), ("90m", 5400), ("1.5h", 5400), ("2w", 1_209_600)],
)
def test_an_age_has_a_unit(text, seconds):
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "7 days", "-1d", "d", "1e3"])
def test_another_age_is_refused(text):
    with pytest.raises(ConfigError, match="--older-than"):
        parse_age(text)


@pytest.fixture
def main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Any]:
    """The command line in this process."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return lambda *args: run_main(monkeypatch, capsys, *args)


def test_the_command_lists_and_removes_only_when_told(main, tmp_path):
    tone(tmp_path / "in/a.wav", 220)
    out = tmp_path / "out"
    run(make_job(tmp_path / "in", out, output=OutputConfig(names="immutable")))
    tone(tmp_path / "in/a.wav", 330)
    run(make_job(tmp_path / "in", out, output=OutputConfig(names="immutable")))
    code, listed, _ = main("vacuum", out, "--older-than", "0")
    assert code == 0
    assert "2 objects" in listed
    assert "add --delete" in listed
    code, as_json, _ = main("vacuum", out, "--older-than", "0", "--delete", "--json")
    record = json.loads(as_json)
    assert (code, record["n_garbage"], record["is_deleted"]) == (0, 2, True)
    check_stems(out, 1)
    _, after, _ = main("vacuum", out)
    assert "nothing to remove" in after
    assert len(view(out)) == 1


def test_the_command_is_refused_while_a_run_holds_the_destination(main, tmp_path):
    tone(tmp_path / "in/a.wav", 220)
    run(make_job(tmp_path / "in", tmp_path / "out"))
    with hold(open_store(str(tmp_path / "out"), {}), new_run_id()) as lease:
        code, out, err = main("vacuum", tmp_path / "out")
    assert (code, out) == (75, "")
    assert lease.run_id in err


def test_a_destination_that_is_not_there_is_named(main, tmp_path):
    code, _, err = main("vacuum", tmp_path / "gone")
    assert code == 2
    assert "gone" in err
    assert not (tmp_path / "gone").exists()
