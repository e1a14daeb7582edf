"""What the pool leaves idle: actors with devices that only sleep, on clusters of many nodes.

16 actors with shards of half a second, 64 on 8 nodes with shards of 5 s, and 32 on 8 nodes of which two die
and one comes; then the driver's part of 100,000 shards. `--quick` leaves out the 64.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Sequence

from cluster.ledger import Ledger
from splitfire_batch.records import Committed, Outcome, Started
from tests.pool_simulation import Simulation, make_shards, simulate

N_QUEUED = 100_000


def main(arguments: Sequence[str] = ()) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="pool")
    parser.add_argument("--quick", action="store_true", help="without the 64 actors")
    is_quick = parser.parse_args(list(arguments)).quick
    cases = [Simulation(16, 1, 0.5, 16 * 40)]
    if not is_quick:
        cases.append(Simulation(64, 8, 5.0, 64 * 20))
    cases.append(Simulation(32, 8, 4.0, 32 * 12, n_tracks=4, remove_nodes=2, add_nodes=1))
    print("actors  nodes    shards            busy  to the end  settled  twice  again  driver CPU-s")
    for case in cases:
        found = simulate(case)
        change = f" -{case.remove_nodes} +{case.add_nodes}" if case.remove_nodes else ""
        nodes = f"{case.n_nodes}{change}"
        print(
            f"{case.n_actors:6}  {nodes:7}  {case.n_shards:5} of {case.shard_s:3g} s   {found.busy:8.1%}  "
            f"{found.busy_all:10.1%}  {found.n_settled:7}  {found.n_settled_twice:5}  {found.n_begun_again:5}"
            f"  {found.driver_cpu_s:12.1f}",
            flush=True,
        )
    _measure_ledger()


def _measure_ledger() -> None:
    """The bookkeeping of a queue of shards, one track each, without Ray."""
    tracemalloc.start()
    begin = time.process_time()
    ledger = Ledger(make_shards(Simulation(1, 1, 1.0, N_QUEUED)))
    while assignment := ledger.take(is_idle=True):
        shard = assignment.shard
        (track,) = shard.tracks
        ledger.note(Started(shard.shard_id, track.track_id))
        outcome = Outcome(track.track_id, track.path, "done", None, None, 1.0, 1)
        ledger.note(Committed(shard.shard_id, (outcome,)))
        ledger.close(shard.shard_id)
    seconds, (_, peak) = time.process_time() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"\n{N_QUEUED:,} shards through the ledger: {seconds:.1f} CPU-s, {peak / 2**20:.1f} MiB at most")
