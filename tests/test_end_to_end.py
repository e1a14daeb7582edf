"""The main job on real parts: a real library, the real model, real Ray and Prefect, from store to store.

Files of Debian's sonic-pi-samples (all 166 of them in the long tier), a pop excerpt and three bad files go
through `splitfire run` as an operator types it; what comes out is read back with soundfile and pyarrow.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from cluster.actors import RemoteWorker
from cluster.on_ray import on_ray
from splitfire_batch import job as story
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.job import Job
from splitfire_batch.report import Progress
from splitfire_batch.storage import Store, open_store
from tests.assets import audio_example, sonic_pi_samples
from tests.prefect_server import make_prefect_home

SPLITFIRE = str(Path(sys.executable).with_name("splitfire"))
NEEDED = ("bd_808.flac", "drum_cowbell.flac", "loop_amen_full.flac")
BAD = {"bad/empty.wav": "EMPTY", "bad/text.wav": "NOT_AUDIO", "bad/truncated.flac": "TRUNCATED"}


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    report: dict[str, Any]
    stderr: str


def _library(source: Store, step: int) -> dict[str, Path]:
    """Fill a store with each `step`-th sample; returns the good files by their paths in it."""
    root = sonic_pi_samples().parent
    samples = sorted(path for path in root.rglob("*") if path.suffix in (".flac", ".wav"))
    used = [path for n, path in enumerate(samples) if n % step == 0 or path.name in NEEDED]
    good = {str(path.relative_to(root)): path for path in used}
    good["pop/audio_example.mp3"] = audio_example()
    for path, file in good.items():
        source.write(path, file)
    source.write("bad/empty.wav", b"")
    source.write("bad/text.wav", b"Dear all, please find the stems attached.")
    amen = next(file for path, file in good.items() if path.endswith("loop_amen_full.flac"))
    source.write("bad/truncated.flac", amen.read_bytes()[:100_000])
    return good


def _run(source: str, destination: str, home: Path) -> Outcome:
    """`splitfire run` with two workers, as a user's shell would start it."""
    environment = {**os.environ, "PREFECT_HOME": str(home)}
    command = [SPLITFIRE, "run", source, destination, "--workers", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.stdout, done.stderr
    return Outcome(done.returncode, json.loads(done.stdout[done.stdout.index("{") :]), done.stderr)


def _tracks(store: Store, to: Path) -> list[dict[str, Any]]:
    """The manifest's view, in one statement."""
    table: pa.Table = pq.read_table(store.fetch("_splitfire/views/tracks.parquet", to / "tracks.parquet"))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _check_stems(rows: list[dict[str, Any]], good: dict[str, Path], store: Store, to: Path) -> None:
    """Every stem of every good file has the file's frames, rate and channels."""
    for row in rows:
        if row["status"] == "failed":
            continue
        with soundfile.SoundFile(str(good[row["path"]])) as source:
            wanted = (source.samplerate, source.channels)
            n_frames = sum(len(block) for block in source.blocks(65_536))
        assert [stem["stem"] for stem in row["stems"]] == ["vocals", "accompaniment"]
        for stem in row["stems"]:
            written = soundfile.info(str(store.fetch(stem["path"], to / "stem")))
            assert (written.samplerate, written.channels) == wanted, row["path"]
            assert written.frames == n_frames == stem["n_frames"], row["path"]


@pytest.mark.apt
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="the samples come as a Debian package")
@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("s3", 40),
        pytest.param("s3", 1, marks=pytest.mark.slow),
        pytest.param("folder", 1, marks=pytest.mark.slow),
    ],
)
def test_a_library_with_bad_files_is_separated_once_and_only_once(
    kind: str, step: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue("bucket") if kind == "s3" else str(tmp_path)
    source, destination = open_store(f"{root}/library", {}), open_store(f"{root}/stems", {})
    good = _library(source, step)
    n_good = len(good)

    home = make_prefect_home(tmp_path / "prefect")
    first = _run(source.url, destination.url, home)
    assert first.exit_code == 3, first.stderr
    assert (first.report["n_done"], first.report["n_failed"]) == (n_good, 3)
    rows = _tracks(destination, tmp_path)
    assert {row["path"]: row["code"] for row in rows if row["status"] == "failed"} == BAD
    assert all(row["message"].startswith(row["path"]) for row in rows if row["message"])
    assert len(rows) == n_good + 3
    _check_stems(rows, good, destination, tmp_path)

    second = _run(source.url, destination.url, home)
    assert second.exit_code == 0, second.stderr
    assert (second.report["n_planned"], second.report["n_done_before"]) == (0, n_good)
    assert second.report["n_failed_before"] == 3

    if step > 1:
        return  # the long tier goes on: what changes is done again
    changed = "samples/bd_808.flac"
    source.write(changed, good["samples/drum_cowbell.flac"])
    third = _run(source.url, destination.url, home)
    assert third.exit_code == 0, third.stderr
    assert (third.report["n_planned"], third.report["n_done"]) == (1, 1)
    good[changed] = good["samples/drum_cowbell.flac"]
    latest = _tracks(destination, tmp_path)
    assert len(latest) == n_good + 3
    _check_stems([row for row in latest if row["path"] == changed], good, destination, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_actor_costs_no_track(tmp_path: Path) -> None:
    source, out = tmp_path / "library", tmp_path / "stems"
    source.mkdir()
    for number in range(8):
        shutil.copy(audio_example(), source / f"{number}.mp3")
    job = Job(
        str(source),
        str(out),
        separation=SeparationConfig(stems=("vocals",)),
        runtime=RuntimeConfig(workers=2, shard_s=0.1, open_tracks=2),
    )
    run = story.make_plan(job, story.list_tracks(job), n_workers=2)
    story.save_plan(run)
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if progress.n_settled and not killed:
            victim = next(worker for worker in _workers() if worker.pid and worker.shard_ids)
            killed.append(victim.pid or 0)
            victim.kill()  # ray.kill

    with on_ray(job.runtime, threading.Event()) as run_shards:
        tally = story.separate(run, run_shards, kill_one)
    report = story.finalise(run, tally)

    assert killed
    assert (report.n_done, report.n_failed, report.n_unsettled) == (8, 0, 0)
    rows = _tracks(open_store(str(out), {}), tmp_path)
    assert sorted(row["path"] for row in rows) == [f"{number}.mp3" for number in range(8)]
    assert all((out / stem["path"]).is_file() for row in rows for stem in row["stems"])


def _workers() -> list[RemoteWorker]:
    """The actors of this process, as the pool sees them."""
    return [found for found in gc.get_objects() if type(found) is RemoteWorker]
