"""`--checksum` and `--dedupe` from end to end: real one-shots, the real model, folders and a real S3 server.

Rules that no model has part in are tested with the passthrough one.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from splitfire_batch import contents
from splitfire_batch import job as story
from splitfire_batch.config import CatalogueConfig, OutputConfig, SeparationConfig
from splitfire_batch.errors import LeaseLost
from splitfire_batch.job import Job
from splitfire_batch.lease import hold
from splitfire_batch.manifest.ledger import current_rows, part_paths, read_parts, write_part
from splitfire_batch.records import Shard, ShardEvent
from splitfire_batch.report import Report
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.storage import Store, open_store
from splitfire_batch.vacuum import vacuum
from splitfire_batch.verify import Checks, verify
from tests.assets import one_shots
from tests.small_library import COMMAND, environment
from tests.test_audio_essence import tagged
from tests.test_job import here, make_job, run, tone

CHECKSUM, DEDUPE = CatalogueConfig(checksum=True), CatalogueConfig(dedupe=True)
SPLEETER = SeparationConfig()
IMMUTABLE = OutputConfig(names="immutable")
Row = dict[str, Any]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of objects that were read whole."""
    seen: list[str] = []
    true_read = contents.Reader._content

    def read(self: contents.Reader, uri: str, n_bytes: int, etag: str) -> contents.Content | None:
        seen.append(uri.rpartition("/")[2])
        return true_read(self, uri, n_bytes, etag)

    monkeypatch.setattr(contents.Reader, "_content", read)
    return seen


def rows_of(store: Store) -> dict[str, Row]:
    """The rows that count, by path."""
    return {row["path"]: row for row in current_rows(store).to_pylist()}


def check_sound(store: Store, n_tracks: int) -> dict[str, Row]:
    """One row a track, every stem there and whole, and all stems sum to their own sources."""
    found = verify(store.url, {}, Checks("deep"), lambda _: None)
    assert found.findings == ()
    assert found.n_summed == found.n_tracks
    rows = rows_of(store)
    assert len(current_rows(store)) == len(rows) == n_tracks
    return rows


_TIMES_S = itertools.count(1_700_000_000)


def touch(file: Path) -> None:
    """The same bytes, written at another time."""
    file.write_bytes(file.read_bytes())
    moment = next(_TIMES_S)
    os.utime(file, (moment, moment))


def not_called(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent]:  # noqa: ARG001
    raise AssertionError("nothing was to be separated")


def run_without_workers(job: Job) -> Report:
    """The four steps, in a run that has nothing to separate."""
    planned = story.make_plan(job, story.list_tracks(job))
    if planned.plan.n_tracks:
        planned = story.save_plan(planned)
    return story.finalise(planned, story.separate(planned, not_called, lambda _: None))


def sum_of_stems(out: Store, row: Row) -> np.ndarray:
    stems = [soundfile.read(Path(out.url, stem["path"]))[0] for stem in row["stems"]]
    return np.sum(stems, axis=0)


# --checksum


def test_touched_files_are_not_separated_again_nor_read_twice(tmp_path: Path, reads: list[str]) -> None:
    sources, (changed, *touched) = tmp_path / "in", one_shots()[:3]
    sources.mkdir()
    for file in (changed, *touched):
        shutil.copy(file, sources)
    job = make_job(sources, tmp_path / "out", catalogue=CHECKSUM)
    out = open_store(job.destination, {})
    assert (run(job).n_done, reads) == (3, [])
    before = rows_of(out)

    for file in touched:
        touch(sources / file.name)
    data = bytearray((sources / changed.name).read_bytes())
    data[-4:] = b"\x01\x02\x03\x04"
    (sources / changed.name).write_bytes(data)
    report = run(job)
    assert (report.n_planned, report.n_done, report.n_done_before) == (1, 1, 2)
    assert report.n_unchanged == len(touched)
    assert sorted(reads) == sorted([changed.name, *(file.name for file in touched)])
    after = check_sound(out, 3)
    for file in touched:
        old, new = before[file.name], after[file.name]
        assert new["etag"] != old["etag"]
        assert (new["stems"], new["content_id"]) == (old["stems"], old["content_id"])

    reads.clear()
    assert (run(job).n_planned, reads) == (0, [])
    assert run(replace(job, catalogue=CatalogueConfig())).n_planned == 0  # the rows say so to every run


