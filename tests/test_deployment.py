"""The files of infra/ for Prefect against a real server and worker, as an operator sets them up."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.small_library import environment, tree, write_bad_track, write_tracks

ROOT = Path(__file__).parents[1]
PREFECT = [sys.executable, "-m", "prefect"]
POOLS = {"nightly": "splitfire", "nightly-kubernetes": "splitfire-kubernetes"}
"""Name of a deployment to that of its work pool."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that Prefect keeps, and where its processes write their logs."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[str]:
    """URL of the API of a server started with Prefect's own command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment(home), stdout=log, stderr=log)
    try:
        wait_for_api(url, server, home / "server.log")
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_for_api(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise RuntimeError(f"Prefect's server is not there; its log ends:\n{log.read_text()[-2000:]}")


def prefect(home: Path, api: str, *args: str, **variables: str) -> str:
    """Output of a Prefect command that is to succeed."""
    done = subprocess.run(
        [*PREFECT, "--no-prompt", *args],
        cwd=ROOT,
        env={**environment(home, api), **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    write_bad_track(write_tracks(root / "source", 3))
    return root


@pytest.fixture(scope="module")
def deployments(home: Path, api: str, library: Path) -> dict[str, dict[str, Any]]:
    """The deployments as the API has them after `prefect deploy`, by name."""
    prefect(home, api, "work-pool", "create", "splitfire", "--type", "process")
    template = ("--base-job-template", "infra/kubernetes-job-template.json")
    prefect(home, api, "work-pool", "create", "splitfire-kubernetes", "--type", "kubernetes", *template)
    places = {
        "SPLITFIRE_SOURCE": str(library / "source"),
        "SPLITFIRE_DESTINATION": str(library / "out"),
    }
    prefect(home, api, "deploy", "--prefect-file", "infra/prefect.yaml", "--all", **places)
    url = f"{api}/deployments/name/separate-catalogue"
    return {name: httpx.get(f"{url}/{name}").json() for name in POOLS}


@pytest.fixture(scope="module")
def deployment(deployments: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The one that a worker on a machine runs."""
    return deployments["nightly"]


@pytest.mark.parametrize("name", POOLS)
def test_a_deployment_is_nightly_in_a_time_zone_and_never_runs_twice_at_once(
    deployments: dict[str, dict[str, Any]], name: str
) -> None:
    deployment = deployments[name]
    (schedule,) = deployment["schedules"]
    assert schedule["active"]
    assert schedule["schedule"]["timezone"] == "Europe/Berlin"
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert deployment["work_pool_name"] == POOLS[name]


def test_a_server_takes_the_template_of_a_pod_and_what_a_deployment_sets_in_it(
    deployments: dict[str, dict[str, Any]], api: str
) -> None:
    pool = httpx.get(f"{api}/work_pools/splitfire-kubernetes").json()
    wanted = json.loads((ROOT / "infra/kubernetes-job-template.json").read_text())
    assert pool["base_job_template"] == wanted
    deployment = deployments["nightly-kubernetes"]
    assert deployment["job_variables"].keys() <= wanted["variables"]["properties"].keys()
    assert deployment["parameters"]["runtime"] == {"scratch_dir": "/scratch"}


def test_every_setting_of_prefect_that_infra_names_is_one() -> None:
    import prefect.settings

    for file in ("prefect-server.env", "docker-compose.yaml"):
        named = set(re.findall(r"^ *(PREFECT_\w+)[=:]", (ROOT / "infra" / file).read_text(), re.MULTILINE))
        assert named
        assert {name for name in named if not hasattr(prefect.settings, name)} == set()
    assert not hasattr(prefect.settings, "PREFECT_SERVER_API_HOSTS")


def test_the_deployment_takes_its_places_from_the_environment(
    deployment: dict[str, Any], library: Path
) -> None:
    wanted = {"source": str(library / "source"), "destination": str(library / "out")}
    assert deployment["parameters"] == wanted
    assert "description" in deployment["parameter_openapi_schema"]["properties"]["source"]


def test_a_run_triggered_through_the_api_is_done_by_a_worker(
    deployment: dict[str, Any], home: Path, api: str, library: Path, tmp_path: Path
) -> None:
    changes = {"separation": {"model": "passthrough"}, "runtime": {"workers": 1}}
    made = httpx.post(
        f"{api}/deployments/{deployment['id']}/create_flow_run",
        json={"parameters": {**deployment["parameters"], **changes}},
    ).json()
    with (home / "worker.log").open("w") as log:
        command = [*PREFECT, "worker", "start", "--pool", "splitfire", "--limit", "1"]
        variables = environment(home, api) | {"PREFECT_WORKER_QUERY_SECONDS": "2"}
        worker = subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=log, stderr=log)
    try:
        state = wait_for_end(api, made["id"])
    finally:
        worker.send_signal(signal.SIGINT)
        try:
            worker.wait(120)
        finally:
            worker.kill()
            worker.wait()
    body = {"artifacts": {"flow_run_id": {"any_": [made["id"]]}}}
    found = {item["key"]: item for item in httpx.post(f"{api}/artifacts/filter", json=body).json()}
    assert state["name"] == "Completed with failures", (home / "worker.log").read_text()[-3000:]
    assert len([path for path in tree(library / "out") if path.endswith(".wav")]) == 6
    assert set(found) == {"progress", "summary", "failures"}
    assert [row["code"] for row in json.loads(found["failures"]["data"])] == ["NOT_AUDIO"]


def wait_for_end(api: str, run_id: str) -> dict[str, Any]:
    """The final state of a flow run."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        state: dict[str, Any] = httpx.get(f"{api}/flow_runs/{run_id}").json()["state"]
        if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return state
        time.sleep(0.5)
    raise AssertionError(f"the flow run is still {state['name']}")
