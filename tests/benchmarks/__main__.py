"""`make bench`: every benchmark, or those named: `python -m tests.benchmarks engine one_shots`.

Each prints a table of medians and ratios; peers and bounds are measured in the same run, interleaved.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys

NAMES = ("engine", "one_shots")


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    names = sys.argv[1:] or NAMES
    unknown = set(names) - set(NAMES)
    if unknown:
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}")
    for name in names:
        module = importlib.import_module(f"tests.benchmarks.{name}")
        print(f"\n## {name}: {(module.__doc__ or '').splitlines()[0]}\n", flush=True)
        module.main()


if __name__ == "__main__":
    main()
