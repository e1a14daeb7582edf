"""Failed tracks once more: the same ids, names and columns, objects as they are now, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.separate_catalogue import separate_catalogue
from splitfire_batch import identity, rows
from splitfire_batch import job as story
from splitfire_batch.config import CatalogueConfig, OutputConfig, SeparationConfig
from splitfire_batch.errors import FAILURE_CODES, ConfigError
from splitfire_batch.failures import Query, read_failures
from splitfire_batch.job import Job
from splitfire_batch.records import Quarantined, Shard, ShardEvent
from splitfire_batch.report import Report
from splitfire_batch.retries import OUTSIDE, find_retries
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.storage import Store, open_store
from tests.material import noise, write
from tests.small_library import run_main, tree
from tests.test_bad_inputs import INLINE, a_job
from tests.test_job import here

make_job = partial(a_job, runtime=INLINE)
IN_NAMES = OutputConfig(template="{name}_{stem}.{ext}")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two good tracks, and two that are none."""
    for number, name in enumerate(("a.wav", "b/a.wav")):
        write(tmp_path / "in" / name, noise(700, seed=number))
    for name in ("bad.wav", "empty.wav"):
        (tmp_path / "in" / name).write_bytes(b"no audio" if name == "bad.wav" else b"")
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(job: Job, run_shards: Any = here) -> Report:
    """The steps of the flow, in this process."""
    story.check(job)
    planned = story.make_plan(job, story.list_tracks(job))
    if planned.plan.n_tracks:
        story.save_plan(planned)
    return story.finalise(planned, story.separate(planned, run_shards, lambda _: None))


def again(job: Job, *codes: str, **changes: Any) -> Report:
    """The job's failures, as the command line finds them, run in this process."""
    (found,) = find_retries(open_store(job.destination, {}), codes, OutputConfig(), job.catalogue.allow_root)
    asked = found.retry
    job = replace(job, source=asked.source, separation=asked.separation, output=asked.output, retry=codes)
    return run(replace(job, **changes))


def rows_of(out: Path | str) -> dict[str, dict[str, Any]]:
    store = open_store(str(out), {})
    from splitfire_batch.manifest.ledger import current_rows

    return {row["path"]: row for row in current_rows(store).to_pylist()}


def quarantine(shards: Iterable[Shard], _: WorkerSpec) -> Iterator[ShardEvent | Quarantined]:
    """A pool whose workers survive no track."""
    for shard in shards:
        for track in shard.tracks:
            yield Quarantined(track, "the worker died twice")


def test_failed_tracks_run_again_as_they_were_and_count_as_done_afterwards(source: Path, out: Path) -> None:
    job = make_job(str(source), str(out))
    run(job)
    before, stems = rows_of(out), tree(out / "passthrough")
    write(source / "bad.wav", noise(900))
    write(source / "empty.wav", noise(800))
    write(source / "new.wav", noise(600))  # no failure of the destination
    report = again(job)
    assert (report.n_listed, report.n_planned, report.n_done, report.exit_code) == (2, 2, 2, 0)
    after = rows_of(out)
    assert after.keys() == before.keys()
    for path, row in after.items():
        for name in ("track_id", "uri", "target", "meta", "settings_id", "catalogue"):
            assert row[name] == before[path][name], (path, name)
        assert (row["run_id"] == report.run_id) is (path in ("bad.wav", "empty.wav"))
        assert row["status"] == "done"
    assert {path: data for path, data in tree(out / "passthrough").items() if path in stems} == stems
    last = run(job)
    assert (last.n_planned, last.n_done_before, last.n_done) == (1, 4, 1)  # the new one


def test_only_the_named_codes_run_and_what_is_as_bad_as_before_fails_again(source: Path, out: Path) -> None:
    job = make_job(str(source), str(out))
    run(job)
    report = again(job, "NOT_AUDIO")
    assert (report.n_planned, report.failures_by_code, report.exit_code) == (1, {"NOT_AUDIO": 1}, 3)
    assert rows_of(out)["empty.wav"]["run_id"] != report.run_id
    assert run(job).n_failed_before == 2


def test_a_track_that_is_gone_is_missing(source: Path, out: Path) -> None:
    job = make_job(str(source), str(out))
    run(job)
    (source / "bad.wav").unlink()
    assert again(job, "NOT_AUDIO").failures_by_code == {"SOURCE_MISSING": 1}


