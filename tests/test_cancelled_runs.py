"""Runs cancelled or killed under a real Prefect server and worker, with real Ray and the real model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.prefect_server import PrefectServer, serving, working
from tests.small_library import COMMAND, environment, write_tracks
from tests.test_signals import rows
from tests.webhook_receiver import WebhookReceiver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
N_TRACKS = 16
NAME = "separate-catalogue/long"
ONE_BY_ONE = ("--workers", "1", "--open-tracks", "2", "--shard-s", "1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with serving(tmp_path_factory.mktemp("prefect")) as running:
        running.run("work-pool", "create", "splitfire", "--type", "process")
        yield running


def processes_of(run_id: str) -> list[int]:
    """What Prefect's worker started for a flow run, and all that this started in turn."""
    entry, found = f"PREFECT__FLOW_RUN_ID={run_id}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended
            if entry in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def wait_for_rows(root: Path, at_least: int) -> None:
    deadline = time.monotonic() + 480
    while len(rows(root)) < at_least:
        assert time.monotonic() < deadline, "no track was done"
        time.sleep(0.1)


def check_whole(root: Path) -> None:
    """Each track has one row and its two stems, however many runs it took."""
    assert len(rows(root)) == len(set(rows(root))) == N_TRACKS
    assert len(list((root / "out").rglob("*.wav"))) == 2 * N_TRACKS
    assert not list((root / "out").rglob(".*.tmp*"))


def test_a_run_that_is_cancelled_on_prefects_page_stops_in_order_and_the_next_one_does_the_rest(
    server: PrefectServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tracks(tmp_path / "source", N_TRACKS, seconds=12.0)
    server.splitfire("deploy", tmp_path / "source", tmp_path / "out", "--name", "long", *ONE_BY_ONE)
    with (
        WebhookReceiver() as receiver,
        working(server, "splitfire", tmp_path, SPLITFIRE_WEBHOOK_URL=receiver.url) as log,
    ):
        run_id = server.start(NAME)
        wait_for_rows(tmp_path, 1)
        assert any("SeparatorActor" in command_of(pid) for pid in processes_of(run_id))
        begin = time.monotonic()
        server.cancel(run_id)
        state = server.wait_for(run_id)
        while processes_of(run_id) and time.monotonic() < begin + 60:
            time.sleep(0.2)
        took_s = time.monotonic() - begin
        with capsys.disabled():
            print(f"\ncancelled: {state['message']}; no process left after {took_s:.1f} s")
        assert processes_of(run_id) == [], [command_of(pid) for pid in processes_of(run_id)]
        assert took_s < 60
        assert state["type"] == "CANCELLED", log.read_text()[-3000:]
        (report,) = [
            json.loads(path.read_text()) for path in (tmp_path / "out").glob("_splitfire/runs/*/run.json")
        ]
        assert 0 < report["n_done"] == len(rows(tmp_path)) < N_TRACKS
        assert report["n_unsettled"] == N_TRACKS - report["n_done"]
        assert receiver.received == []  # a person did it and knows
        last = server.wait_for(server.start(NAME))
    assert last["message"] == f"{report['n_unsettled']} done, 0 failed, {report['n_done']} done before"
    check_whole(tmp_path)


def test_splitfire_run_heeds_a_cancel_although_no_worker_started_it(
    server: PrefectServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tracks(tmp_path / "source", N_TRACKS, seconds=12.0)
    run = subprocess.Popen(
        [*COMMAND, "run", str(tmp_path / "source"), str(tmp_path / "out"), *ONE_BY_ONE, "--json"],
        env=environment(server.home, server.api),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_rows(tmp_path, 1)
        body = {"flow_runs": {"name": {"like_": str(tmp_path)}}}
        (flow_run,) = server.post("flow_runs/filter", body)
        begin = time.monotonic()
        server.cancel(flow_run["id"])
        out, err = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait()
    with capsys.disabled():
        print(f"\ncancelled without a worker: over after {time.monotonic() - begin:.1f} s")
    assert run.returncode == 75, err
    assert 0 < json.loads(out)["n_done"] < N_TRACKS
    assert server.state(flow_run["id"])["type"] == "CANCELLED"


def test_a_run_that_is_killed_is_told_leaves_nothing_behind_and_blocks_no_other(
    server: PrefectServer, tmp_path: Path
) -> None:
    write_tracks(tmp_path / "source", N_TRACKS, seconds=3.0)
    server.splitfire("deploy", tmp_path / "source", tmp_path / "out", "--name", "killed", *ONE_BY_ONE)
    with (
        WebhookReceiver() as receiver,
        working(server, "splitfire", tmp_path, SPLITFIRE_WEBHOOK_URL=receiver.url) as log,
    ):
        run_id = server.start("separate-catalogue/killed")
        wait_for_rows(tmp_path, 1)
        (driver,) = [pid for pid in processes_of(run_id) if "prefect.engine" in command_of(pid)]
        os.kill(driver, signal.SIGKILL)
        state = server.wait_for(run_id)
        (told,) = receiver.wait(1)
        deadline = time.monotonic() + 15
        while processes_of(run_id) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert processes_of(run_id) == [], [command_of(pid) for pid in processes_of(run_id)]
        last = server.wait_for(server.start("separate-catalogue/killed"))
        said = log.read_text()
    assert state["type"] == "CRASHED"
    assert told.message["type"] == "run.crashed"
    assert told.message["data"]["destination"] == str(tmp_path / "out")
    assert last["type"] == "COMPLETED", said[-3000:]
    assert receiver.url not in said
    check_whole(tmp_path)
