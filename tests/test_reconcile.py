"""Plain names: stems that are removed or written over before a run ends are found, and made again."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flows.summary import summary_lines
from splitfire_batch import job as story
from splitfire_batch import runs, stored
from splitfire_batch.errors import LeaseLost
from splitfire_batch.job import Job
from splitfire_batch.lease import PATH, hold
from splitfire_batch.manifest.parts import KEYS
from splitfire_batch.manifest.reconcile import MAX_ASKED, changed_rows, unchecked_rows
from splitfire_batch.manifest.schema import RunContext, to_table
from splitfire_batch.records import StemFile, TrackRow
from splitfire_batch.report import Report
from splitfire_batch.runs import Run
from splitfire_batch.storage import Store, StoredObject, open_store
from tests.test_job import check_stems, here, make_job, run, tone, view
from tests.test_manifest import row, stem

Harm = Callable[[Path], None]


def remove(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def flip(file: Path) -> None:
    """Other bytes of the same size, as a zombie would write: whole, by a rename."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    other = file.with_suffix(".other")
    other.write_bytes(data)
    other.replace(file)


def write_again(file: Path) -> None:
    """The same bytes, as an attempt leaves them whose first answer was lost."""
    other = file.with_suffix(".other")
    other.write_bytes(file.read_bytes())
    other.replace(file)


def planned(job: Job) -> Run:
    made = story.make_plan(job, story.list_tracks(job))
    story.save_plan(made)
    return made