def test_a_quarantined_track_stands_until_it_is_run_again(source: Path, out: Path) -> None:
    job = make_job(str(source), str(out), catalogue=CatalogueConfig(include=("a.wav",)))
    assert run(job, quarantine).failures_by_code == {"WORKER_CRASH": 1}
    assert run(job).n_failed_before == 1
    assert again(job, "WORKER_CRASH").n_done == 1
    last = run(job)
    assert (last.n_planned, last.n_done_before, last.n_failed_before) == (0, 1, 0)


def test_a_name_that_went_to_another_track_stays_with_it(source: Path, out: Path) -> None:
    """A failed track holds no name; whoever was done under it since keeps his stems."""
    first = make_job(str(source), str(out), output=IN_NAMES, catalogue=CatalogueConfig(include=("a.wav",)))
    second = replace(first, catalogue=CatalogueConfig(include=("b/a.wav",)))
    run(first, quarantine)
    run(second)
    stems = {path: data for path, data in tree(out).items() if path.endswith(".wav")}
    assert set(stems) == {"a_vocals.wav", "a_accompaniment.wav"}
    assert again(first).n_done == 1
    after = {path: data for path, data in tree(out).items() if path.endswith(".wav")}
    assert len(after) == 4
    assert {path: after[path] for path in stems} == stems


def test_two_failures_that_want_one_name_get_two(source: Path, out: Path) -> None:
    for include in ("a.wav", "b/a.wav"):
        job = make_job(str(source), str(out), output=IN_NAMES, catalogue=CatalogueConfig(include=(include,)))
        run(job, quarantine)
    assert again(job).n_done == 2
    targets = {row["target"] for row in rows_of(out).values()}
    assert len(targets) == 2
    assert len([path for path in tree(out) if path.endswith(".wav")]) == 4


def test_names_and_template_are_those_of_the_run_that_failed(source: Path, out: Path) -> None:
    output = OutputConfig(names="immutable", template="{stem}/{dir}/{name}.{ext}", format="flac", depth="16")
    job = make_job(str(source), str(out), output=output)
    run(job)
    write(source / "bad.wav", noise(900))
    assert again(job, "NOT_AUDIO").n_done == 1
    row = rows_of(out)["bad.wav"]
    for stem in row["stems"]:
        assert stem["path"] == f"{stem['stem']}/bad-{stem['sha256'][:16]}.flac"
        assert stem["subtype"] == "PCM_16"


def test_a_destination_of_an_older_version_takes_the_names_of_the_settings(source: Path, out: Path) -> None:
    job = make_job(str(source), str(out))
    run(job)
    for record in out.glob("_splitfire/runs/*/job.json"):
        record.unlink()
    given = OutputConfig(names="immutable", template="{name}/{stem}.{ext}", depth="16")
    (found,) = find_retries(open_store(str(out), {}), (), given, ())
    assert (found.retry.output.names, found.retry.output.template) == ("immutable", given.template)
    assert found.retry.output.depth == "source"  # it changes the stems: the destination knows


def test_columns_of_a_table_and_objects_under_other_roots_stay(tmp_path: Path, out: Path) -> None:
    other = tmp_path / "other"
    (tmp_path / "in").mkdir()
    for name in ("x.wav", "y.wav"):
        other.mkdir(exist_ok=True)
        (other / name).write_bytes(b"no audio")
    (tmp_path / "in/list.csv").write_text(f"uri,isrc\n{other}/x.wav,I1\n{other}/y.wav,I2\n")
    output = OutputConfig(template="{isrc}/{stem}.{ext}")
    job = make_job(
        str(tmp_path / "in/list.csv"),
        str(out),
        output=output,
        catalogue=CatalogueConfig(allow_root=(str(other),)),
    )
    run(job)
    before = rows_of(out)
    write(other / "x.wav", noise(700))
    closed = again(replace(job, catalogue=CatalogueConfig()))
    assert (closed.n_planned, closed.ignored) == (0, {OUTSIDE: 2})
    assert again(job).n_done == 1
    after = rows_of(out)
    assert (after["x.wav"]["meta"], after["x.wav"]["track_id"]) == (
        [("isrc", "I1")],
        before["x.wav"]["track_id"],
    )
    assert (out / "I1/vocals.wav").is_file()
    assert run(job).n_done_before == 1


