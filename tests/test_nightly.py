"""`splitfire deploy` on a real Prefect server, with SQLite and with PostgreSQL: the nights of a catalogue."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.postgres import postgres, why_not
from tests.prefect_server import PrefectServer, serving, working
from tests.small_library import tree, write_bad_track, write_one_shots, write_tracks
from tests.webhook_receiver import KEY, SECRET, WebhookReceiver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
EVERY_MINUTE = "* * * * *"
NO_POSTGRES = why_not()
DATABASES = [
    "sqlite",
    pytest.param(
        "postgres",
        marks=[pytest.mark.postgres, pytest.mark.skipif(NO_POSTGRES is not None, reason=str(NO_POSTGRES))],
    ),
]


@pytest.fixture(scope="module", params=DATABASES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrefectServer]:
    home = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        with serving(home) as running:
            yield running
    else:
        with postgres() as url, serving(home, PREFECT_SERVER_DATABASE_CONNECTION_URL=url) as running:
            yield running
            assert not list(home.rglob("*.db"))  # it was PostgreSQL that kept it all


@pytest.fixture(scope="module")
def pool(server: PrefectServer) -> str:
    server.run("work-pool", "create", "splitfire", "--type", "process")
    return "splitfire"


def working_nights(server: PrefectServer, deployment_id: str, n: int) -> list[dict[str, Any]]:
    """The first n runs of a deployment that completed and had something to do; others may be cancelled."""
    body = {"deployments": {"id": {"any_": [deployment_id]}}, "sort": "EXPECTED_START_TIME_ASC"}
    deadline = time.monotonic() + 480
    while time.monotonic() < deadline:
        runs: list[dict[str, Any]] = server.post("flow_runs/filter", body)
        assert not [run for run in runs if run["state_type"] in ("FAILED", "CRASHED")]
        ended = [run for run in runs if run["state_type"] == "COMPLETED"]
        found = [run for run in ended if not run["state"]["message"].startswith("0 done, 0 failed")]
        if len(found) >= n:
            return found[:n]
        time.sleep(0.5)
    raise AssertionError("there are fewer such runs")


@pytest.mark.usefixtures("pool")
def test_each_night_does_the_days_new_files_alone_and_bad_ones_are_told(
    server: PrefectServer, tmp_path: Path
) -> None:
    source, out = write_tracks(tmp_path / "source", 2), tmp_path / "out"
    flags = ("--name", "each-minute", "--cron", EVERY_MINUTE, "--timezone", "Europe/Berlin", "--json")
    made = json.loads(
        server.splitfire("deploy", source, out, *flags, "--model", "passthrough", "--workers", "1").strip()
    )
    assert (made["name"], made["is_new"]) == ("separate-catalogue/each-minute", True)

    with (
        WebhookReceiver() as receiver,
        working(
            server, "splitfire", tmp_path, SPLITFIRE_WEBHOOK_URL=receiver.url, SPLITFIRE_WEBHOOK_SECRET=SECRET
        ) as log,
    ):
        (first,) = working_nights(server, made["deployment_id"], 1)
        before = tree(out)
        # both at once, in a folder of their own: a run may begin at any moment
        write_bad_track(write_tracks(tmp_path / "day", 1, seconds=1.0))
        (tmp_path / "day").rename(source / "day")
        _, second = working_nights(server, made["deployment_id"], 2)
        server.run("deployment", "schedule", "clear", made["name"], "--accept-yes")
        (told,) = receiver.wait(1)

    assert first["state"]["message"] == "2 done, 0 failed, 0 done before", log.read_text()[-3000:]
    assert second["state_name"] == "Completed with failures"
    assert second["state"]["message"] == "1 done, 1 failed, 2 done before"
    after = tree(out)
    stems = {path for path in after if path.endswith(".wav")}
    assert len(stems) == 6
    assert all(after[path] == before[path] for path in before if path.endswith(".wav"))
    assert told.is_signed_with(KEY)
    assert told.message["type"] == "run.completed_with_failures"
    assert told.message["data"]["report"]["failures_by_code"] == {"NOT_AUDIO": 1}
    assert told.message["data"]["flow_run_id"] == second["id"]


@pytest.mark.usefixtures("pool")
def test_a_start_while_a_run_is_under_way_is_cancelled_and_the_next_one_is_not(
    server: PrefectServer, tmp_path: Path
) -> None:
    source, out = write_one_shots(_made(tmp_path / "source"), 3).folder, tmp_path / "out"
    server.splitfire("deploy", source, out, "--name", "overlapping", "--workers", "1")
    with working(server, "splitfire", tmp_path) as log:
        first = server.start("separate-catalogue/overlapping")
        server.wait_for(first, ("RUNNING",))
        second = server.start("separate-catalogue/overlapping")
        refused = server.wait_for(second)
        assert (refused["type"], refused["message"]) == ("CANCELLED", "Deployment concurrency limit reached.")
        ended = server.wait_for(first)
        assert ended["message"] == "3 done, 1 failed, 0 done before", log.read_text()[-3000:]
        third = server.wait_for(server.start("separate-catalogue/overlapping"))
    assert third["message"] == "0 done, 0 failed, 3 done before"


def test_a_second_deploy_changes_the_first_and_keeps_what_was_set_on_the_server(
    server: PrefectServer, pool: str, tmp_path: Path
) -> None:
    source, out = write_tracks(tmp_path / "source", 1), tmp_path / "out"
    server.splitfire("deploy", source, out, "--name", "changed", "--cron", "0 2 * * *", "--format", "flac")
    before = server.get("deployments/name/separate-catalogue/changed")
    httpx.patch(f"{server.api}/deployments/{before['id']}", json={"paused": True}).raise_for_status()
    flags = ("--cron", "30 3 * * 1-5", "--timezone", "Asia/Tokyo", "--depth", "24")
    said = server.splitfire("deploy", source, out, "--name", "changed", "--work-pool", pool, *flags)
    after = server.get("deployments/name/separate-catalogue/changed")
    (schedule,) = after["schedules"]
    assert (after["id"], after["paused"]) == (before["id"], True)
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("30 3 * * 1-5", "Asia/Tokyo")
    assert after["parameters"]["output"] == {"depth": "24"}
    assert after["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert after["global_concurrency_limit"]["limit"] == 1
    assert "deployment separate-catalogue/changed updated" in said


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
