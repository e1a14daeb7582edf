"""SIGKILL at random moments, the same job again, until it is done: nothing is lost, wrong, twice or redone.

Most kills hit jobs that run in one process, which costs half a second each; others hit the actors and the
driver of a job on a real Ray, and of the command line with everything it starts. Seeded; the gate takes 20
kills, `make chaos` more than 200, over a folder and a real S3 server.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.forks import Forks
from tests.in_process_job import JobOrder
from tests.small_library import Library, write_one_shots
from tests.trials import SETTLED, Counts, Trial

SEED = 55
N_TRACKS = 8
_EVENTS = 60
"""About as many as a whole job has."""


@pytest.fixture(scope="module")
def storm_library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return write_one_shots(tmp_path_factory.mktemp("storm"), N_TRACKS)


def storm(trial: Trial, chance: random.Random, n_kills: int) -> None:
    """Kill so many runs of the job, each after a random number of events, unless one is done before."""
    for _ in range(n_kills):
        pid = trial.start()
        wait_for_events(Path(trial.order.journal), chance.randrange(_EVENTS), trial.forks, pid)
        time.sleep(chance.uniform(0, 0.02))
        code = trial.forks.kill(pid)
        if code in SETTLED:  # it was quicker than the kill
            break
        assert code == -9, trial.told()
        trial.counts.kills += 1
        trial.look(pid)
    trial.resume()


def wait_for_events(journal: Path, n_events: int, forks: Forks, pid: int) -> None:
    """Return when a run has noted so many events, or is at its end."""
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at and forks.is_running(pid):
        if journal.exists() and journal.read_bytes().count(b"\n") >= n_events:
            return
        time.sleep(0.001)


def many_storms(
    kinds: list[tuple[str, str]], n_kills: int, seed: int, forks: Forks, library: Library, folder: Path
) -> Counts:
    """Storms over one destination after the other until there were enough kills."""
    chance, counts, number = random.Random(seed), Counts(), 0
    while counts.kills < n_kills:
        root, names = kinds[number % len(kinds)]
        order = JobOrder(
            source=str(library.folder),
            destination=f"{root}/storm{number}",
            journal=str(folder / f"storm{number}.jsonl"),
            names=names,
            open_tracks=2,
        )
        trial = Trial(forks, library, order, counts)
        storm(trial, chance, min(6, n_kills - counts.kills))
        trial.idle()
        number += 1
    return counts


def test_jobs_that_are_killed_again_and_again_lose_nothing(
    forks: Forks, storm_library: Library, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = [(str(tmp_path), "plain"), (bucket, "immutable")]
    counts = many_storms(kinds, 16, SEED, forks, storm_library, tmp_path)
    with capsys.disabled():
        print(f"\nkill storm, jobs in one process: {counts}")
    assert (counts.lost, counts.wrong, counts.duplicate, counts.redone, counts.surviving) == (0,) * 5
