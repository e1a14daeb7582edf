"""Pools of many actors whose devices only sleep, on clusters whose nodes are processes of one machine.

`python -m tests.pool_simulation '{"n_actors": 16, ...}'` prints what became of the shards as JSON; in a
process of its own, because it needs a Ray of its own.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cluster.fake_worker import FakeWorker
from splitfire_batch.records import Committed, Shard, Started
from tests.pool_drills import STORE_BYTES, make_track

START_S = 300.0


@dataclass(frozen=True)
class Simulation:
    """A cluster, the work, and what befalls the cluster."""

    n_actors: int
    n_nodes: int
    shard_s: float
    n_shards: int
    n_tracks: int = 1
    """Per shard, of equal length, one after the other on the device."""
    remove_nodes: int = 0
    """So many nodes die when a third of the tracks is done, and"""
    add_nodes: int = 0
    """so many come then."""


@dataclass
class Outcome:
    """What a simulation measured."""

    busy: float = 0.0
    """Part of their time that devices worked, between the first and the last 2 % of the tracks."""
    busy_all: float = 0.0
    """The same from when all actors were up to the end of the last track."""
    n_settled: int = 0
    n_settled_twice: int = 0
    n_begun_again: int = 0
    n_workers: int = 0
    wall_s: float = 0.0
    driver_cpu_s: float = 0.0
    commits: list[float] = field(default_factory=list, repr=False)


def simulate(simulation: Simulation) -> Outcome:
    """Run it in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.pool_simulation", json.dumps(asdict(simulation))],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    if done.returncode:
        raise RuntimeError(f"the simulation ended with {done.returncode}: {done.stderr[-3000:]}")
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def make_shards(simulation: Simulation) -> Iterator[Shard]:
    """As they are asked for."""
    for s in range(simulation.n_shards):
        yield Shard(f"s{s}", tuple(make_track(f"s{s}t{t}") for t in range(simulation.n_tracks)))


def start_together(folder: str, n_actors: int, **settings: Any) -> FakeWorker:
    """A worker that is there once all are: what is measured then is not how fast processes start."""
    Path(folder, str(os.getpid())).touch()
    give_up_at = time.monotonic() + START_S
    while (n_there := sum(1 for _ in Path(folder).iterdir())) < n_actors:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{n_there} of {n_actors} actors after {START_S} s")
        time.sleep(0.05)
    return FakeWorker(**settings)


def run(simulation: Simulation) -> Outcome:
    """In this process, which must not be connected to a Ray."""
    import ray
    from ray.cluster_utils import Cluster

    from cluster.actors import PoolSize
    from cluster.own_ray import few_processes
    from cluster.pool import run_shards

    n_per_node = simulation.n_actors // simulation.n_nodes
    node = {"num_cpus": n_per_node, "num_gpus": n_per_node, "object_store_memory": STORE_BYTES}
    with few_processes(is_verbose=False):
        cluster = Cluster(True, head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES})
        nodes = [cluster.add_node(**node) for _ in range(simulation.n_nodes)]
    cluster.wait_for_nodes()
    ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    track_s = simulation.shard_s / simulation.n_tracks
    settings: dict[str, Any] = {"track_s": track_s, "open_tracks": 1, "takes_turns": True}
    started, settled, workers = Counter[str](), Counter[str](), set[str | None]()
    outcome, first = Outcome(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        make_worker = partial(start_together, folder, simulation.n_actors, **settings)
        size = PoolSize(simulation.n_actors, 1, 1, 1)
        begin, cpu = time.monotonic(), time.process_time()
        for event in run_shards(make_shards(simulation), make_worker, size):
            now = time.monotonic() - begin
            if isinstance(event, Started):
                started[event.track_id] += 1
                first = first or now
            elif isinstance(event, Committed):
                settled.update(each.track_id for each in event.outcomes)
                workers |= {each.message for each in event.outcomes}
                outcome.commits += [now] * len(event.outcomes)
                if simulation.remove_nodes and len(nodes) and 3 * len(settled) >= _n_tracks(simulation):
                    for dying in nodes[: simulation.remove_nodes]:
                        cluster.remove_node(dying, allow_graceful=False)
                    for _ in range(simulation.add_nodes):
                        cluster.add_node(**node)
                    nodes = []
        outcome.wall_s, outcome.driver_cpu_s = time.monotonic() - begin, time.process_time() - cpu
    ray.shutdown()
    cluster.shutdown()
    outcome.n_settled, outcome.n_workers = len(settled), len(workers)
    outcome.n_settled_twice = sum(n > 1 for n in settled.values())
    outcome.n_begun_again = sum(n > 1 for n in started.values())
    _measure(outcome, first, track_s, simulation.n_actors)
    return outcome


def _n_tracks(simulation: Simulation) -> int:
    return simulation.n_shards * simulation.n_tracks


def _measure(outcome: Outcome, first: float, track_s: float, n_actors: int) -> None:
    commits = sorted(outcome.commits)
    edge = max(1, len(commits) // 50)
    inner_s = commits[-edge] - commits[edge - 1]
    outcome.busy = (len(commits) - 2 * edge + 1) * track_s / n_actors / inner_s
    outcome.busy_all = len(commits) * track_s / n_actors / (commits[-1] - first)
    outcome.commits = []


if __name__ == "__main__":
    print(json.dumps(asdict(run(Simulation(**json.loads(sys.argv[1]))))))
