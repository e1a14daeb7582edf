"""SIGKILL at random moments, the same job again, until it is done: nothing is lost, wrong, twice or redone.

Most kills hit jobs that run in one process, which costs half a second each, over a folder and a real S3
server; others the actors of a job on a real Ray. Seeded; the gate takes 20 kills, `make chaos` more than 200.
`test_killed_commands` kills the processes of the command line.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.actors import RemoteWorker
from cluster.session import connect
from splitfire_batch.job import RunShards
from splitfire_batch.records import Quarantined, Shard, ShardEvent
from splitfire_batch.spec import WorkerSpec
from tests.crash_points import Journal, read_journal
from tests.forks import Forks, has_ended
from tests.in_process_job import JobOrder, on_its_ray, run
from tests.invariants import Findings, inspect, objects_at
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
        wait_for_events(Path(trial.order.journal), chance.randrange(_EVENTS), pid)
        time.sleep(chance.uniform(0, 0.02))
        code = trial.forks.kill(pid)
        if code in SETTLED:  # it was quicker than the kill
            break
        assert code == -9, trial.told()
        trial.counts.kills += 1
        trial.look(pid)
    trial.resume()


def wait_for_events(journal: Path, n_events: int, pid: int) -> None:
    """Return when a run has noted so many events, or is at its end."""
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at and not has_ended(pid, within_s=0.001):
        if journal.exists() and journal.read_bytes().count(b"\n") >= n_events:
            return


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
            runtime={
                "codecs": ("inline", "children")[number // len(kinds) % 2],
                "scratch_dir": str(folder / f"scratch{number}"),
            },
        )
        (folder / f"scratch{number}").mkdir()
        trial = Trial(forks, library, order, counts)
        storm(trial, chance, min(6, n_kills - counts.kills))
        trial.idle()
        assert not list((folder / f"scratch{number}").iterdir())
        number += 1
    return counts


def test_jobs_that_are_killed_again_and_again_lose_nothing(
    forks: Forks, storm_library: Library, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = [(str(tmp_path), "plain"), (bucket, "immutable")]
    counts = many_storms(kinds, 20, SEED, forks, storm_library, tmp_path)
    with capsys.disabled():
        print(f"\nkill storm, jobs in one process: {counts}")
    assert (counts.lost, counts.wrong, counts.duplicate, counts.redone, counts.surviving) == (0,) * 5


def killing(run_shards: RunShards, chance: random.Random, n_kills: int, killed: list[int]) -> RunShards:
    """Kills actors after random numbers of events; not one that has a suspect, which would be given up."""

    def run_and_kill(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent | Quarantined]:
        wait = chance.randrange(1, 4)
        for event in run_shards(shards, spec):
            yield event
            wait -= 1
            victims = [worker for worker in remote_workers() if worker.pid and worker.shard_ids]
            victims = [worker for worker in victims if not any("-retry" in name for name in worker.shard_ids)]
            if wait <= 0 and victims and len(killed) < n_kills:
                pid = chance.choice(victims).pid
                assert pid is not None
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:  # one that was killed before, and is not yet known to be lost
                    continue
                killed.append(pid)
                wait = chance.randrange(3, 9)

    return run_and_kill


def remote_workers() -> list[RemoteWorker]:
    """The actors of this process, as the pool sees them."""
    return [found for found in gc.get_objects() if type(found) is RemoteWorker]


def kill_actors(order: JobOrder, library: Library, chance: random.Random, n_kills: int) -> Counts:
    """One job on a Ray of this process; its actors are killed, and none that was committed is begun again."""
    job, journal, killed = order.job(), Path(order.journal), list[int]()
    report = run(job, Journal(journal), killing(on_its_ray(job), chance, n_kills, killed))
    assert report.exit_code in SETTLED
    found = inspect(objects_at(order.destination), library.wanted, is_immutable=False)
    counts = Counts(kills=len(killed), tracks=len(library.wanted))
    counts.add(replace(found, redone=[], unreferenced=[]))
    settled = set[str]()
    for event in read_journal(journal):
        counts.redone += event["event"] == "started" and event["tracks"][0] in settled
        settled |= set(event["tracks"] if event["event"] == "committed" else ())
    assert replace(found, redone=[], unreferenced=[], temporary=[]) == Findings(), str(found)
    return counts


@pytest.mark.slow
def test_actors_that_are_killed_again_and_again_lose_nothing(
    storm_library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = JobOrder(
        source=str(storm_library.folder),
        destination=str(tmp_path / "out"),
        journal=str(tmp_path / "job.jsonl"),
        names="plain",
        runtime={"workers": 2},
    )
    with connect(n_cpus=2):
        counts = kill_actors(order, storm_library, random.Random(SEED), 4)
    with capsys.disabled():
        print(f"\nkill storm, actors: {counts}")
    assert counts.kills == 4
    assert counts.redone == 0


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_two_hundred_kills_lose_nothing(
    forks: Forks, storm_library: Library, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [(str(tmp_path / names), names) for names in ("plain", "immutable")]
    kinds = [*folders, (f"{bucket}/plain", "plain"), (f"{bucket}/immutable", "immutable")]
    counts = many_storms(kinds, 200, SEED + 1, forks, storm_library, tmp_path)
    with capsys.disabled():
        print(f"\nkill storm, jobs in one process: {counts}")
    assert (counts.lost, counts.wrong, counts.duplicate, counts.redone, counts.surviving) == (0,) * 5
    assert counts.unreferenced == 0
