"""Two runs on one destination in the real S3 server, as two operators would start them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from splitfire_batch.lease import PATH, hold
from splitfire_batch.storage import Store, open_store
from tests.small_library import COMMAND, environment, write_tracks

N_TRACKS = 40
ACTOR = b"ray::SeparatorActor"
ONE_BY_ONE = ["--model", "passthrough", "--workers", "1", "--open-tracks", "1", "--shard-s", "1", "--json"]


class Run:
    """`splitfire run` in a process of its own."""

    def __init__(self, root: Path, name: str, destination: str, *more: str) -> None:
        self._mark = f"PREFECT_HOME={root / f'prefect-{name}'}".encode()
        self._out = (root / f"{name}.out").open("w+")
        self._err = (root / f"{name}.err").open("w+")
        self.popen = subprocess.Popen(
            [*COMMAND, "run", str(root / "source"), destination, *ONE_BY_ONE, *more],
            env=environment(root / f"prefect-{name}"),
            cwd=root,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    def end(self, within_s: float = 120) -> int:
        return self.popen.wait(within_s)

    @property
    def stderr(self) -> str:
        self._err.seek(0)
        return self._err.read()

    @property
    def report(self) -> dict[str, Any]:
        self._out.seek(0)
        found: dict[str, Any] = json.loads(self._out.read())
        return found

    def family(self) -> list[int]:
        """The driver and all that it started, told by an environment that no other run has."""
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if self._mark in _environment(path)]

    def send(self, number: int, command: bytes = b"") -> None:
        """To the whole family, or those of it whose command line holds `command`."""
        for pid in self.family():
            with suppress(OSError):  # it has ended
                if command in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, number)

    def close(self) -> None:
        self.send(signal.SIGKILL)
        self.popen.wait()
        self._out.close()
        self._err.close()


def _environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is somebody else's
        return []


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts runs; those that are left are killed."""
    write_tracks(tmp_path / "source", N_TRACKS, 3.0)
    started: list[Run] = []

    def begin(name: str, destination: str, *more: str) -> Run:
        started.append(Run(tmp_path, name, destination, *more))
        return started[-1]

    yield begin
    for run in started:
        run.close()


def wait_for(store: Store, prefix: str, run: Run) -> None:
    while not any(store.list_under(prefix)):
        assert run.popen.poll() is None, run.stderr
        time.sleep(0.1)


def holder(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(PATH))
    return found


def check_destination(store: Store) -> None:
    """One row per track, and every stem as its row says."""
    rows = pq.read_table(io.BytesIO(store.read("_splitfire/views/tracks.parquet"))).to_pylist()
    assert [row["status"] for row in rows] == ["done"] * N_TRACKS
    for row in rows:
        for stem in row["stems"]:
            assert hashlib.sha256(store.read(stem["path"])).hexdigest() == stem["sha256"], stem["path"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_is_refused_while_another_holds_the_destination(bucket: str, start: Any) -> None:
    store = open_store(f"{bucket}/out", {})
    with hold(store, "20260101T000000000Z-abcdef") as lease:
        refused = start("second", store.url)
        assert refused.end() == 75
    assert f"{lease.run_id} (process {os.getpid()} on " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not any(store.list_under("_splitfire/runs"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_second_run_is_refused_and_names_the_first(bucket: str, start: Any) -> None:
    store = open_store(f"{bucket}/out", {})
    first = start("first", store.url)
    wait_for(store, "_splitfire/parts", first)
    first.send(signal.SIGSTOP, ACTOR)  # so that it is still there when the second has started up
    begin = time.monotonic()
    second = start("second", store.url)
    assert second.end() == 75
    waited_s = time.monotonic() - begin
    assert f"(process {first.popen.pid} on " in second.stderr
    assert holder(store)["run_id"] in second.stderr
    assert "Traceback" not in second.stderr
    print(f"refused after {waited_s:.1f} s, start-up included")
    first.send(signal.SIGCONT, ACTOR)
    first.popen.send_signal(signal.SIGTERM)
    assert first.end() == 75, first.stderr
    assert holder(store)["is_released"] is True


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("names", ["plain", "immutable"])
def test_a_first_run_that_was_frozen_does_no_harm_when_it_wakes(bucket: str, start: Any, names: str) -> None:
    store = open_store(f"{bucket}/out", {})
    first = start("first", store.url, "--names", names)
    wait_for(store, "_splitfire/parts", first)
    first.send(signal.SIGSTOP)
    second = start("second", store.url, "--names", names)
    assert second.end(200) == 0, second.stderr
    assert f"(process {first.popen.pid} on " in second.stderr, "it waited without a word"
    check_destination(store)
    first.send(signal.SIGCONT)
    assert first.end(200) == 75, first.stderr
    assert "taken over by" in first.stderr
    check_destination(store)
    third = start("third", store.url, "--names", names)
    assert third.end() == 0, third.stderr
    assert (third.report["n_planned"], third.report["n_done_before"]) == (0, N_TRACKS)
    check_destination(store)
    assert first.family() == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_leases_two_runs_by_immutable_names_both_end_and_the_tables_are_right(
    bucket: str, start: Any
) -> None:
    store = open_store(f"{bucket}/out", {})
    runs = [start(name, store.url, "--no-lease") for name in ("first", "second")]
    assert [run.end(300) for run in runs] == [0, 0], [run.stderr for run in runs]
    third = start("third", store.url)
    assert third.end() == 0, third.stderr
    assert third.report["n_done_before"] == N_TRACKS
    check_destination(store)