def test_a_refused_address_runs_once_its_root_is_allowed(tmp_path: Path, out: Path) -> None:
    write(tmp_path / "other/x.wav", noise(700))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/list.csv").write_text(f"uri\n{tmp_path}/other/x.wav\n")
    job = make_job(str(tmp_path / "in/list.csv"), str(out))
    assert run(job).failures_by_code == {"BAD_URI": 1}
    assert again(job).ignored == {OUTSIDE: 1}
    allowed = replace(job, catalogue=CatalogueConfig(allow_root=(str(tmp_path / "other"),)))
    assert again(allowed).n_done == 1
    assert run(allowed).n_done_before == 1
    assert list(rows_of(out)) == ["x.wav"]  # the track that it was, not a second one


def test_each_catalogue_and_each_settings_is_a_retry_of_its_own(tmp_path: Path, out: Path) -> None:
    names = OutputConfig(names="immutable")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.wav").write_bytes(folder.encode())
        job = make_job(str(tmp_path / folder), str(out), output=names)
        run(job)
    run(replace(job, separation=SeparationConfig(model="passthrough", stems=("vocals",), residual="drop")))
    found = find_retries(open_store(str(out), {}), (), OutputConfig(), ())
    assert {(item.retry.source, item.retry.separation.stems): item.codes for item in found} == {
        (str(tmp_path / "one"), ()): {"NOT_AUDIO": 1},
        (str(tmp_path / "two"), ()): {"NOT_AUDIO": 1},
        (str(tmp_path / "two"), ("vocals",)): {"NOT_AUDIO": 1},
    }
    assert len(found) == 3


def test_settings_that_this_version_cannot_repeat_are_refused(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_job(str(source), str(out)))
    epoch = identity.OUTPUT_EPOCH
    monkeypatch.setattr(identity, "OUTPUT_EPOCH", epoch + 1)
    with pytest.raises(ConfigError, match=f"output_epoch was {epoch} and is now {epoch + 1}"):
        find_retries(open_store(str(out), {}), (), OutputConfig(), ())


