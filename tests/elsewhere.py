"""A worker in a process of its own, which knows of the driver only what its spec says.

`python -m tests.elsewhere` reads pickled shards and their spec from its standard input.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from splitfire_batch.records import Shard
from splitfire_batch.spec import WorkerSpec


def run_elsewhere(shards: Iterable[Shard], spec: WorkerSpec, **variables: str) -> None:
    """Have shards done there, with these variables in its environment."""
    subprocess.run(
        [sys.executable, "-m", "tests.elsewhere"],
        input=pickle.dumps((list(shards), spec)),
        cwd=Path(__file__).parents[1],
        env={**os.environ, **variables},
        check=True,
    )


if __name__ == "__main__":
    shards, spec = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own bytes
    worker = spec()
    for shard in shards:
        for _ in worker.run_shard(shard):
            continue
    worker.close()
