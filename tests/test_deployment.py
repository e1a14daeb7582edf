"""The files of infra/ for Prefect against a real server and worker, as an operator sets them up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.prefect_server import ROOT, PrefectServer, serving, working
from tests.small_library import tree, write_bad_track, write_tracks

POOLS = {"nightly": "splitfire", "nightly-kubernetes": "splitfire-kubernetes"}
"""Name of a deployment to that of its work pool."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with serving(tmp_path_factory.mktemp("prefect")) as running:
        yield running


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    write_bad_track(write_tracks(root / "source", 3))
    return root


@pytest.fixture(scope="module")
def deployments(server: PrefectServer, library: Path) -> dict[str, dict[str, Any]]:
    """The deployments as the API has them after `prefect deploy`, by name."""
    server.run("work-pool", "create", "splitfire", "--type", "process")
    template = ("--base-job-template", "infra/kubernetes-job-template.json")
    server.run("work-pool", "create", "splitfire-kubernetes", "--type", "kubernetes", *template)
    places = {
        "SPLITFIRE_SOURCE": str(library / "source"),
        "SPLITFIRE_DESTINATION": str(library / "out"),
    }
    server.run("deploy", "--prefect-file", "infra/prefect.yaml", "--all", **places)
    return {name: server.get(f"deployments/name/separate-catalogue/{name}") for name in POOLS}


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
    deployments: dict[str, dict[str, Any]], server: PrefectServer
) -> None:
    pool = server.get("work_pools/splitfire-kubernetes")
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
    assert deployment["parameters"] == {**wanted, "runtime": {"drain_s": 15}}
    assert "description" in deployment["parameter_openapi_schema"]["properties"]["source"]


@pytest.mark.usefixtures("deployments")
def test_a_run_triggered_through_the_api_is_done_by_a_worker(
    server: PrefectServer, library: Path, tmp_path: Path
) -> None:
    changes = {"separation": {"model": "passthrough"}, "runtime": {"workers": 1}}
    run_id = server.start("separate-catalogue/nightly", **changes)
    with working(server, "splitfire", tmp_path) as log:
        state = server.wait_for(run_id)
    found = server.artifacts(run_id)
    assert state["name"] == "Completed with failures", log.read_text()[-3000:]
    assert len([path for path in tree(library / "out") if path.endswith(".wav")]) == 6
    assert set(found) == {"progress", "summary", "failures", "cost"}
    assert [row["code"] for row in json.loads(found["failures"])] == ["NOT_AUDIO"]