def upload_in_parts(store: Store, path: str, data: bytes) -> None:
    """As many tools do with objects of some megabytes: the etag is no MD5 then."""
    backend = store._backend
    where = backend._where(path)  # type: ignore[union-attr]
    call = backend._fs.call_s3  # type: ignore[union-attr]
    upload = call("create_multipart_upload", **where)["UploadId"]
    part = call("upload_part", **where, UploadId=upload, PartNumber=1, Body=data)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    call("complete_multipart_upload", **where, UploadId=upload, MultipartUpload=parts)


@pytest.mark.slow
def test_only_what_may_be_unchanged_is_read(tmp_path: Path, reads: list[str]) -> None:
    for name, seconds in (("a", 0.2), ("b", 0.2), ("c", 0.2)):
        tone(tmp_path / f"in/{name}.wav", 220, seconds)
    job = make_job(tmp_path / "in", tmp_path / "out", catalogue=CHECKSUM)
    run(job)
    tone(tmp_path / "in/a.wav", 220, 0.3)  # another length
    tone(tmp_path / "in/new.wav", 220, 0.2)  # another track
    touch(tmp_path / "in/b.wav")
    report = run(job)
    assert (report.n_planned, report.n_unchanged, reads) == (2, 1, ["b.wav"])
    touch(tmp_path / "in/b.wav")
    assert run(replace(job, catalogue=CatalogueConfig())).n_planned == 1
    assert reads == ["b.wav"]


def test_a_dry_plan_counts_unchanged_objects_and_writes_nothing(tmp_path: Path) -> None:
    tone(tmp_path / "in/a.wav", 220)
    job = make_job(tmp_path / "in", tmp_path / "out", catalogue=CHECKSUM)
    run(job)
    touch(tmp_path / "in/a.wav")
    before = sorted(tmp_path.rglob("out/**/*"))
    planned = story.make_plan(job, story.list_tracks(job))
    assert (planned.plan.n_tracks, planned.plan.n_done, planned.n_unchanged) == (0, 1, 1)
    assert sorted(tmp_path.rglob("out/**/*")) == before


def test_what_was_unchanged_is_known_though_the_run_is_killed_while_it_separates(
    tmp_path: Path, reads: list[str]
) -> None:
    tone(tmp_path / "in/a.wav", 220)
    job = make_job(tmp_path / "in", tmp_path / "out", catalogue=CHECKSUM)
    run(job)
    touch(tmp_path / "in/a.wav")
    tone(tmp_path / "in/b.wav", 330)
    story.save_plan(story.make_plan(job, story.list_tracks(job)))  # and killed
    report = run(job)
    assert (report.n_planned, report.n_done_before, report.n_unchanged) == (1, 1, 0)
    assert reads == ["a.wav"]
    check_sound(open_store(job.destination, {}), 2)


@pytest.mark.slow
def test_a_track_that_was_skipped_stays_so_when_it_is_touched(tmp_path: Path) -> None:
    shutil.copytree(one_shots()[0].parent, tmp_path / "in", ignore=lambda _, names: names[1:])
    skips = OutputConfig(skip_without_vocals=0.0)
    job = make_job(tmp_path / "in", tmp_path / "out", output=skips, catalogue=CHECKSUM)
    assert run(job).n_skipped == 1
    touch(next((tmp_path / "in").iterdir()))
    report = run(job)
    assert (report.n_planned, report.n_skipped_before, report.n_unchanged) == (0, 1, 1)


# --dedupe


@pytest.fixture
def doubles(tmp_path: Path) -> Path:
    """Two one-shots; of one a copy, and one with a chunk of its own."""
    sources = tmp_path / "in"
    (sources / "b").mkdir(parents=True)
    first, second = one_shots()[:2]
    shutil.copy(first, sources / "a.wav")
    shutil.copy(first, sources / "b/same.wav")
    shutil.copy(tagged(Path(shutil.copy(first, tmp_path / "t.wav")), "WAV"), sources / "b/tagged.wav")
    shutil.copy(second, sources / "c.wav")
    return sources


