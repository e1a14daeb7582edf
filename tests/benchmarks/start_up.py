"""Start-up: `splitfire --help`, and `splitfire separate` until the first stem is there; medians of five runs.

Both are new processes, as a shell starts them, with weights in the cache and the machine's file cache warm.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from splitfire_batch.config import SeparationConfig
from splitfire_batch.models import fetch_weights
from tests.assets import audio_example
from tests.small_library import COMMAND, environment

RUNS = 5
_POLL_S = 0.01


def main() -> None:
    """Print medians, extremes and bounds."""
    fetch_weights(SeparationConfig())
    print(f"{'':40} {'median s':>9} {'least':>7} {'most':>7} {'bound':>7}")
    with tempfile.TemporaryDirectory(prefix="splitfire-start-") as folder:
        variables = environment(Path(folder) / "prefect")
        del variables["OMP_NUM_THREADS"]
        helps = [_help(variables) for _ in range(RUNS)]
        stems = [_first_stem(Path(folder) / str(run), variables) for run in range(RUNS)]
    rows = (("splitfire --help", helps, 1.0), ("splitfire separate, first stem of 11 s", stems, 15.0))
    for name, times, bound in rows:
        print(f"{name:40} {statistics.median(times):9.2f} {min(times):7.2f} {max(times):7.2f} {bound:7.1f}")


def _help(variables: dict[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run([*COMMAND, "--help"], env=variables, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _first_stem(out: Path, variables: dict[str, str]) -> float:
    """Seconds until a stem has its final name; a stem gets it when it is whole."""
    command = [*COMMAND, "separate", str(audio_example()), "--out", str(out)]
    begin = time.perf_counter()
    with subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL) as process:
        while not any(out.rglob("*.flac")):
            assert process.poll() in (None, 0), f"splitfire separate ended with {process.returncode}"
            time.sleep(_POLL_S)
        return time.perf_counter() - begin
