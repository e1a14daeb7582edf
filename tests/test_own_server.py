"""Prefect servers of ours against strangers: the one of `splitfire run`, and one set up as infra/ says."""

from __future__ import annotations

import json
import secrets
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.prefect_server import PREFECT, wait_for_api
from tests.small_library import environment

ROOT = Path(__file__).parents[1]
EVIL = {"Origin": "http://evil.example"}
OWN = """
import json, sys
from flows.own_server import known, reached
from prefect import flow, task
@task
def double(n: int) -> int:
    return 2 * n
@flow(persist_result=False)
def short(n: int) -> int:
    return double(n)
with reached():
    from prefect.client.orchestration import get_client
    with get_client(sync_client=True) as client:
        told = {"url": str(client.api_url), "result": short(21)}
    told["password"] = known.PREFECT_API_AUTH_STRING.value()
    told["imports_server"] = "prefect.server" in sys.modules
    print(json.dumps(told), flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Server:
    url: str
    home: Path
    password: str
    result: int | None = None
    is_imported_by_client: bool | None = None


def start(home: Path) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """A process with a server of its own, and what it said of it; it stands beside somebody else's flows."""
    place = home.parent / "place"
    (place / "flows").mkdir(parents=True)
    (place / "flows" / "__init__.py").write_text("raise SystemExit('these are not the flows you mean')")
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", OWN],
        cwd=place,
        env={**environment(home), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout
    return child, json.loads(child.stdout.readline())


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that a `splitfire run` starts, and what a flow on it returned."""
    home = tmp_path_factory.mktemp("own") / "prefect"
    home.mkdir(mode=0o755)
    child, told = start(home)
    try:
        url = told["url"].rstrip("/")
        yield Server(url, home, told["password"], told["result"], told["imports_server"])
    finally:
        child.communicate(timeout=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server started with the settings of infra/prefect-server.env, at a port of its own."""
    home = tmp_path_factory.mktemp("served")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    password = f"splitfire:{secrets.token_urlsafe(32)}"
    variables = environment(home) | infra_settings()
    variables |= {"PREFECT_SERVER_API_PORT": port, "PREFECT_SERVER_API_AUTH_STRING": password}
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*PREFECT, "server", "start", "--no-ui"], env=variables, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}/api"
    try:
        wait_for_api(url, server, home / "server.log")
        yield Server(url, home, password)
    finally:
        server.terminate()
        server.wait(30)


def infra_settings() -> dict[str, str]:
    """What infra/prefect-server.env sets."""
    lines = (ROOT / "infra" / "prefect-server.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) for name in ("own", "served")])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def test_without_the_password_nothing_is_read_or_changed(server: Server) -> None:
    wrong = ("splitfire", secrets.token_urlsafe(32))
    assert httpx.get(f"{server.url}/flow_runs/count").status_code == 401
    assert httpx.get(f"{server.url}/admin/settings").status_code == 401
    assert httpx.get(f"{server.url}/variables/name/health").status_code == 401
    assert httpx.get(f"{server.url}/admin/version", auth=wrong).status_code == 401
    assert httpx.post(f"{server.url}/flows/", json={"name": "evil"}).status_code in (401, 403)


def test_a_page_of_another_origin_changes_nothing_even_with_the_password(server: Server) -> None:
    name, _, password = server.password.partition(":")
    with httpx.Client(base_url=server.url, auth=(name, password)) as browser:
        sent = browser.post("/variables/", json={"name": "evil", "value": 1}, headers=EVIL)
        asked = browser.options("/variables/", headers={**EVIL, "Access-Control-Request-Method": "POST"})
        read = browser.get("/admin/version", headers=EVIL)
        found = browser.get("/variables/name/evil")
    assert sent.status_code == 403
    assert found.status_code == 404
    assert asked.status_code == 400
    for answer in (sent, asked, read):
        assert "access-control-allow-origin" not in answer.headers
    assert read.status_code == 200


@pytest.mark.slow
def test_our_own_flows_get_through(own: Server) -> None:
    assert own.result == 42


@pytest.mark.slow
def test_the_server_is_not_imported_into_the_process_that_only_asks_it(own: Server) -> None:
    assert own.is_imported_by_client is False


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_the_server_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    child, told = start(tmp_path / "prefect")
    health = f"{told['url'].rstrip('/')}/health"
    try:
        assert answers(health)
    finally:
        child.kill()
        child.communicate()
    deadline = time.monotonic() + 30
    while answers(health):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_server_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    broken = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path}/no/such/folder.db"}
    done = subprocess.run(
        [sys.executable, "-c", OWN],
        env={**environment(tmp_path), "PYTHONPATH": str(ROOT), **broken},
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = done.stderr.splitlines()[-1]
    assert last == "splitfire_batch.errors.TransientError: Prefect: its server ended with exit code 3"


@pytest.mark.slow
def test_nobody_else_reads_the_database(own: Server) -> None:
    files = [path for path in own.home.rglob("*") if path.is_file()]
    assert stat.S_IMODE(own.home.stat().st_mode) == 0o700
    assert "prefect.db" in {path.name for path in files}
    assert {path.name for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077} == set()


@pytest.mark.slow
def test_the_password_is_on_no_command_line_and_in_no_file(own: Server) -> None:
    secret = own.password.partition(":")[2].encode()
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(secret in line for line in lines)
    assert [path for path in own.home.rglob("*") if path.is_file() and secret in path.read_bytes()] == []


def test_the_settings_of_infra_are_known_to_prefect_and_hold_no_secret(tmp_path: Path) -> None:
    script = (
        "import json; from prefect.settings import get_current_settings\n"
        "print(json.dumps(get_current_settings().to_environment_variables(exclude_unset=True)))"
    )
    variables = {**environment(tmp_path), **infra_settings()}
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True)
    found = json.loads(done.stdout)
    spelled = {  # two have an older name, too
        name.replace("SERVER_CSRF", "SERVER_API_CSRF").replace("SERVER_CORS", "SERVER_API_CORS"): value
        for name, value in infra_settings().items()
    }
    assert {name: found.get(name, "").lower() for name in spelled} == {
        name: value.lower() for name, value in spelled.items()
    }
    assert spelled["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert spelled["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert not any("AUTH_STRING" in name for name in spelled)