def test_duplicates_are_separated_once_and_have_stems_beside_their_own_names(
    doubles: Path, tmp_path: Path
) -> None:
    job = make_job(doubles, tmp_path / "out", separation=SPLEETER, catalogue=DEDUPE)
    separated: list[str] = []

    def watched(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent]:
        for shard in shards:
            separated.extend(track.path for track in shard.tracks)
            yield from here([shard], spec)

    planned = story.save_plan(story.make_plan(job, story.list_tracks(job)))
    assert (planned.plan.n_tracks, planned.plan.n_duplicates) == (4, 2)
    report = story.finalise(planned, story.separate(planned, watched, lambda _: None))
    assert sorted(separated) == ["a.wav", "c.wav"]
    assert (report.n_done, report.n_failed, report.n_duplicates) == (4, 0, 2)

    out = open_store(job.destination, {})
    rows = check_sound(out, 4)
    assert {path: row["duplicate_of"] for path, row in rows.items()} == {
        "a.wav": None,
        "b/same.wav": rows["a.wav"]["track_id"],
        "b/tagged.wav": rows["a.wav"]["track_id"],
        "c.wav": None,
    }
    paths = [stem["path"] for row in rows.values() for stem in row["stems"]]
    assert len(set(paths)) == len(paths) == 8
    assert "spleeter-2stems/b/same_vocals.wav" in paths
    for path in ("b/same.wav", "b/tagged.wav"):
        hashes = [stem["sha256"] for stem in rows[path]["stems"]]
        assert hashes == [stem["sha256"] for stem in rows["a.wav"]["stems"]]
    assert any("carry the tags of a.wav" in text for text in rows["b/tagged.wav"]["warnings"])
    assert run_without_workers(replace(job, catalogue=CatalogueConfig())).n_planned == 0

    for path in rows:
        touch(doubles / path)
    shutil.copy(doubles / "c.wav", doubles / "later.wav")
    both = replace(job, catalogue=CatalogueConfig(checksum=True, dedupe=True))
    report = run_without_workers(both)
    assert (report.n_planned, report.n_done, report.n_duplicates, report.n_unchanged) == (1, 1, 1, 4)
    assert check_sound(out, 5)["later.wav"]["duplicate_of"] == rows["c.wav"]["track_id"]


@pytest.mark.slow
def test_in_a_bucket_duplicates_refer_to_stems_that_stay_and_what_is_uploaded_again_is_unchanged(
    bucket: str, doubles: Path, tmp_path: Path, reads: list[str]
) -> None:
    source, out = open_store(f"{bucket}/in", {}), open_store(f"{bucket}/out", {})
    for file in doubles.rglob("*.wav"):
        source.write(str(file.relative_to(doubles)), file)
    both = CatalogueConfig(checksum=True, dedupe=True)
    job = make_job(tmp_path, tmp_path, separation=SPLEETER, catalogue=both)
    job = replace(job, source=source.url, destination=out.url)
    assert run(job).n_duplicates == 2
    rows = rows_of(out)
    assert rows["b/same.wav"]["stems"] == rows["a.wav"]["stems"]

    reads.clear()
    source.write("a.wav", one_shots()[2])
    etag = source.stat("c.wav").etag
    upload_in_parts(source, "c.wav", (doubles / "c.wav").read_bytes())
    assert source.stat("c.wav").etag != etag
    report = run(job)
    assert (report.n_planned, report.n_duplicates, report.n_unchanged, reads) == (1, 0, 1, ["c.wav"])
    with hold(out, "vacuum", is_needed=False) as lease:
        vacuum(out, lease, 0.0, is_dry=False)
    after = check_sound(out, 4)
    assert after["b/same.wav"] == rows["b/same.wav"]
    assert after["c.wav"]["stems"] == rows["c.wav"]["stems"]
    assert story.make_plan(job, story.list_tracks(job)).plan.n_tracks == 0
    assert reads == ["c.wav"]


