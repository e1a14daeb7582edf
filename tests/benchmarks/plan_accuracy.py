"""Plan accuracy: what `splitfire plan` says of real music and samples, against the run that follows it.

Each library is begun with a sample of its tracks, which measures this installation, as an operator would do
it; then the rest is planned, run by the real command line with Prefect, Ray and model, and compared; with
`--here` by one worker with one thread in this process. Weights are those of the machine's cache; measurements
of earlier runs are not used, and are not changed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from splitfire_batch import job as story
from splitfire_batch.config import CatalogueConfig, RuntimeConfig
from splitfire_batch.job import Job
from splitfire_batch.models.weights import cache_folder
from splitfire_batch.throughput import keep_throughput
from tests.assets import singularity_music, sonic_pi_samples
from tests.in_process_job import in_this_process
from tests.small_library import COMMAND, environment

Numbers = Mapping[str, Any]
LIBRARIES = {"music": singularity_music, "samples": sonic_pi_samples}
FLOOR = 0.25
FIRST_PERCENT = 25.0
PRICE = 1.0


def main(arguments: Sequence[str] = ()) -> None:
    """Print a table for each library, and how far device time was off."""
    parser = argparse.ArgumentParser(prog="plan_accuracy")
    parser.add_argument("--library", choices=LIBRARIES, action="append", help="default: all")
    parser.add_argument("--first", type=float, default=FIRST_PERCENT, help="percent that are run to measure")
    parser.add_argument("--here", action="store_true", help="without Prefect and Ray")
    options = parser.parse_args(arguments)
    carry_out = _carry_out_here if options.here else _carry_out
    for name in options.library or LIBRARIES:
        with tempfile.TemporaryDirectory(prefix="splitfire-plan-") as folder:
            (Path(folder) / "cache").mkdir()
            (Path(folder) / "cache" / "weights").symlink_to(cache_folder())
            _compare(name, *carry_out(LIBRARIES[name](), Path(folder), options.first))


def _carry_out(source: Path, root: Path, first: float) -> tuple[Numbers, Numbers]:
    """By the command line: what `plan` says of all but a first part, and the report of its run."""
    variables = environment(root / "prefect") | {"SPLITFIRE_CACHE": str(root / "cache")}
    del variables["OMP_NUM_THREADS"]
    job = (str(source), str(root / "stems"), "--gpu-hourly", str(PRICE))
    _call(variables, "run", *job, "--sample", str(first))
    return _call(variables, "plan", *job), _call(variables, "run", *job)


def _carry_out_here(source: Path, root: Path, first: float) -> tuple[Numbers, Numbers]:
    """The same in this process."""
    runtime = RuntimeConfig(workers=1, threads=1, gpu_hourly=PRICE)
    job = Job(str(source), str(root / "stems"), runtime=runtime)
    found: dict[str, Any] = {}
    with patch.dict(os.environ, {"SPLITFIRE_CACHE": str(root / "cache")}):
        for one in (replace(job, catalogue=CatalogueConfig(sample=first)), job):
            run = story.save_plan(story.make_plan(one, story.list_tracks(one)))
            report = story.finalise(run, story.separate(run, in_this_process, lambda _: None))
            keep_throughput(job.separation, runtime, report.usage, report.run_id)
            found = report.as_dict()
    plan = {"done_before": found["n_done_before"], "todo": found["n_planned"], "forecast": found["forecast"]}
    return plan, found


def _compare(name: str, plan: Numbers, report: Numbers) -> None:
    before = plan["forecast"]
    after = {
        "device seconds": report["device_s"],
        "audio seconds": report["audio_s"],
        "bytes of stems": report["n_bytes_out"],
        "wall seconds": report["wall_s"],
        "cost": report["cost"],
    }
    keys = ("device_s", "audio_s", "n_bytes_out", "wall_s", "cost")
    print(f"{name}: {plan['done_before']} tracks measured, {plan['todo']} planned; {before['throughput']}")
    print(f"durations: {before['durations']}, audio give or take {before['audio_error_s']:.1f} s")
    print(f"{'':16} {'planned':>14} {'actual':>14} {'planned / actual':>17}")
    for (label, actual), key in zip(after.items(), keys, strict=True):
        print(f"{label:16} {before[key]:14,.2f} {actual:14,.2f} {before[key] / actual:17.2f}")
    error = abs(before["device_s"] / report["device_s"] - 1)
    print(f"\ndevice time off by {error:.0%}; floor {FLOOR:.0%}\n", flush=True)


def _call(variables: Mapping[str, str], *words: str) -> Numbers:
    """What the command line prints as JSON; failed tracks are no failure of it."""
    command = [*COMMAND, *words, "--json"]
    done = subprocess.run(command, env=dict(variables), capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"splitfire {words[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
