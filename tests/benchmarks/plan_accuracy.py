"""Plan accuracy: what `splitfire plan` says of real music and samples, against the run that follows it.

Each library is begun with a sample of its tracks, which measures this installation, as an operator would do
it; then the rest is planned, run by the real command line with Prefect, Ray and model, and compared. Weights
are those of the machine's cache; measurements of earlier runs are not used, and are not changed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitfire_batch.models.weights import cache_folder
from tests.assets import singularity_music, sonic_pi_samples
from tests.small_library import COMMAND, environment

LIBRARIES = {"music": singularity_music, "samples": sonic_pi_samples}
FLOOR = 0.25
FIRST_PERCENT = 25.0
PRICE = 1.0


def main(arguments: Sequence[str] = ()) -> None:
    """Print a table for each library, and how far device time was off."""
    parser = argparse.ArgumentParser(prog="plan_accuracy")
    parser.add_argument("--library", choices=LIBRARIES, action="append", help="default: all")
    parser.add_argument("--first", type=float, default=FIRST_PERCENT, help="percent that are run to measure")
    parser.add_argument("options", nargs="*", help="further options of plan and run, behind --")
    options = parser.parse_args(arguments)
    for name in options.library or LIBRARIES:
        _compare(name, LIBRARIES[name](), options.first, options.options)


def _compare(name: str, source: Path, first: float, more: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="splitfire-plan-") as folder:
        root = Path(folder)
        (root / "cache").mkdir()
        (root / "cache" / "weights").symlink_to(cache_folder())
        variables = environment(root / "prefect") | {"SPLITFIRE_CACHE": str(root / "cache")}
        del variables["OMP_NUM_THREADS"]
        job = (str(source), str(root / "stems"), "--gpu-hourly", str(PRICE), *more)
        _call(variables, "run", *job, "--sample", str(first))
        plan = _call(variables, "plan", *job)
        report = _call(variables, "run", *job)
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


def _call(variables: Mapping[str, str], *words: str) -> dict[str, Any]:
    """What the command line prints as JSON; failed tracks are no failure of it."""
    command = [*COMMAND, *words, "--json"]
    done = subprocess.run(command, env=dict(variables), capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"splitfire {words[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