@pytest.mark.parametrize("fate", ["changes", pytest.param("goes", marks=pytest.mark.slow)])
def test_under_plain_names_a_duplicate_keeps_its_stems_whatever_becomes_of_its_original(
    doubles: Path, tmp_path: Path, fate: str
) -> None:
    job = make_job(doubles, tmp_path / "out", catalogue=DEDUPE)
    run(job)
    out = open_store(job.destination, {})
    before = rows_of(out)["b/same.wav"]
    (doubles / "a.wav").unlink()
    if fate == "changes":
        shutil.copy(one_shots()[3], doubles / "a.wav")
    report = run(job)
    assert (report.n_planned, report.n_duplicates) == (fate == "changes", 0)
    assert rows_of(out)["b/same.wav"] == before
    heard = sum_of_stems(out, before)
    np.testing.assert_allclose(heard, soundfile.read(doubles / "b/same.wav")[0], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("names", ["plain", "immutable"])
def test_a_duplicate_that_comes_later_needs_no_worker(doubles: Path, tmp_path: Path, names: str) -> None:
    output = OutputConfig(names=names)  # type: ignore[arg-type]
    job = make_job(doubles, tmp_path / "out", output=output)
    run(job)  # all of them by themselves
    shutil.copy(doubles / "a.wav", doubles / "later.wav")
    report = run_without_workers(replace(job, catalogue=DEDUPE))
    assert (report.n_planned, report.n_done, report.n_duplicates, report.exit_code) == (1, 1, 1, 0)
    rows = check_sound(open_store(job.destination, {}), 5)
    assert rows["later.wav"]["duplicate_of"] == rows["a.wav"]["track_id"]


def test_duplicates_of_a_track_that_fails_are_told_so_and_separated_by_themselves(tmp_path: Path) -> None:
    good = tone(tmp_path / "good.flac", 220, 1.0).read_bytes()
    for name in ("a", "b", "c"):
        (tmp_path / f"in/{name}.flac").parent.mkdir(exist_ok=True)
        (tmp_path / f"in/{name}.flac").write_bytes(good[:-2_000])
    job = make_job(tmp_path / "in", tmp_path / "out", catalogue=DEDUPE)
    out = open_store(job.destination, {})
    first = run(job)
    assert (first.n_planned, first.n_failed, first.exit_code) == (3, 3, 3)
    codes = {path: row["code"] for path, row in rows_of(out).items()}
    assert codes == {"a.flac": "TRUNCATED", "b.flac": "ORIGINAL_FAILED", "c.flac": "ORIGINAL_FAILED"}
    assert rows_of(out)["b.flac"]["duplicate_of"] == rows_of(out)["a.flac"]["track_id"]
    second = run(job)
    assert (second.n_planned, second.n_duplicates, second.failures_by_code) == (2, 0, {"TRUNCATED": 2})
    third = run(job)
    assert (third.n_planned, third.n_failed_before, third.exit_code) == (0, 3, 0)
    assert len(current_rows(out)) == 3


def test_duplicates_of_a_track_that_is_skipped_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "b.wav"):
        shutil.copy(one_shots()[0], tmp_path / "in" / name)
    skips = OutputConfig(skip_without_vocals=0.0)
    job = make_job(tmp_path / "in", tmp_path / "out", output=skips, catalogue=DEDUPE)
    report = run(job)
    assert (report.n_skipped, report.n_done, report.exit_code) == (2, 0, 0)
    assert rows_of(open_store(job.destination, {}))["b.wav"]["message"].startswith("b.wav: as a.wav: ")
    assert run(job).n_planned == 0


@pytest.mark.parametrize("names", [pytest.param("plain", marks=pytest.mark.slow), "immutable"])
def test_a_run_that_is_killed_before_duplicates_have_rows_is_finished_by_the_next(
    doubles: Path, tmp_path: Path, names: str
) -> None:
    output = OutputConfig(names=names)  # type: ignore[arg-type]
    job = make_job(doubles, tmp_path / "out", output=output, catalogue=DEDUPE)
    planned = story.save_plan(story.make_plan(job, story.list_tracks(job)))
    for _ in here(planned.plan.shards(), story.worker_spec(planned)):
        pass  # and killed
    report = run_without_workers(job)
    assert (report.n_planned, report.n_duplicates, report.n_done_before) == (2, 2, 2)
    check_sound(open_store(job.destination, {}), 4)


@pytest.mark.slow
def test_duplicates_of_a_track_that_has_no_row_yet_wait_for_the_next_run(
    doubles: Path, tmp_path: Path
) -> None:
    job = make_job(doubles, tmp_path / "out", catalogue=DEDUPE)
    planned = story.save_plan(story.make_plan(job, story.list_tracks(job)))
    tally = story.separate(planned, lambda shards, spec: iter(()), lambda _: None)  # noqa: ARG005
    stopped = story.finalise(planned, tally)
    assert (stopped.n_done, stopped.n_unsettled, stopped.exit_code) == (0, 4, 75)
    assert run(job).n_duplicates == 2
    check_sound(open_store(job.destination, {}), 4)


