"""Catalogues of a million tracks: what listing, planning and planning again take of the driver.

A made-up catalogue is listed and planned in a process of its own, its plan is stored and all its shards are
read back; then the ledger says that everything is done, and another process lists and plans again. What is
printed are CPU-seconds, seconds and the peak of the process's memory. The parts of the second plan's ledger
are covered by a snapshot, as they are after real runs, so they are listed and never opened: they are empty.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from splitfire_batch import job as story
from splitfire_batch.config import CatalogueConfig, OutputConfig, SeparationConfig
from splitfire_batch.job import Job
from splitfire_batch.manifest.holdings import read_holdings
from splitfire_batch.manifest.parts import ROOT, hashed_name
from splitfire_batch.manifest.schema import parquet_bytes
from splitfire_batch.manifest.snapshots import COLUMNS
from splitfire_batch.storage import Store, open_store
from tests.made_catalogues import ROOT as ROOT_URL
from tests.made_catalogues import SOURCES

Result = TypeVar("Result")
SIZES = (100_000, 1_000_000)
MAX_OBJECTS = 100_000
"""Of a bucket: the server takes a minute or two for so many."""
PART_ROWS = 1_000
"""A worker's part has 64 rows at most, a shard of one-shots some 30 parts."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a step took."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    n_todo: int
    n_done: int
    n_shards: int
    steps: dict[str, float]
    """CPU-seconds of each."""


def main(arguments: Sequence[str] = ()) -> None:
    """Print a table of catalogues and what they took."""
    parser = argparse.ArgumentParser(prog="catalogue")
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--source", choices=SOURCES, nargs="+", default=list(SOURCES))
    chosen = parser.parse_args(list(arguments))
    print(f"{'source':10} {'tracks':>11} {'':8} {'CPU s':>7} {'s':>7} {'MB':>7} {'shards':>8}  CPU s of")
    for n in chosen.rows:
        for source in chosen.source:
            if source == "bucket" and n > MAX_OBJECTS:
                continue
            with tempfile.TemporaryDirectory() as folder, SOURCES[source](Path(folder), n) as url:
                _measure(source, url, f"{folder}/out", n)


def _measure(source: str, url: str, destination: str, n: int) -> None:
    first = plan_in_child(url, destination)
    assert (first.n_todo, first.n_done) == (n, 0), first
    _print(source, n, "plan", first)
    settle_all(open_store(destination, {}))
    again = plan_in_child(url, destination)
    assert (again.n_todo, again.n_done) == (0, n), again
    _print(source, n, "again", again)


def _print(source: str, n: int, step: str, use: Use) -> None:
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in use.steps.items())
    numbers = f"{use.cpu_s:7.1f} {use.wall_s:7.1f} {use.peak_mb:7.0f} {use.n_shards:8,}"
    print(f"{source:10} {n:11,} {step:8} {numbers}  {steps}", flush=True)


def job_of(source: str, destination: str) -> Job:
    """Names end in hashes: nothing is compared with a listing of stems, of which there are none here."""
    return Job(
        source,
        destination,
        SeparationConfig(model="passthrough"),
        OutputConfig(names="immutable"),
        CatalogueConfig(allow_root=(ROOT_URL,)),
    )


def plan_in_child(source: str, destination: str) -> Use:
    """`plan_here` in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.catalogue", source, destination]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return Use(**json.loads(done.stdout))


def plan_here(source: str, destination: str) -> Use:
    """List and plan in this process, store the plan, read its shards."""
    job, began, steps = job_of(source, destination), time.monotonic(), {}
    catalogue = _timed("list", steps, lambda: story.list_tracks(job))
    run = _timed("plan", steps, lambda: story.make_plan(job, catalogue))
    if run.plan.n_tracks:
        _timed("save", steps, lambda: story.save_plan(run))
    n_shards = _timed("shards", steps, lambda: sum(1 for _ in run.plan.shards()))
    status = Path("/proc/self/status").read_text()
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    wall_s = time.monotonic() - began
    return Use(
        time.process_time(), wall_s, peak_kb / 1e3, run.plan.n_tracks, run.plan.n_done, n_shards, steps
    )


def _timed(name: str, steps: dict[str, float], work: Callable[[], Result]) -> Result:
    begin = time.process_time()
    result = work()
    steps[name] = time.process_time() - begin
    return result


def settle_all(store: Store) -> None:
    """Have the ledger say that every track of the stored plan is done: a snapshot, and parts to be listed."""
    (holding,) = read_holdings(store)
    (plan,) = (found.path for found in store.list_under(f"{ROOT}/runs") if "/plan/" in found.path)
    told = ("track_id", "source_id", "target", "duration_s")
    planned = pq.read_table(f"{store.url}/{plan}", columns=list(told))
    run_id = plan.split("/")[2]
    folder = f"{ROOT}/parts/{holding.settings_id}/{run_id}"
    parts = [f"{folder}/{number:012x}.parquet" for number in range(-(-len(planned) // PART_ROWS))]
    Path(store.url, folder).mkdir(parents=True)
    for part in parts:
        Path(store.url, part).touch()
    values = {
        "settings_id": holding.settings_id,
        "run_id": run_id,
        "status": "done",
        "model": "passthrough",
        "finished_at": 1_700_000_000_000_000,
    }
    columns = [planned[name] if name in told else _same(values.get(name), len(planned)) for name in COLUMNS]
    columns.append(pa.array(parts).take(pa.array(np.arange(len(planned)) // PART_ROWS)))
    data = parquet_bytes(pa.table(columns, names=[*COLUMNS, "part"]))
    store.write(hashed_name(f"{ROOT}/ledger/snapshot-00000001", data), data)


def _same(value: object, n_rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(value), n_rows)


if __name__ == "__main__":
    print(json.dumps(asdict(plan_here(*sys.argv[1:3]))))
