"""Whole jobs on machines whose disk is full or whose clock is wrong: a clear end; the next run is right."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from tests.assets import one_shots
from tests.forks import Forks
from tests.in_process_job import JobOrder
from tests.invariants import inspect, objects_at, settled
from tests.small_library import Library
from tests.trials import SETTLED, Trial

HOUR_S = 3600.0


@pytest.fixture
def library(one_shot_library: Library, tmp_path: Path) -> Library:
    """A copy that a test may change."""
    shutil.copytree(one_shot_library.folder, tmp_path / "library")
    return Library(tmp_path / "library", dict(one_shot_library.wanted))


def a_trial(forks: Forks, library: Library, destination: Path, names: str = "plain") -> Trial:
    journal = library.folder.parent / f"{destination.name}.jsonl"
    return Trial(forks, library, JobOrder(str(library.folder), str(destination), str(journal), names))


def change_one(library: Library) -> str:
    """Another recording under the same name."""
    path = next(path for path, expected in library.wanted.items() if isinstance(expected, int))
    other = max(one_shots(), key=lambda file: file.stat().st_size)
    shutil.copy(other, library.folder / path)
    library.wanted[path] = soundfile.info(other).frames
    return path


@pytest.mark.parametrize("names", ["plain", pytest.param("immutable", marks=pytest.mark.chaos)])
@pytest.mark.parametrize("skew_s", [HOUR_S, -HOUR_S], ids=["ahead", "behind"])
def test_a_run_with_a_wrong_clock_misleads_no_later_one(
    skew_s: float, names: str, forks: Forks, library: Library, tmp_path: Path
) -> None:
    """The later run redoes what has changed, its rows count, and nothing is left to do after it."""
    trial = a_trial(forks, library, tmp_path / "out", names)
    assert forks.run(replace(trial.order, skew_s=skew_s), trial.log) in SETTLED, trial.told()
    Path(trial.order.journal).unlink()
    change_one(library)
    assert forks.run(trial.order, trial.log) in SETTLED, trial.told()
    found = inspect(objects_at(trial.order.destination), library.wanted, is_immutable=False)
    assert (found.lost, found.wrong, found.duplicate, found.redone) == ([], [], [], []), str(found)
    trial.idle()
    Path(trial.order.journal).unlink()
    assert forks.run(replace(trial.order, skew_s=-skew_s, vacuums=True), trial.log) == 0, trial.told()
    found = inspect(objects_at(trial.order.destination), library.wanted, is_immutable=False, is_vacuumed=True)
    assert not str(found)


def test_a_vacuum_whose_clock_is_ahead_does_not_take_young_for_old(
    forks: Forks, library: Library, tmp_path: Path
) -> None:
    trial = a_trial(forks, library, tmp_path / "out")
    assert forks.run(trial.order, trial.log) in SETTLED, trial.told()
    old = {path for path in objects_at(trial.order.destination).paths() if path.endswith(".wav")}
    young = tmp_path / "out/.splitfire-0123456789abcdef.tmp"
    young.write_bytes(b"of a write that goes on")
    order = replace(trial.order, skew_s=HOUR_S, vacuums=True, vacuum_older_s=HOUR_S / 2)
    assert forks.run(order, trial.log) == 0, trial.told()
    assert young.exists()
    assert old <= set(objects_at(trial.order.destination).paths())


@pytest.mark.parametrize("max_file_bytes", [8_000, 15_000], ids=["nothing fits", "some stems fit"])
def test_a_full_destination_tears_nothing_and_the_next_run_finishes(
    max_file_bytes: int, forks: Forks, library: Library, tmp_path: Path
) -> None:
    """Where not even the rows can be stored, the run ends; else the tracks fail, and are tried again."""
    trial = a_trial(forks, library, tmp_path / "out")
    pid = trial.start(max_file_bytes=max_file_bytes)
    code = forks.wait(pid)
    assert code in (2, 3, 75), trial.told()
    assert "the disk or the quota is full" in trial.told()
    trial.look(pid)
    trial.resume()
    trial.idle()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("what", ["destination", "scratch"])
def test_a_disk_that_runs_full_in_the_midst_is_a_failure_that_can_be_retried(
    what: str, small_disk: Path, forks: Forks, library: Library, tmp_path: Path
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(230_000))
    destination = small_disk / "out" if what == "destination" else tmp_path / "out"
    trial = a_trial(forks, library, destination)
    scratch = {"scratch_dir": str(small_disk)} if what == "scratch" else {}
    big = library.folder / "long.wav"
    soundfile.write(big, soundfile.read(str(next(library.folder.glob("h*.wav"))))[0].repeat(12), 44_100)
    library.wanted["long.wav"] = soundfile.info(big).frames
    pid = trial.start(runtime=scratch)
    assert forks.wait(pid) in (2, 3, 75), trial.told()
    trial.look(pid)
    assert "long.wav" not in settled(objects_at(trial.order.destination), by="path")
    assert "full" in trial.told()
    ballast.unlink()
    if what == "destination":  # the stems need more than the disk has, ballast or not
        subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    trial.resume()
    trial.idle()