def test_a_stem_that_is_no_longer_what_its_row_says_is_copied_to_nobody(
    doubles: Path, tmp_path: Path
) -> None:
    job = make_job(doubles, tmp_path / "out", catalogue=CatalogueConfig(include=("a.wav",)))
    run(job)
    out = open_store(job.destination, {})
    stem = rows_of(out)["a.wav"]["stems"][0]["path"]
    out.write(stem, out.read(stem)[:-4] + b"\x01\x02\x03\x04")
    report = run(replace(job, catalogue=DEDUPE))
    assert (report.n_done, report.failures_by_code) == (1, {"ORIGINAL_FAILED": 2})
    assert run(replace(job, catalogue=DEDUPE)).n_done == 2


def test_nothing_is_read_unless_it_may_be_a_duplicate(tmp_path: Path, reads: list[str]) -> None:
    tone(tmp_path / "in/a.wav", 220, 0.2)
    tone(tmp_path / "in/b.wav", 330, 0.2)  # the same shape
    tone(tmp_path / "in/c.wav", 220, 0.3)
    (tmp_path / "in/empty.wav").write_bytes(b"")
    shutil.copy(tmp_path / "in/empty.wav", tmp_path / "in/empty too.wav")
    job = make_job(tmp_path / "in", tmp_path / "out")
    story.make_plan(job, story.list_tracks(job))
    assert reads == []
    planned = story.make_plan(replace(job, catalogue=DEDUPE), story.list_tracks(job))
    assert (sorted(reads), planned.plan.n_duplicates) == (["a.wav", "b.wav"], 0)
    run(replace(job, catalogue=DEDUPE))
    reads.clear()
    assert (run(replace(job, catalogue=DEDUPE)).n_planned, reads) == (0, [])
    shutil.copy(tmp_path / "in/c.wav", tmp_path / "in/d.wav")
    assert run(replace(job, catalogue=DEDUPE)).n_duplicates == 1
    assert reads == ["d.wav"]


@pytest.mark.slow
def test_all_stems_made_again_are_made_again_once(doubles: Path, tmp_path: Path) -> None:
    always = CatalogueConfig(dedupe=True, overwrite="always")
    job = make_job(doubles, tmp_path / "out", catalogue=DEDUPE)
    run(job)
    report = run(replace(job, catalogue=always))
    assert (report.n_planned, report.n_done, report.n_duplicates) == (4, 4, 2)
    check_sound(open_store(job.destination, {}), 4)


@pytest.mark.slow
def test_a_touched_original_and_its_new_duplicate_in_the_same_run(doubles: Path, tmp_path: Path) -> None:
    job = make_job(doubles, tmp_path / "out")
    run(job)
    touch(doubles / "a.wav")
    shutil.copy(doubles / "a.wav", doubles / "later.wav")
    both = replace(job, catalogue=CatalogueConfig(checksum=True, dedupe=True))
    report = run_without_workers(both)
    assert (report.n_planned, report.n_duplicates, report.n_unchanged) == (1, 1, 1)
    check_sound(open_store(job.destination, {}), 5)


def test_rows_of_older_versions_serve_as_originals_of_the_very_same_bytes(
    doubles: Path, tmp_path: Path
) -> None:
    job = make_job(doubles, tmp_path / "out", catalogue=CatalogueConfig(include=("a.wav",)))
    run(job)
    out = open_store(job.destination, {})
    (part,) = part_paths(out)
    old = read_parts(out).drop_columns(["audio_id", "duplicate_of"])
    out.delete(part)
    write_part(out, old)
    report = run(replace(job, catalogue=DEDUPE))
    assert (report.n_done, report.n_duplicates) == (3, 1)
    assert check_sound(out, 4)["b/tagged.wav"]["duplicate_of"] is None


