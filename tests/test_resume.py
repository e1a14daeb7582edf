"""A destination that lost all but its parts: the next run separates nothing, and makes the rest anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from splitfire_batch import job as story
from splitfire_batch.config import CatalogueConfig, SeparationConfig
from splitfire_batch.job import Job
from splitfire_batch.records import Shard, ShardEvent
from splitfire_batch.report import Report
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.storage import Store, open_store
from tests.test_job import PASSTHROUGH, make_job, run, tone

N_TRACKS = 3


@pytest.fixture(params=["folder", "s3"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Job:
    """Three tracks into a folder, by plain names, or into a bucket, by immutable ones."""
    for n in range(N_TRACKS):
        tone(tmp_path / f"in/{n}.wav", 220 + n)
    made = make_job(tmp_path / "in", tmp_path / "out")
    if request.param == "s3":
        made = replace(made, destination=request.getfixturevalue("bucket") + "/out")
    return made


def lose_all_but(store: Store, *kept: str) -> None:
    for found in list(store.list_under("_splitfire")):
        if found.path.split("/")[1] not in kept:
            store.delete(found.path)


def no_work(_: Iterable[Shard], __: WorkerSpec) -> Iterator[ShardEvent]:
    raise AssertionError("a track was separated again")


def resume(job: Job) -> Report:
    planned = story.make_plan(job, story.list_tracks(job))
    tally = story.separate(planned, no_work if planned.plan.n_tracks else lambda *_: iter(()), lambda _: None)
    return story.finalise(planned, tally)


@pytest.mark.parametrize("kept", [("parts", "settings"), ("parts",)])
def test_parts_alone_are_enough(job, kept, tmp_path):
    store = open_store(job.destination, {})
    run(job)
    stems = {found.path: found.etag for found in store.list() if not found.path.startswith("_splitfire/")}
    lose_all_but(store, *kept)
    report = resume(job)
    assert (report.n_planned, report.n_done_before) == (0, N_TRACKS)
    assert stems == {found.path: found.etag for found in store.list() if found.path in stems}
    views = pq.read_table(store.fetch("_splitfire/views/tracks.parquet", tmp_path / "tracks.parquet"))
    assert len(views) == N_TRACKS
    assert any(store.list_under("_splitfire/settings")), "the record of the settings came back"
    assert resume(job).n_planned == 0


def test_parts_without_their_settings_count_only_for_the_settings_that_made_them(job):
    store = open_store(job.destination, {})
    run(job)
    lose_all_but(store, "parts")
    other = replace(job, separation=SeparationConfig(model="passthrough", short_clip="reference"))
    assert story.make_plan(other, story.list_tracks(other)).plan.n_tracks == N_TRACKS


def test_plain_names_are_made_anew_when_nobody_can_say_whose_stems_lie_there(tmp_path):
    tone(tmp_path / "in/0.wav", 220)
    first = make_job(tmp_path / "in", tmp_path / "out")
    run(first)
    other = SeparationConfig(model=PASSTHROUGH.model, short_clip="reference")
    run(replace(first, separation=other, replace=True))
    lose_all_but(open_store(first.destination, {}), "parts")
    assert story.make_plan(first, story.list_tracks(first)).plan.n_tracks == 1


def test_overwrite_says_which_stems_are_made_again(tmp_path):
    for n in range(2):
        tone(tmp_path / f"in/{n}.wav", 220 + n)
    job = make_job(tmp_path / "in", tmp_path / "out")
    run(job)
    tone(tmp_path / "in/0.wav", 440)
    tone(tmp_path / "in/new.wav", 330)
    never, always = (replace(job, catalogue=CatalogueConfig(overwrite=what)) for what in ("never", "always"))
    kept = (tmp_path / "out/passthrough/0_vocals.wav").read_bytes()

    report = run(never)
    assert (report.n_done_before, report.n_done) == (2, 1)
    assert (tmp_path / "out/passthrough/0_vocals.wav").read_bytes() == kept
    report = run(job)
    assert (report.n_done_before, report.n_done) == (2, 1)
    assert (tmp_path / "out/passthrough/0_vocals.wav").read_bytes() != kept
    report = run(always)
    assert (report.n_done_before, report.n_done) == (0, 3)
    assert resume(job).n_done_before == 3


def test_never_makes_stems_again_that_are_gone(tmp_path):
    tone(tmp_path / "in/0.wav", 220)
    job = make_job(tmp_path / "in", tmp_path / "out")
    run(job)
    (tmp_path / "out/passthrough/0_vocals.wav").unlink()
    (open_store(job.destination, {})).delete(f"_splitfire/runs/{run_ids(tmp_path / 'out')[-1]}/run.json")
    never = replace(job, catalogue=CatalogueConfig(overwrite="never"))
    assert run(never).n_done == 1


def run_ids(destination: Path) -> list[str]:
    return sorted(folder.name for folder in (destination / "_splitfire/runs").iterdir())
