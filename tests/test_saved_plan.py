"""`plan --save` and `run --plan`: a run does what was listed on the day of its plan, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from splitfire_batch import job as story
from splitfire_batch.config import CatalogueConfig, OutputConfig, SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.job import Job
from splitfire_batch.saved_plan import read_listing, save_listing
from splitfire_batch.storage import open_store
from splitfire_batch.verify import Checks, verify
from tests.assets import one_shots
from tests.small_library import COMMAND, environment
from tests.test_cli import assert_one_line, main  # noqa: F401 - a fixture
from tests.test_job import make_job, run, tone, view

QUICK = ("--model", "passthrough")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Three tracks, two of which would have stems of the same name."""
    for name in ("a.wav", "b/c.wav", "b/c.flac"):
        tone(tmp_path / "in" / name, 220)
    return make_job(tmp_path / "in", tmp_path / "out")


@pytest.fixture
def saved(job: Job, tmp_path: Path) -> Job:
    """The job with its plan."""
    url = str(tmp_path / "plans/tuesday.parquet")
    (tmp_path / "plans").mkdir()
    save_listing(story.list_tracks(job), job, url)
    return replace(job, saved_plan=url)


def test_a_run_takes_what_was_listed_then(job: Job, saved: Job, tmp_path: Path) -> None:
    tone(tmp_path / "in/new.wav", 330)
    (tmp_path / "in/a.wav").unlink()
    tone(tmp_path / "in/b/c.wav", 440, 0.3)
    report = run(saved)
    assert (report.n_planned, report.n_done, report.n_failed) == (3, 1, 2)
    codes = {row["path"]: row["code"] for row in view(tmp_path / "out")}
    assert codes == {"a.wav": "SOURCE_MISSING", "b/c.wav": "SOURCE_CHANGED", "b/c.flac": None}
    report = run(job)
    assert (report.n_planned, report.n_done, report.n_done_before) == (2, 2, 1)


def test_what_was_done_since_in_a_newer_version_is_left_alone(job: Job, saved: Job, tmp_path: Path) -> None:
    tone(tmp_path / "in/b/c.wav", 440, 0.3)
    assert run(replace(job, catalogue=CatalogueConfig(include=("b/c.wav",)))).n_done == 1
    (stems,) = [row["stems"] for row in view(tmp_path / "out")]
    report = run(saved)
    assert (report.n_planned, report.n_done, report.n_done_before) == (2, 2, 1)
    assert [row["stems"] for row in view(tmp_path / "out") if row["path"] == "b/c.wav"] == [stems]
    assert run(job).n_planned == 0


def test_what_was_done_before_in_an_older_version_is_done_again(job: Job, tmp_path: Path) -> None:
    assert run(job).n_done == 3
    tone(tmp_path / "in/b/c.wav", 440, 0.3)
    url = str(tmp_path / "plan.parquet")
    save_listing(story.list_tracks(job), job, url)
    report = run(replace(job, saved_plan=url))
    assert (report.n_planned, report.n_done) == (1, 1)


def test_a_plan_of_an_older_version_goes_by_when_it_was_saved(saved: Job) -> None:
    table = pq.read_table(saved.saved_plan)
    about = json.loads(table.schema.metadata[b"splitfire_plan"])
    assert about.pop("newest_run") == ""
    metadata = {b"splitfire_plan": json.dumps({**about, "saved_at": "2026-01-02T03:04:05+00:00"}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), saved.saved_plan)
    assert read_listing(saved, str(saved.saved_plan)).newest_run == "20260102T030405000"


def test_it_is_the_plan_that_would_have_been_made_then(job: Job, saved: Job, tmp_path: Path) -> None:
    then = story.make_plan(job, story.list_tracks(job))
    tone(tmp_path / "in/b/c.aiff", 330)
    now = story.make_plan(saved, story.list_tracks(saved))
    assert list(now.plan.shards()) == list(then.plan.shards())
    assert (now.context.catalogue, now.ignored) == (then.context.catalogue, then.ignored)


def test_the_same_plan_again_goes_on_where_the_run_ended(saved: Job, tmp_path: Path) -> None:
    assert run(saved).n_done == 3
    tone(tmp_path / "in/new.wav", 330)
    report = run(saved)
    assert (report.n_planned, report.n_done_before) == (0, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"separation": SeparationConfig(model="passthrough", stems=("vocals",))},
            r"stems was \[\]",
        ),
        ({"output": OutputConfig(format="flac")}, "format was 'source' and is now 'flac'"),
        ({"output": OutputConfig(template="{dir}/{stem}/{name}.{ext}")}, "template was"),
        ({"catalogue": CatalogueConfig(limit=1)}, "limit was None and is now 1"),
        ({"catalogue": CatalogueConfig(include=("*.wav",))}, "include was"),
        ({"replace": True}, "replace was False and is now True"),
    ],
)
def test_a_plan_of_another_job_is_refused_and_told(saved: Job, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"tuesday\.parquet, saved 20.*another job: .*{said}"):
        story.list_tracks(replace(saved, **change))


def test_other_places_make_another_job(saved: Job, tmp_path: Path) -> None:
    tone(tmp_path / "elsewhere/a.wav", 220)
    for change in ({"source": str(tmp_path / "elsewhere")}, {"destination": str(tmp_path / "other")}):
        with pytest.raises(ConfigError, match=f"{next(iter(change))} was"):
            story.list_tracks(replace(saved, **change))


def test_where_and_how_fast_may_change(saved: Job) -> None:
    faster = replace(saved, runtime=replace(saved.runtime, open_tracks=1, shard_s=60.0))
    assert len(story.list_tracks(faster).rows) == 3


