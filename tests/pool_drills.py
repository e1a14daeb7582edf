"""Accidents that need a Ray of their own, each in a process of its own: `python -m tests.pool_drills NAME`.

Prints as JSON what befell the tracks, and what the pool said of the workers that it lost.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cluster.fake_worker import FakeWorker
from splitfire_batch.records import Committed, PoolEvent, Quarantined, Shard, Started, Suspected, Track

STORE_BYTES = 80_000_000


def drill(name: str, **variables: str) -> dict[str, Any]:
    """What a drill prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.pool_drills", name],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **variables},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def make_shards(n_shards: int, n_tracks: int) -> list[Shard]:
    return [Shard(f"s{s}", tuple(make_track(f"s{s}t{t}") for t in range(n_tracks))) for s in range(n_shards)]


def make_track(track_id: str) -> Track:
    return Track(track_id, track_id, f"mem://{track_id}", track_id, 1, "", "{stem}.{ext}")


class Record(logging.Handler):
    """Takes down events, and the causes of lost workers."""

    def __init__(self) -> None:
        super().__init__()
        self.settled: Counter[str] = Counter()
        self.started: Counter[str] = Counter()
        self.suspected: list[str] = []
        self.given_up: dict[str, str] = {}
        self.pids: set[str | None] = set()
        self.pids_before_loss: set[str | None] = set()
        self.causes: list[str] = []
        logging.getLogger("cluster.pool").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("worker_lost"):
            self.causes.append(str(record.args[2]))  # type: ignore[index]
            self.pids_before_loss = set(self.pids)

    def take(self, events: Iterator[PoolEvent]) -> Iterator[PoolEvent]:
        for event in events:
            if isinstance(event, Started):
                self.started[event.track_id] += 1
            elif isinstance(event, Suspected):
                self.suspected += [track.track_id for track in event.tracks]
            elif isinstance(event, Quarantined):
                self.settled[event.track.track_id] += 1
                self.given_up[event.track.track_id] = event.code
            elif isinstance(event, Committed):
                self.settled.update(outcome.track_id for outcome in event.outcomes)
                self.pids |= {outcome.message for outcome in event.outcomes}
            yield event

    def as_dict(self) -> dict[str, Any]:
        return {
            "settled": dict(self.settled),
            "started_again": sorted(track_id for track_id, n in self.started.items() if n > 1),
            "suspected": self.suspected,
            "given_up": self.given_up,
            "n_workers": len(self.pids),
            "n_new_since_loss": len(self.pids - self.pids_before_loss),
            "causes": self.causes,
        }


def full_memory() -> dict[str, Any]:
    """A track fills the memory whenever it is tried."""
    facts = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
    used = 1 - int(facts["MemAvailable:"]) / int(facts["MemTotal:"])
    os.environ |= {
        "RAY_memory_usage_threshold": f"{used + 0.08:.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    return _alone(2, partial(FakeWorker, leaking=frozenset(["s0t1"])))


def lost_replies() -> dict[str, Any]:
    """Ray carries calls out and loses the answers; RAY_testing_rpc_failure says which."""
    return _alone(4, partial(FakeWorker, track_s=0.2))


def own_node_loss() -> dict[str, Any]:
    """The raylet of a Ray that was started for the run is killed: no other node will ever come."""
    from cluster.actors import PoolSize
    from cluster.pool import run_shards
    from cluster.roster import Patience
    from cluster.session import connect
    from splitfire_batch.errors import TransientError

    with connect(n_cpus=2):
        size, patience = PoolSize(1, 1, 0, 1), Patience(may_grow=False)
        try:
            make_worker = partial(FakeWorker, track_s=2.0)
            for event in run_shards(make_shards(8, 3), make_worker, size, patience=patience):
                if isinstance(event, Committed):
                    _kill_raylet()
        except TransientError as error:
            return {"why": str(error)}
    return {}


def _kill_raylet() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in children:
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"raylet"):
            os.kill(int(pid), signal.SIGKILL)


def _alone(n_shards: int, make_worker: Callable[[], FakeWorker]) -> dict[str, Any]:
    from cluster.actors import PoolSize
    from cluster.pool import run_shards
    from cluster.session import connect

    record = Record()
    with connect(n_cpus=2):
        events = run_shards(make_shards(n_shards, 3), make_worker, PoolSize(1, 1, 0, 1))
        list(record.take(events))
    return record.as_dict()


class Machines:
    """A cluster of a head without CPUs and nodes with one each, connected to."""

    def __init__(self, n_nodes: int) -> None:
        import ray
        from ray.cluster_utils import Cluster

        from cluster.own_ray import few_processes

        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES}
        with few_processes(is_verbose=False):
            self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add() for _ in range(n_nodes)]
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level=logging.ERROR)

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    def remove(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)

    def give_notice(self, node: Any, seconds: float) -> None:
        """As a spot instance gets it: Ray's own chaos tests do it like this."""
        import ray
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client = ray._raylet.GcsClient(address=self.cluster.address)
        is_accepted, why = client.drain_node(
            node.node_id, reason, "spot", int((time.time() + seconds) * 1000)
        )
        assert is_accepted, why

    def run(self, make_worker: Any, record: Record, workers: int = 2) -> Iterator[PoolEvent]:
        from cluster.actors import PoolSize
        from cluster.pool import run_shards

        return record.take(run_shards(make_shards(8, 4), make_worker, PoolSize(workers, 1, 0, 1)))

    def close(self) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()


def node_loss_and_join() -> dict[str, Any]:
    """One of two nodes dies without notice, another one comes; Ray notices after 15 s."""
    machines, record = Machines(2), Record()
    has_happened = False
    for event in machines.run(partial(FakeWorker, track_s=4.0), record):
        if isinstance(event, Committed) and not has_happened:
            has_happened = True
            machines.remove(machines.nodes[0])
            machines.add()
    machines.close()
    return record.as_dict()


def preemption() -> dict[str, Any]:
    """One of two nodes gets notice of six seconds, and is then taken away; another one comes."""
    machines, record = Machines(2), Record()
    taken_at: float | None = None
    is_gone = False
    for event in machines.run(partial(FakeWorker, track_s=1.0), record):
        if isinstance(event, Committed) and taken_at is None:
            taken_at = time.monotonic() + 6
            machines.give_notice(machines.nodes[0], 6)
            machines.add()
        if taken_at and time.monotonic() > taken_at and not is_gone:
            is_gone = True
            machines.remove(machines.nodes[0])
    machines.close()
    return {**record.as_dict(), "is_gone": is_gone}


def felled_nodes() -> dict[str, Any]:
    """A track takes down every node that it is tried on."""
    machines, record = Machines(4), Record()
    for _ in machines.run(partial(FakeWorker, felling=frozenset(["s0t1"])), record, workers=1):
        pass
    machines.close()
    return record.as_dict()


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()), flush=True)