def test_settings_that_cannot_be_repeated_do_not_keep_others_from_it(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(str(source), str(out), output=OutputConfig(names="immutable"))
    run(job)
    epoch = identity.OUTPUT_EPOCH
    monkeypatch.setattr(identity, "OUTPUT_EPOCH", epoch + 1)
    run(job)
    code, text, err = run_main(monkeypatch, capsys, "retry", out, "--dry-run")
    assert (code, text.count("would run 2 tracks")) == (0, 1)
    assert f"2 failed tracks of {source} are left alone" in err
    assert f"output_epoch was {epoch} and is now {epoch + 1}" in err


def test_a_single_files_neighbour_may_hold_the_stems(source: Path) -> None:
    """`run` allows that for a file; the catalogue that a retry names is the file's folder."""
    job = make_job(str(source / "bad.wav"), str(source / "stems"))
    run(job)
    write(source / "bad.wav", noise(900))
    assert again(job).n_done == 1


def test_a_bug_stands_after_three_runs_until_it_is_run_again(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(str(source), str(out), catalogue=CatalogueConfig(include=("a.wav",)))

    def break_down(*_: object, **__: object) -> None:
        raise ZeroDivisionError("two\nlines\x1b[31m")

    with monkeypatch.context() as patch:
        patch.setattr("splitfire_batch.settling.render", break_down)
        for number in (1, 2, 3):
            report = run(job)
            row = rows_of(out)["a.wav"]
            assert (report.n_failed, row["code"], row["n_failed_runs"]) == (1, "INTERNAL", number)
            assert row["is_retryable"] is (number < 3)
        assert (run(job).n_planned, run(job).n_failed_before) == (0, 1)
        assert again(job, "INTERNAL").n_failed == 1
        assert run(job).n_planned == 0
    assert again(job).n_done == 1
    assert FAILURE_CODES["INTERNAL"].stands_after == 3


def test_what_lies_outside_stands_in_no_number_of_runs(source: Path, out: Path) -> None:
    """A store that is away for a week is no fault of the tracks."""
    job = make_job(str(source), str(out), catalogue=CatalogueConfig(include=("a.wav",)))
    (source / "a.wav").chmod(0)
    listed = story.list_tracks(job)
    for _ in range(4):
        planned = story.make_plan(job, listed)
        story.save_plan(planned)

        def away(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent]:
            tracks = [replace(t, problem="SOURCE_READ: away") for s in shards for t in s.tracks]
            return here([Shard("x", tuple(tracks))], spec)

        assert story.finalise(planned, story.separate(planned, away, lambda _: None)).n_failed == 1
    assert rows_of(out)["a.wav"]["is_retryable"] is True


def test_a_bug_is_logged_with_its_lines_and_obeys_nobody(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise ZeroDivisionError("two\nlines\x1b[31m")

    monkeypatch.setattr("splitfire_batch.settling.render", break_down)
    run(make_job(str(source), str(out), catalogue=CatalogueConfig(include=("a.wav",))))
    assert "track_bug track=" in caplog.text
    assert "in break_down" in caplog.text
    assert r"ZeroDivisionError: two\nlines\x1b[31m" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_retry_works_in_a_bucket_as_in_a_folder(bucket: str, source: Path) -> None:
    objects: Store = open_store(f"{bucket}/in", {})
    objects.write("bad.wav", source / "bad.wav")
    job = make_job(objects.url, f"{bucket}/out")
    run(job)
    target = rows_of(job.destination)["bad.wav"]["target"]
    objects.write("bad.wav", write(source / "fixed.wav", noise(900)))
    assert again(job).n_done == 1
    row = rows_of(job.destination)["bad.wav"]
    assert row["target"] == target
    assert all(stem["path"].endswith(f"-{stem['sha256'][:16]}.wav") for stem in row["stems"])


def test_parameters_of_a_deployment_stay_json() -> None:
    given = {"source": "a", "destination": "b", "retry": ["EMPTY"]}
    made = separate_catalogue.validate_parameters(json.loads(json.dumps(given)))
    assert made["retry"] == ("EMPTY",)
    assert separate_catalogue.validate_parameters({"source": "a", "destination": "b"})["retry"] is None


def test_an_unknown_code_is_refused_and_the_known_ones_are_told(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(str(source), str(out))
    run(job)
    code, text, err = run_main(monkeypatch, capsys, "retry", out, "--code", "CRASHED")
    assert (code, text) == (2, "")
    assert all(known in err for known in FAILURE_CODES)
    with pytest.raises(ConfigError, match="CRASHED"):
        story.check(replace(job, retry=("CRASHED",)))


def test_a_dry_run_tells_and_does_nothing(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(make_job(str(source), str(out)))
    before = tree(out)
    code, text, _ = run_main(monkeypatch, capsys, "retry", out, "--dry-run")
    assert (code, text.count("\n")) == (0, 1)
    assert f"would run 2 tracks of {source} again (passthrough, settings " in text
    assert text.endswith("): 1 EMPTY, 1 NOT_AUDIO\n")
    code, text, _ = run_main(monkeypatch, capsys, "retry", out, "--dry-run", "--json", "--code", "EMPTY")
    (told,) = json.loads(text)
    assert (told["source"], told["codes"], told["n_outside"]) == (str(source), {"EMPTY": 1}, 0)
    assert tree(out) == before


def test_nothing_to_retry_ends_well_without_ray_and_prefect(source: Path, out: Path) -> None:
    run(make_job(str(source), str(out)))
    script = (
        "import atexit, sys\n"
        "atexit.register(lambda: print({'ray', 'prefect'} & set(sys.modules), file=sys.stderr))\n"
        "from flows.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "retry", str(out), "--code", "TRUNCATED"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "nothing to retry: no such track has failed\n")
    assert done.stderr == "set()\n"


def test_a_query_reads_only_rows_that_count(source: Path, out: Path) -> None:
    job = make_job(str(source), str(out))
    run(job)
    write(source / "bad.wav", noise(900))
    again(job)
    assert read_failures(open_store(str(out), {}), Query())["path"].to_pylist() == ["empty.wav"]


def test_what_is_listed_lies_in_the_scratch_folder(
    source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_job(str(source), str(out)))
    scratch = str(tmp_path / "scratch")
    (tmp_path / "scratch").mkdir()
    folders = []
    new_file = tempfile.TemporaryFile
    monkeypatch.setattr(rows.tempfile, "TemporaryFile", lambda dir: folders.append(dir) or new_file(dir=dir))
    job = make_job(str(source), str(out))
    again = replace(job, retry=(), runtime=replace(job.runtime, scratch_dir=scratch))
    assert len(story.list_tracks(again).rows) == 2
    assert set(folders) == {scratch}
