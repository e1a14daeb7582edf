"""Memory of a worker: a 3 h track against one of 20 minutes, and 5,000 one-shots against 500.

The real model and CPU defaults, folder to folder, in a process of its own; every tenth of a second the PSS
of it and its children is read. `--whole` does the long tracks with `splitfire run` instead, and says what Ray
and Prefect hold of the sum. `--quick` is a twentieth of it all.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.manifest.schema import RunContext
from splitfire_batch.records import Committed, Shard, Started, Track
from splitfire_batch.spec import WorkerSpec
from tests.benchmarks.library import cycled_one_shots, write_long_track
from tests.benchmarks.processes import pss_by_role, pss_mb, tree
from tests.small_library import COMMAND, environment

LIMIT_MB = 1500
_EVERY_S = 0.1
_CONTEXT = RunContext("run", "settings", "catalogue", "spleeter-2stems", "weights", "fp32")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is separated."""

    short_s: float = 20 * 60
    long_s: float = 3 * 3600
    few: int = 500
    many: int = 5000


QUICK = Scale(short_s=90, long_s=400, few=50, many=500)


@dataclass(frozen=True, slots=True)
class Reading:
    """PSS of a worker and its children, and how many tracks it had begun by then."""

    n_begun: int
    mb: float


def main(arguments: Sequence[str] = ()) -> None:
    """Print megabytes, ratios and their bounds."""
    parser = argparse.ArgumentParser(prog="memory")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the audio")
    parser.add_argument("--whole", action="store_true", help="with `splitfire run`, by kind of process")
    options = parser.parse_args(arguments)
    scale = QUICK if options.quick else Scale()
    print(f"{'':34} {'peak MB':>9} {'median MB':>10}")
    if options.whole:
        _print_whole(scale)
        return
    short, long = (read_long_track(seconds) for seconds in (scale.short_s, scale.long_s))
    _print(f"one track of {scale.short_s / 60:.0f} min", short)
    _print(f"one track of {scale.long_s / 60:.0f} min", long)
    shots = read_one_shots(scale)
    _print(f"{scale.many} one-shots", shots)
    first, last = at_track(shots, scale.few, scale), at_track(shots, scale.many, scale)
    for n, mb in ((scale.few, first), (scale.many, last)):
        print(f"{f'  at track {n}':34} {'':9} {mb:10.0f}")
    print(f"\nlong / short {peak_mb(long) / peak_mb(short):.3f}; bound 1.10")
    print(f"track {scale.many} / track {scale.few} {last / first:.3f}; bounds 0.95 to 1.05")
    print(f"highest {max(map(peak_mb, (short, long, shots))):.0f} MB; bound {LIMIT_MB} MB")


def read_long_track(seconds: float) -> list[Reading]:
    """A worker separates one track of music of that length."""
    with tempfile.TemporaryDirectory(prefix="splitfire-memory-") as folder:
        track = write_long_track(Path(folder) / "source" / "long.flac", seconds)
        return list(_read_worker((track,), Path(folder)))


def read_one_shots(scale: Scale) -> list[Reading]:
    """A worker separates `scale.many` one-shots, the same after every `scale.few`."""
    with tempfile.TemporaryDirectory(prefix="splitfire-memory-") as folder:
        return list(_read_worker(cycled_one_shots(scale.many, scale.few), Path(folder)))


def at_track(readings: Sequence[Reading], n: int, scale: Scale) -> float:
    """Median megabytes while the last tenth of the period that ends with track `n` was begun."""
    return statistics.median(r.mb for r in readings if n - scale.few // 10 <= r.n_begun <= n)


def peak_mb(readings: Sequence[Reading]) -> float:
    """The highest reading."""
    return max(reading.mb for reading in readings)


def _print(name: str, readings: Sequence[Reading]) -> None:
    median = statistics.median(reading.mb for reading in readings)
    print(f"{name:34} {peak_mb(readings):9.0f} {median:10.0f}", flush=True)


def _read_worker(tracks: Sequence[Track], folder: Path) -> Iterator[Reading]:
    """Readings from the first track's beginning to the last one's row."""
    spec = WorkerSpec(
        destination=str(folder / "out"),
        separation=SeparationConfig(),
        output=OutputConfig(),
        runtime=RuntimeConfig(),
        context=_CONTEXT,
        is_immutable=False,
        threads=os.cpu_count() or 1,
    )
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_work, args=(spec, Shard("memory", tuple(tracks)), theirs))
    child.start()
    theirs.close()
    n_begun, n_done, pid = 0, 0, child.pid or 0
    try:
        while n_done < len(tracks):
            while ours.poll():
                told = ours.recv()  # EOFError: the worker died, and said why on stderr
                n_begun, n_done = n_begun + (told == 0), n_done + told
            if n_begun:
                yield Reading(n_begun, sum(map(pss_mb, tree(pid))))
            time.sleep(_EVERY_S)
    finally:
        ours.close()
        child.join()


def _work(spec: WorkerSpec, shard: Shard, parent: Connection) -> None:
    """In the child: tell 0 for a track begun, n for n tracks done."""
    worker = spec()
    for event in worker.run_shard(shard):
        if isinstance(event, Started):
            parent.send(0)
        elif isinstance(event, Committed):
            assert all(outcome.status == "done" for outcome in event.outcomes), event.outcomes
            parent.send(len(event.outcomes))
    worker.close()


def _print_whole(scale: Scale) -> None:
    """`splitfire run` of one long track, as an operator starts it."""
    with tempfile.TemporaryDirectory(prefix="splitfire-memory-") as folder:
        write_long_track(Path(folder) / "source" / "long.flac", scale.short_s)
        readings = list(_read_run(Path(folder)))
    working = [reading for reading in readings if reading.get("worker")]
    for role in sorted({role for reading in working for role in reading}):
        found = [reading.get(role, 0.0) for reading in working]
        print(f"{role:34} {max(found):9.0f} {statistics.median(found):10.0f}")
    sums = [sum(reading.values()) for reading in working]
    print(f"{'in all':34} {max(sums):9.0f} {statistics.median(sums):10.0f}")
    print(f"\nhighest {max(sums):.0f} MB while a worker lived; bound {LIMIT_MB} MB")


def _read_run(folder: Path) -> Iterator[dict[str, float]]:
    """Megabytes by role, every tenth of a second."""
    command = [*COMMAND, "run", str(folder / "source"), str(folder / "out"), "--quiet"]
    with subprocess.Popen(command, env=_environment(folder), stdout=sys.stderr) as process:
        while process.poll() is None:
            yield pss_by_role(process.pid, _role)
            time.sleep(_EVERY_S)
    assert process.returncode == 0, f"splitfire run ended with exit code {process.returncode}"


def _environment(folder: Path) -> dict[str, str]:
    variables = environment(folder / "prefect")
    del variables["OMP_NUM_THREADS"]
    return variables


def _role(command_line: str) -> str:
    """What a process of `splitfire run` is, by its command line."""
    if "SeparatorActor" in command_line:
        return "worker"
    if "prefect" in command_line and "flows.cli" not in command_line:
        return "Prefect's server"
    if "flows.cli" in command_line:
        return "driver"
    return "Ray's own"
