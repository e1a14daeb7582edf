"""`make bench`: every benchmark, or those named: `python -m tests.benchmarks engine one_shots`.

Each prints a table of medians and ratios; peers and bounds are measured in the same run, interleaved. A
single one may be followed by its own options: `python -m tests.benchmarks gpu --device cpu --seconds 30`.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from itertools import takewhile

NAMES = ("engine", "one_shots", "short_clips", "seams", "measurements", "memory", "pipeline", "start_up")
NAMES += ("cost_of_safety", "resume", "catalogue", "pool", "gpu", "htdemucs", "plan_accuracy")
WITH_OPTIONS = ("one_shots", "memory", "pipeline", "cost_of_safety", "resume", "catalogue", "pool", "gpu")
WITH_OPTIONS += ("htdemucs", "plan_accuracy")


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    names = list(takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    options = sys.argv[1 + len(names) :]
    unknown = set(names) - set(NAMES)
    if unknown:
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if options and (len(names) != 1 or names[0] not in WITH_OPTIONS):
        sys.exit(f"found {' '.join(options)}; options go behind one name of {', '.join(WITH_OPTIONS)}")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}")
    for name in names or NAMES:
        module = importlib.import_module(f"tests.benchmarks.{name}")
        print(f"\n## {name}: {(module.__doc__ or '').splitlines()[0]}\n", flush=True)
        module.main(*([options] if options else []))


if __name__ == "__main__":
    main()
