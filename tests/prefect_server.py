"""A real Prefect server and real workers, started with Prefect's own commands, and what tests ask of them."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from tests.assets import once
from tests.small_library import COMMAND, environment

ROOT = Path(__file__).parents[1]
PREFECT = [sys.executable, "-m", "prefect"]
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class PrefectServer:
    """A running server, and the folder with all that Prefect keeps."""

    api: str
    home: Path

    def run(self, *args: str, **variables: str) -> str:
        """Output of a Prefect command that is to succeed."""
        return _output([*PREFECT, "--no-prompt", *args], {**environment(self.home, self.api), **variables})

    def splitfire(self, *args: object, **variables: str) -> str:
        """Output of a `splitfire` command that is to succeed."""
        return _output([*COMMAND, *map(str, args)], {**environment(self.home, self.api), **variables})

    def get(self, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.get(f"{self.api}/{path}", timeout=60).raise_for_status().json()
        return answer

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = httpx.post(f"{self.api}/{path}", json=body, timeout=60)
        for _ in range(30):  # SQLite is locked while others write, and Prefect's own clients ask again, too
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(1)
            answer = httpx.post(f"{self.api}/{path}", json=body, timeout=60)
        return answer.raise_for_status().json()

    def start(self, deployment: str, **parameters: Any) -> str:
        """Id of a flow run of `flow/deployment` that a worker is to take; parameters stand beside its own."""
        found = self.get(f"deployments/name/{deployment}")
        body = {"parameters": {**found["parameters"], **parameters}}
        return str(self.post(f"deployments/{found['id']}/create_flow_run", body)["id"])

    def cancel(self, run_id: str) -> None:
        """As the button on Prefect's page does."""
        self.post(f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})

    def state(self, run_id: str) -> dict[str, Any]:
        state: dict[str, Any] = self.get(f"flow_runs/{run_id}")["state"]
        return state

    def wait_for(self, run_id: str, types: tuple[str, ...] = FINAL, within_s: float = 480) -> dict[str, Any]:
        """The first state of a flow run that is of one of these types."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            state = self.state(run_id)
            if state["type"] in types:
                return state
            if state["type"] in FINAL:
                raise AssertionError(f"the flow run ended: {state['name']}: {state['message']}")
            time.sleep(0.3)
        raise AssertionError(f"the flow run is still {self.state(run_id)['name']}")

    def artifacts(self, run_id: str) -> dict[str, Any]:
        """Data of a flow run's artifacts by key."""
        found = self.post("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run_id]}}})
        return {item["key"]: item["data"] for item in found}


def _output(command: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def make_prefect_home(home: Path) -> Path:
    """A folder for Prefect with a database that has its tables, and nothing in them.

    Prefect takes half as long for these as for a whole small run, so they are made once and copied.
    """

    def make_tables(folder: Path) -> None:
        _output([*PREFECT, "--no-prompt", "server", "database", "upgrade", "-y"], environment(folder))

    shutil.copytree(once(f"prefect-{version('prefect')}", make_tables), home)
    return home


@contextmanager
def serving(home: Path, **variables: str) -> Iterator[PrefectServer]:
    """A server that is up; `variables` are settings of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, env={**environment(home), **variables}, stdout=log, stderr=log)
    try:
        wait_for_api(url, server, home / "server.log")
        yield PrefectServer(url, home)
    finally:
        _end(server, within_s=20)


@contextmanager
def working(server: PrefectServer, pool: str, cwd: Path, **variables: str) -> Iterator[Path]:
    """A worker of a pool; gives its log, in which its runs print, too."""
    log_path = server.home / f"worker-{pool}.log"
    command = [*PREFECT, "worker", "start", "--pool", pool]
    quick = {"PREFECT_WORKER_QUERY_SECONDS": "2"}
    with log_path.open("a") as log:
        worker = subprocess.Popen(
            command,
            cwd=cwd,
            env={**environment(server.home, server.api), **quick, **variables},
            stdout=log,
            stderr=log,
        )
    try:
        yield log_path
    finally:
        _end(worker, within_s=120)


def _end(process: subprocess.Popen[bytes], within_s: float) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_api(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise RuntimeError(f"Prefect's server is not there; its log ends:\n{log.read_text()[-2000:]}")