def test_a_table_as_source_needs_no_listing_twice(tmp_path: Path) -> None:
    tone(tmp_path / "audio/a.wav", 220)
    tone(tmp_path / "far/b.wav", 330)
    rows = pa.table({"uri": ["audio/a.wav", f"{tmp_path}/far/b.wav", "/etc/passwd"], "isrc": ["X", "Y", "Z"]})
    pq.write_table(rows, tmp_path / "songs.parquet")
    allowed = CatalogueConfig(allow_root=(str(tmp_path / "far"),))
    job = make_job(tmp_path / "songs.parquet", tmp_path / "out", catalogue=allowed)
    url = str(tmp_path / "plan.parquet")
    save_listing(story.list_tracks(job), job, url)
    assert run(replace(job, saved_plan=url)).n_done == 2
    codes = {row["code"]: dict(row["meta"]) for row in view(tmp_path / "out")}
    assert codes == {None: {"isrc": "Y"}, "BAD_URI": {"isrc": "Z"}}


def rewritten(url: str, path: str, value: str) -> None:
    """The saved plan with another value in its first row."""
    table = pq.read_table(url)
    column = pa.array([value, *table[path].to_pylist()[1:]], pa.string())
    index = table.schema.get_field_index(path)
    pq.write_table(table.set_column(index, table.schema.field(path), column), url)


@pytest.mark.parametrize("uri", ["/etc/passwd", "s3://other/a.wav", "file:///etc/passwd", "{in}/../../etc/x"])
def test_whoever_changes_the_file_cannot_choose_what_is_read(saved: Job, tmp_path: Path, uri: str) -> None:
    assert saved.saved_plan
    rewritten(saved.saved_plan, "uri", uri.replace("{in}", f"{tmp_path}/in"))
    with pytest.raises(ConfigError, match=r"tuesday\.parquet names .*, wanted objects below .*/in:"):
        read_listing(saved, saved.saved_plan)


@pytest.mark.parametrize("data", [b"", b"PAR1 no Parquet", None])
def test_what_is_no_plan_is_refused(saved: Job, data: bytes | None) -> None:
    assert saved.saved_plan
    if data is None:
        pq.write_table(pa.table({"uri": ["a.wav"]}), saved.saved_plan)
    else:
        Path(saved.saved_plan).write_bytes(data)
    with pytest.raises(ConfigError, match=r"tuesday\.parquet is no saved plan"):
        read_listing(saved, saved.saved_plan)


def test_a_plan_of_a_later_version_is_refused(saved: Job) -> None:
    assert saved.saved_plan
    table = pq.read_table(saved.saved_plan)
    about = {**json.loads(table.schema.metadata[b"splitfire_plan"]), "version": 99}
    metadata = {b"splitfire_plan": json.dumps(about).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), saved.saved_plan)
    with pytest.raises(ConfigError, match="version 99 of saved plans, wanted 1"):
        read_listing(saved, saved.saved_plan)


# The command line


def test_plan_keeps_what_it_lists_and_writes_over_nothing(main: Any, job: Job, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "plan.parquet"
    code, out, _ = main("plan", job.source, job.destination, "--save", file, "--json", *QUICK)
    assert (code, json.loads(out)["todo"]) == (0, 3)
    assert not Path(job.destination).exists()
    before = file.read_bytes()
    again = main("plan", job.source, job.destination, "--save", file, *QUICK)
    assert_one_line(again, 2, str(file), "exists already")
    assert file.read_bytes() == before
    wrong = main("plan", job.source, job.destination, "--save", tmp_path / "plan.json", *QUICK)
    assert_one_line(wrong, 2, "plan.json", ".parquet")


def test_run_without_its_plan_says_so_before_anything_starts(main: Any, job: Job, tmp_path: Path) -> None:  # noqa: F811
    missing = main("run", job.source, job.destination, "--plan", tmp_path / "plan.parquet", *QUICK)
    assert_one_line(missing, 2, "no saved plan", "plan.parquet", "plan --save")
    assert not Path(job.destination).exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_was_planned_in_a_bucket_is_what_runs(bucket: str, tmp_path: Path) -> None:
    """With the real model, S3 server, Prefect and Ray; the plan lies in the bucket as well."""
    source, out = open_store(f"{bucket}/in", {}), open_store(f"{bucket}/out", {})
    planned, (changed, gone, late) = one_shots()[:3], one_shots()[3:6]
    for file in (*planned, changed, gone):
        source.write(f"kit/{file.name}", file)

    def command(*words: str) -> tuple[int, dict[str, Any]]:
        line = [*COMMAND, *words, "--json"]
        done = subprocess.run(line, capture_output=True, text=True, env=environment(tmp_path / "prefect"))
        assert done.returncode in (0, 3), done.stderr
        return done.returncode, json.loads(done.stdout[done.stdout.index("{") :])

    plan = f"{bucket}/plans/nightly.parquet"
    assert command("plan", source.url, out.url, "--save", plan)[1]["todo"] == 5
    source.write(f"kit/{late.name}", late)
    source.write(f"kit/{changed.name}", late)
    source.delete(f"kit/{gone.name}")
    code, report = command("run", source.url, out.url, "--plan", plan)
    assert (code, report["n_planned"], report["n_done"], report["n_failed"]) == (3, 5, 3, 2)
    failed = subprocess.run([*COMMAND, "failures", out.url], capture_output=True, text=True, check=True)
    assert re.search("SOURCE_CHANGED", failed.stdout)
    assert re.search("SOURCE_MISSING", failed.stdout)
    code, report = command("run", source.url, out.url)
    assert (code, report["n_planned"], report["n_done"]) == (0, 2, 2)
    found = verify(out.url, {}, Checks("deep"), lambda _: None)
    assert (found.findings, found.n_tracks) == ((), 5 + 1 - 1)