def a_stem(out: Path, name: str = "a") -> Path:
    return sorted((out / "passthrough").glob(f"{name}_*.wav"))[0]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Of two tracks, into a folder."""
    for name, frequency in (("a", 220), ("b", 330)):
        tone(tmp_path / f"in/{name}.wav", frequency)
    return make_job(tmp_path / "in", tmp_path / "out")


def separate_and(job: Job, harm: Harm) -> Report:
    """A run in which a stem is harmed between its commit and the end."""
    made = planned(job)
    tally = story.separate(made, here, lambda _: None)
    harm(a_stem(Path(job.destination)))
    return story.finalise(made, tally)


@pytest.mark.parametrize("harm", [remove, cut, flip])
def test_a_stem_that_was_changed_before_the_run_ended_is_taken_back_and_made_anew(job, harm):
    out = Path(job.destination)
    report = separate_and(job, harm)
    assert (report.n_done, report.n_failed, report.exit_code) == (1, 1, 3)
    assert report.failures_by_code == {"STEMS_CHANGED": 1}
    (failed,) = [row for row in view(out) if row["status"] == "failed"]
    assert (failed["path"], failed["code"], failed["is_retryable"]) == ("a.wav", "STEMS_CHANGED", True)
    assert failed["stems"] == []
    assert "run the job again" in failed["message"]
    again = run(job)
    assert (again.n_planned, again.n_done, again.n_done_before) == (1, 1, 1)
    check_stems(out, 2)
    assert run(job).n_planned == 0


def test_the_same_bytes_written_again_are_no_change(job):
    assert separate_and(job, write_again).n_done == 2


def test_a_track_that_is_taken_back_by_a_run_that_did_not_plan_it_is_told_of(job):
    story.separate(planned(job), here, lambda _: None)  # and killed before it ended
    remove(a_stem(Path(job.destination)))
    tone(Path(job.source) / "c.wav", 440)
    report = run(replace(job, catalogue=replace(job.catalogue, include=("c.wav",))))
    assert (report.n_planned, report.n_done, report.n_failed, report.n_taken_back) == (1, 1, 0, 1)
    assert (report.failures_by_code, report.exit_code) == ({"STEMS_CHANGED": 1}, 3)
    assert "1 others lost stems" in "\n".join(summary_lines(report))
    assert run(job).n_done == 1


@pytest.mark.parametrize("harm", [remove, cut, flip])
def test_a_run_that_was_cut_off_is_checked_by_the_next(job, harm):
    out = Path(job.destination)
    story.separate(planned(job), here, lambda _: None)  # and killed before it ended
    harm(a_stem(out))
    report = run(job)
    assert (report.n_planned, report.n_done, report.n_done_before) == (1, 1, 1)
    check_stems(out, 2)


def test_a_run_that_was_cut_off_is_checked_once(job):
    out = Path(job.destination)
    cut_off = planned(job)
    story.separate(cut_off, here, lambda _: None)
    assert run(job).n_planned == 0
    assert (out / f"_splitfire/runs/{cut_off.context.run_id}/checked.json").is_file()
    a_stem(out).unlink()  # the operator may do as they like with what was delivered
    assert run(job).n_planned == 0


def test_what_is_changed_and_cannot_be_made_again_is_taken_back(job, tmp_path):
    story.separate(planned(job), here, lambda _: None)
    a_stem(tmp_path / "out").unlink()
    (tmp_path / "in/a.wav").unlink()
    report = run(job)
    assert report.n_planned == 0
    rows = {row["path"]: row["code"] for row in view(tmp_path / "out")}
    assert rows == {"a.wav": "STEMS_CHANGED", "b.wav": None}


def test_immutable_names_are_not_compared(job):
    made = planned(job)
    immutable = story.make_plan(job, story.list_tracks(job))
    assert immutable.plan.rows.table().equals(made.plan.rows.table())
    job = make_job(Path(job.source), Path(f"{job.destination}-2"), output=type(job.output)(names="immutable"))
    report = separate_and(job, remove)
    assert (report.n_done, report.n_failed) == (2, 0)
    assert all(stem["etag"] is None for row in view(Path(job.destination)) for stem in row["stems"])


def test_many_stems_are_compared_by_one_listing(tmp_path, monkeypatch):
    store = open_store(str(tmp_path), {})
    rows = []
    for n in range(MAX_ASKED):
        path = f"m/{n}_vocals.wav"
        store.write(path, b"123456789")
        rows.append(_row_with(row(f"t{n}", f"s{n}"), stem("vocals"), path, store.stat(path).etag))
    rows.append(_row_with(row("gone", "gone"), stem("vocals"), "m/gone_vocals.wav", "x"))
    store.write("m/7_vocals.wav", b"12345678")
    asked: list[str] = []
    true_stat = store.stat
    monkeypatch.setattr(store, "stat", lambda path: asked.append(path) or true_stat(path))
    table = to_table(rows, RunContext("run", "id", "/in", "m", "w", "fp32"), "shard")
    assert sorted(changed_rows(store, table)["track_id"].to_pylist()) == ["gone", "t7"]
    assert sorted(asked) == ["m/7_vocals.wav", "m/gone_vocals.wav"]


def _row_with(row: TrackRow, stem: StemFile, path: str, etag: str) -> TrackRow:
    return replace(row, stems=(replace(stem, path=path, n_bytes=9, etag=etag),))


def test_of_a_long_listing_only_a_page_is_in_memory_as_objects(tmp_path, monkeypatch):
    store = open_store(str(tmp_path), {})
    names = [f"m/{n // 100}/{n}_vocals.wav" for n in range(600)]
    rows = [_row_with(row(f"t{n}", f"s{n}"), stem("vocals"), name, "e") for n, name in enumerate(names)]
    asked: list[str] = []
    most = 0

    def list_under(prefix: str) -> Iterator[StoredObject]:
        nonlocal most
        asked.append(prefix)
        yield StoredObject("m/not \udcff UTF-8.wav", 1, "e", 0.0)
        for n, name in enumerate(names):
            yield StoredObject(name, 9, "e", 0.0)
            if n % 100 == 99:
                most = max(most, sum(type(item) is StoredObject for item in gc.get_objects()))

    monkeypatch.setattr(store, "list_under", list_under)
    monkeypatch.setattr(stored, "_PAGE", 20)
    table = to_table(rows, RunContext("run", "id", "/in", "m", "w", "fp32"), "shard")
    assert len(changed_rows(store, table)) == 0
    assert asked == ["m"]
    assert 0 < most <= 3 * 20


def test_rows_are_compared_without_what_it_does_not_need(job):
    made = planned(job)
    story.separate(made, here, lambda _: None)
    rows = unchecked_rows(open_store(job.destination, {}), made.context.settings_id)
    assert set(rows.column_names) == {*KEYS, "source_id", "stems", "part"}
    assert [field.name for field in rows.schema.field("stems").type.value_type] == [
        "path",
        "n_bytes",
        "sha256",
        "etag",
    ]
    assert all(stem["sha256"] and stem["etag"] for row in rows.to_pylist() for stem in row["stems"])


@pytest.mark.parametrize("names", ["plain", "immutable"])
def test_a_worker_whose_run_lost_the_destination_commits_nothing(job, tmp_path, names):
    job = replace(job, output=replace(job.output, names="immutable" if names == "immutable" else "auto"))
    store = open_store(job.destination, {})
    with hold(store, story.make_plan(job, story.list_tracks(job)).context.run_id) as lease:
        made = story.make_plan(job, story.list_tracks(job), lease=lease)
        story.save_plan(made)

        def taken_over(shards, spec):
            assert spec.nonce == lease.nonce
            store.write(PATH, store.read(PATH).replace(lease.nonce.encode(), b"f" * 16))
            return here(shards, spec)

        with pytest.raises(LeaseLost, match="no longer held"):
            story.separate(made, taken_over, lambda _: None)
    assert len(unchecked_rows(store, made.context.settings_id)) == 0
    assert names == "immutable" or not list(tmp_path.glob("out/passthrough/*"))


@pytest.mark.parametrize("when", ["before", "while the weights are fetched"])
def test_a_run_that_lost_its_lease_records_no_settings(job, monkeypatch, when):
    with hold(open_store(job.destination, {}), "20260101T000000000Z-000000") as lease:
        made = story.make_plan(job, story.list_tracks(job), lease=lease)
        fetched = []

        def fetch_weights(*_):
            fetched.append(lease.is_lost.set())

        monkeypatch.setattr(story, "fetch_weights", fetch_weights)
        if when == "before":
            lease.is_lost.set()
        with pytest.raises(LeaseLost):
            story.save_plan(made)
    assert len(fetched) == (when != "before")
    assert not list(open_store(job.destination, {}).list_under("_splitfire/settings"))
    assert not list(open_store(job.destination, {}).list_under("_splitfire/runs"))


def test_a_run_that_lost_its_lease_ends_before_it_writes_views(job):
    store = open_store(job.destination, {})
    with hold(store, "20260101T000000000Z-000000") as lease:
        made = story.make_plan(job, story.list_tracks(job), lease=lease)
        story.save_plan(made)
        tally = story.separate(made, here, lambda _: None)
        lease.is_lost.set()
        with pytest.raises(LeaseLost):
            story.finalise(made, tally)
        with pytest.raises(LeaseLost):
            story.separate(made, lambda *_: iter(()), lambda _: None)
    assert not store.exists("_splitfire/views/view.json")


@pytest.mark.parametrize("last", ["tracks.parquet", "failures.parquet"])
def test_a_run_that_loses_its_lease_while_it_ends_writes_nothing_more(job, monkeypatch, last):
    store = open_store(job.destination, {})
    with hold(store, "20260101T000000000Z-000000") as lease:
        made = story.make_plan(job, story.list_tracks(job), lease=lease)
        story.save_plan(made)
        tally = story.separate(made, here, lambda _: None)
        written: list[str] = []
        true_write = Store.write

        def write(self: Store, path: str, data: bytes | Path) -> None:
            true_write(self, path, data)
            written.append(path)
            if path.endswith(last):
                lease.is_lost.set()

        monkeypatch.setattr(Store, "write", write)
        with pytest.raises(LeaseLost):
            story.finalise(made, tally)
    assert written[-1].endswith(last)


def test_a_later_run_has_a_later_id_though_its_clock_is_an_hour_behind(job, monkeypatch):
    first = run(job)
    true_clock = runs.datetime

    class Behind(true_clock):
        @classmethod
        def now(cls, tz=None):
            return true_clock.now(tz) - runs.timedelta(hours=1)

    monkeypatch.setattr(runs, "datetime", Behind)
    tone(Path(job.source) / "a.wav", 440)
    second = run(job)
    assert second.run_id > first.run_id
    assert second.n_done == 1
    check_stems(Path(job.destination), 2)
    assert run(job).n_planned == 0
