"""cluster/slurm.sh with stand-ins for Slurm's own commands, and real Ray: two nodes, both on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.small_library import Library, environment

ROOT = Path(__file__).parents[1]
SRUN = """#!/usr/bin/env bash
# srun's options end at the first word that is none; a step's number is what tells it from others
while [[ $1 == -* ]]; do shift; done
export SLURM_STEP_ID=$$
exec "$@"
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def allocation(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a job with two nodes; whatever Ray was started in it is ended afterwards."""
    commands = tmp_path / "bin"
    commands.mkdir()
    write_command(commands / "srun", SRUN)
    write_command(commands / "scontrol", f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol\n')
    stand_in = f"""#!{sys.executable}
import pathlib, sys
sys.path.insert(0, "{ROOT}")
pathlib.Path("{tmp_path}/began").touch()
from flows.cli import main
main()
"""
    write_command(commands / "splitfire", stand_in)
    job_id = str(900_000 + os.getpid() % 90_000)
    yield environment(tmp_path / "prefect") | {
        "HOME": str(tmp_path),
        "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_ID": job_id,
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    subprocess.run(["rm", "-rf", *Path("/tmp").glob(f"splitfire-{job_id}.*")], check=True)  # noqa: S108


def write_command(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def start(allocation: dict[str, str], log: Path, *args: object) -> subprocess.Popen[bytes]:
    with log.open("w") as out:
        return subprocess.Popen(
            [ROOT / "cluster" / "slurm.sh", *map(str, args)],
            cwd=log.parent,
            env=allocation,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def end_all(job: subprocess.Popen[bytes]) -> None:
    """As Slurm does when a job is over: nothing of its processes is left."""
    try:
        os.killpg(job.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    job.wait()


def test_a_job_separates_on_all_of_its_nodes_and_leaves_no_token(
    allocation: dict[str, str], one_shot_library: Library, tmp_path: Path
) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    job = start(allocation, log, one_shot_library.folder, out, "--model", "passthrough", "--workers", 2)
    try:
        assert job.wait(400) == 3, log.read_text()  # one of the files is no audio
    finally:
        end_all(job)
    rows = pq.read_table(out / "_splitfire/views/tracks.parquet").to_pylist()
    assert sorted(row["status"] for row in rows) == ["done"] * 4 + ["failed"]
    assert list((tmp_path / ".splitfire").iterdir()) == []
    assert not (tmp_path / "scontrol").exists()


def test_a_job_whose_time_ends_is_queued_again(
    allocation: dict[str, str], one_shot_library: Library, tmp_path: Path
) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    job = start(allocation, log, one_shot_library.folder, out, "--model", "passthrough")
    try:
        wait_for(tmp_path / "began")
        job.send_signal(signal.SIGTERM)  # to the script alone, as --signal=B: has it
        assert job.wait(300) == 75, log.read_text()
    finally:
        end_all(job)
    assert (tmp_path / "scontrol").read_text() == f"requeue {allocation['SLURM_JOB_ID']}\n"
    assert list((tmp_path / ".splitfire").iterdir()) == []


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert time.monotonic() < deadline, f"there is no {path}"
        time.sleep(0.1)
