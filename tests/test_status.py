"""`splitfire status` reads what a destination holds, and only that."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from flows.settings import Settings
from flows.status import status_text
from splitfire_batch import job as story
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ObjectMissing
from splitfire_batch.job import Job
from tests.small_library import tree, write_bad_track, write_tracks


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks done and one failed, by a worker in this process."""
    root = tmp_path_factory.mktemp("status")
    write_bad_track(write_tracks(root / "source", 2, seconds=2.0))
    job = Job(
        str(root / "source"),
        str(root / "out"),
        SeparationConfig(model="passthrough"),
        runtime=RuntimeConfig(open_tracks=1, codecs="inline"),
    )
    separate_here(job)
    return root / "out"


def separate_here(job: Job) -> None:
    """Run a job with a worker in this process."""
    run = story.make_plan(job, story.list_tracks(job))
    story.save_plan(run)

    def here(shards, spec):  # type: ignore[no-untyped-def]
        worker = spec()
        for shard in shards:
            yield from worker.run_shard(shard)
        worker.close()

    story.finalise(run, story.separate(run, here, lambda _: None))


def test_an_empty_destination_holds_nothing_and_stays_empty(tmp_path: Path) -> None:
    text = status_text(str(tmp_path), Settings(), as_json=False)
    assert text.splitlines() == [str(tmp_path), "no stems of ours here yet"]
    assert tree(tmp_path) == {}


def test_a_missing_destination_is_an_error_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing, match="gone"):
        status_text(str(tmp_path / "gone"), Settings(), as_json=False)


def test_counts_are_those_of_the_manifest(destination: Path) -> None:
    status = json.loads(status_text(str(destination), Settings(), as_json=True))
    (model,) = status["models"]
    assert (model["model"], model["done"], model["failed"]) == ("passthrough", 2, 1)
    assert model["failures_by_code"] == {"NOT_AUDIO": 1}
    assert model["audio_s"] == pytest.approx(4.0)
    assert status["last_run"]["n_done"] == 2


def test_the_words_tell_the_same(destination: Path) -> None:
    lines = status_text(str(destination), Settings(), as_json=False).splitlines()
    assert "2 done" in lines[1]
    assert "1 failed (1 NOT_AUDIO)" in lines[1]
    assert lines[2].startswith("last run ")
    assert "0 left" in lines[2]
    assert "fetch " in lines[3]
    assert "wait for memory 0.0 s" in lines[3]
    assert re.match(r"device \d+ % busy|[a-z]+-bound: the device was busy \d+ %; raise ", lines[4])


def test_the_record_of_an_older_version_names_no_bottleneck(destination: Path, tmp_path: Path) -> None:
    old = shutil.copytree(destination, tmp_path / "old")
    (record,) = old.glob("_splitfire/runs/*/run.json")
    run = json.loads(record.read_text())
    del run["device"], run["worker_s"]
    record.write_text(json.dumps(run))
    assert len(status_text(str(old), Settings(), as_json=False).splitlines()) == 4


def test_looking_changes_nothing(destination: Path) -> None:
    before = tree(destination)
    status_text(str(destination), Settings(), as_json=True)
    assert tree(destination) == before


def test_skipped_tracks_are_neither_done_nor_failed(tmp_path: Path) -> None:
    write_tracks(tmp_path / "source", 2, seconds=2.0)
    job = Job(
        str(tmp_path / "source"),
        str(tmp_path / "out"),
        SeparationConfig(model="passthrough"),
        OutputConfig(skip_without_vocals=-5),
        runtime=RuntimeConfig(open_tracks=1, codecs="inline"),
    )
    separate_here(job)
    status = json.loads(status_text(str(tmp_path / "out"), Settings(), as_json=True))
    (model,) = status["models"]
    assert (model["done"], model["skipped"], model["failed"]) == (0, 2, 0)
    assert model["failures_by_code"] == {}
    assert "2 skipped, 0 failed" in status_text(str(tmp_path / "out"), Settings(), as_json=False)


def test_tracks_that_were_skipped_are_told_of_the_last_run_too(tmp_path: Path) -> None:
    write_tracks(tmp_path / "source", 2, seconds=2.0)
    wish = OutputConfig(skip_without_vocals=-1)
    separate_here(
        Job(str(tmp_path / "source"), str(tmp_path / "out"), SeparationConfig(model="passthrough"), wish)
    )
    lines = status_text(str(tmp_path / "out"), Settings(), as_json=False).splitlines()
    assert re.search(r": 0 done, 2 skipped, 0 failed, 0 left", lines[2])