@pytest.mark.parametrize("nth", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_run_that_dies_while_it_copies_stems_is_finished_by_the_next(
    doubles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    job = make_job(doubles, tmp_path / "out", catalogue=DEDUPE)
    n_calls, true_copy = 0, Store.copy

    def dying_copy(self: Store, path: str, source: str) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls >= nth:
            raise KeyboardInterrupt
        true_copy(self, path, source)

    monkeypatch.setattr(Store, "copy", dying_copy)
    with pytest.raises(KeyboardInterrupt):
        run(job)
    monkeypatch.undo()
    report = run_without_workers(job)
    assert (report.n_planned, report.n_duplicates, report.exit_code) == (2, 2, 0)
    check_sound(open_store(job.destination, {}), 4)


def test_a_run_that_lost_its_lease_records_no_duplicate(doubles: Path, tmp_path: Path) -> None:
    job = make_job(doubles, tmp_path / "out", catalogue=DEDUPE)
    out = open_store(job.destination, {})
    story.check(job)
    with hold(out, story.new_run_id()) as lease:
        planned = story.save_plan(story.make_plan(job, story.list_tracks(job), lease=lease))

        def lose(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent]:
            yield from here(shards, spec)
            lease.is_lost.set()

        with pytest.raises(LeaseLost):
            story.separate(planned, lose, lambda _: None)
    assert sorted(row["path"] for row in current_rows(out).to_pylist()) == ["a.wav", "c.wav"]


@pytest.mark.parametrize(
    ("names", "seed"),
    [
        ("plain", 1),
        *(
            pytest.param(names, seed, marks=pytest.mark.slow)
            for names in ("plain", "immutable")
            for seed in range(2, 12)
        ),
    ],
)
def test_whatever_happens_to_sources_every_row_is_true_of_its_own(
    tmp_path: Path, names: str, seed: int
) -> None:
    """Files come, go, change, are copied and touched; after each run all that is listed has its own audio."""
    chance = random.Random(seed)
    job = make_job(tmp_path / "in", tmp_path / "out", output=OutputConfig(names=names))  # type: ignore[arg-type]
    out, sources = open_store(job.destination, {}), tmp_path / "in"
    tone(sources / "0.wav", 110, 0.05)
    for step in range(3 if seed == 1 else 8):
        for _ in range(3):
            happen(sources, chance)
        flags = CatalogueConfig(checksum=chance.random() < 0.5, dedupe=chance.random() < 0.8)
        report = run(replace(job, catalogue=flags))
        assert (report.n_failed, report.n_unsettled) == (0, 0)
        if names == "immutable" and step == 3:
            with hold(out, "vacuum", is_needed=False) as lease:
                vacuum(out, lease, 0.0, is_dry=False)
        rows = rows_of(out)
        assert len(current_rows(out)) == len(rows)
        for file in sources.iterdir():
            heard = sum_of_stems(out, rows[file.name])
            np.testing.assert_allclose(heard, soundfile.read(file)[0], atol=1e-9, err_msg=file.name)


def happen(sources: Path, chance: random.Random) -> None:
    files = sorted(sources.iterdir())
    file, other = chance.choice(files), sources / f"{chance.randrange(8)}.wav"
    what = chance.choice(["new", "copy", "copy", "touch", "tag", "remove"])
    if what == "new":
        tone(other, 110 * chance.randrange(1, 5), chance.choice([0.05, 0.06]))
    elif what == "copy":
        other.write_bytes(file.read_bytes())
    elif what == "touch":
        touch(file)
    elif what == "tag":
        tagged(file, "WAV").replace(file)
    elif len(files) > 1:
        file.unlink()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_separates_duplicates_in_a_bucket_once_and_reads_what_was_uploaded_again(
    bucket: str, doubles: Path, tmp_path: Path
) -> None:
    source, out = open_store(f"{bucket}/in", {}), open_store(f"{bucket}/out", {})
    for file in doubles.rglob("*.wav"):
        source.write(str(file.relative_to(doubles)), file)

    def command(*words: str) -> dict[str, Any]:
        flags = ["--dedupe", "--checksum", "--json"]
        line = [*COMMAND, *words, source.url, out.url, *flags]
        done = subprocess.run(line, capture_output=True, text=True, env=environment(tmp_path / "prefect"))
        assert done.returncode == 0, done.stderr
        numbers: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
        return numbers

    planned = command("plan")
    assert (planned["todo"], planned["duplicates"], planned["done_before"]) == (4, 2, 0)
    first = command("run")
    assert (first["n_done"], first["n_duplicates"]) == (4, 2)
    upload_in_parts(source, "c.wav", (doubles / "c.wav").read_bytes())
    source.write("d.wav", doubles / "a.wav")
    planned = command("plan")
    assert (planned["todo"], planned["duplicates"], planned["unchanged"]) == (1, 1, 1)
    second = command("run")
    assert (second["n_planned"], second["n_duplicates"], second["n_unchanged"]) == (1, 1, 1)
    rows = check_sound(out, 5)
    assert rows["d.wav"]["stems"] == rows["a.wav"]["stems"]
