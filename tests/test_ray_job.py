"""`ray job submit` of the entry point, to a Ray head that is a process of its own and asks for a token."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import prometheus_client.parser
import pyarrow.parquet as pq
import pytest

from cluster.metric_names import METRICS
from tests.small_library import Library, environment

ROOT = Path(__file__).parents[1]
RAY = str(Path(sys.executable).parent / "ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Head:
    """A head, and who may use it."""

    dashboard: str
    """URL of the dashboard, which takes jobs."""
    metrics: str
    """URL of what Prometheus reads."""
    variables: dict[str, str]
    """Environment of whoever knows the token."""

    def submit(self, *entrypoint: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, until the job has ended."""
        command = [RAY, "job", "submit", "--address", self.dashboard, "--", *map(str, entrypoint)]
        return subprocess.run(
            command, env=self.variables | variables, capture_output=True, text=True, timeout=500
        )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """As the head of cluster/ray-cluster.aws.yaml is started, but on 127.0.0.1, and with two CPUs."""
    folder = tmp_path_factory.mktemp("r", numbered=True)
    write_commands(folder / "bin")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    dashboard, metrics = free_port(), free_port()
    variables = environment(folder / "prefect") | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": stop_wait_s(),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
    }
    ports = [f"--port={free_port()}", f"--dashboard-port={dashboard}", "--node-ip-address=127.0.0.1"]
    ports += [f"--metrics-export-port={metrics}"]
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=100000000", *ports]
    command += ["--dashboard-host=127.0.0.1", f"--temp-dir={folder / 'ray'}", "--disable-usage-stats"]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for_dashboard(f"http://127.0.0.1:{dashboard}", running, folder / "log")
        yield Head(f"http://127.0.0.1:{dashboard}", f"http://127.0.0.1:{metrics}/metrics", variables)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def stop_wait_s() -> str:
    """What the machines of `ray up` have."""
    text = (ROOT / "cluster" / "node-environment.sh").read_text()
    found = re.search(r"^export RAY_JOB_STOP_WAIT_TIME_S=(\d+)$", text, re.MULTILINE)
    assert found
    return found[1]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def write_commands(folder: Path) -> None:
    """`splitfire`, as pip would install it, and `splitfire-job`, as the image has it."""
    folder.mkdir()
    (folder / "splitfire").write_text(
        f'#!{sys.executable}\nimport sys\nsys.path.insert(0, "{ROOT}")\nfrom flows.cli import main\nmain()\n'
    )
    (folder / "splitfire").chmod(0o755)
    (folder / "splitfire-job").symlink_to(ROOT / "cluster" / "job.sh")


def wait_for_dashboard(url: str, running: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and running.poll() is None:
        try:
            if httpx.get(f"{url}/api/version").status_code in (200, 401):
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise RuntimeError(f"Ray's dashboard is not there; the log ends:\n{log.read_text()[-2000:]}")


def test_nobody_submits_a_job_without_the_token(head: Head) -> None:
    request = {"entrypoint": "true"}
    assert httpx.post(f"{head.dashboard}/api/jobs/", json=request).status_code == 401
    refused = head.submit("true", RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH="")
    assert refused.returncode != 0


def test_a_submitted_run_separates_real_one_shots_with_the_real_model(
    head: Head, one_shot_library: Library, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = head.submit("splitfire-job", one_shot_library.folder, out, "--ray", "auto", "--workers", "2")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "4 done, 1 failed" in ended.stdout
    rows = {row["path"]: row for row in pq.read_table(out / "_splitfire/views/tracks.parquet").to_pylist()}
    assert rows.keys() == one_shot_library.wanted.keys()
    for path, wanted in one_shot_library.wanted.items():
        if isinstance(wanted, str):
            assert (rows[path]["status"], rows[path]["code"]) == ("failed", wanted)
            continue
        assert rows[path]["status"] == "done"
        assert [stem["stem"] for stem in rows[path]["stems"]] == ["vocals", "accompaniment"]
        assert {stem["n_frames"] for stem in rows[path]["stems"]} == {wanted}
        assert all((out / stem["path"]).is_file() for stem in rows[path]["stems"])


def test_the_exit_code_of_the_entry_point_decides_about_the_job(
    head: Head, one_shot_library: Library, tmp_path: Path
) -> None:
    args = (one_shot_library.folder, tmp_path / "out", "--ray", "auto", "--model", "passthrough")
    plain = head.submit("splitfire", "run", *args)
    assert plain.returncode == 1  # Ray knows no other; the job failed, because one track did
    assert "4 done, 1 failed" in plain.stdout
    again = head.submit("splitfire-job", *args)
    assert again.returncode == 0
    assert "nothing to do: 4 of 5 tracks are done" in again.stdout


SLOW_TO_END = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(8), (folder / "drained").touch(), sys.exit(75)))
(folder / "began").touch()
time.sleep(300)
"""


def test_a_job_that_is_stopped_has_time_to_finish_what_is_in_flight(head: Head, tmp_path: Path) -> None:
    script = tmp_path / "slow_to_end.py"
    script.write_text(SLOW_TO_END)
    job = [RAY, "job", "submit", "--address", head.dashboard, "--no-wait", "--submission-id", "slow", "--"]
    subprocess.run([*job, sys.executable, script, tmp_path], env=head.variables, check=True, timeout=120)
    deadline = time.monotonic() + 120
    while not (tmp_path / "began").exists():
        assert time.monotonic() < deadline, "the job does not begin"
        time.sleep(0.2)
    stop = [RAY, "job", "stop", "--address", head.dashboard, "slow"]
    subprocess.run(stop, env=head.variables, check=True, timeout=120)
    assert (tmp_path / "drained").exists()


TELL_ALL = """
import sys, time
import ray
from ray.util.metrics import Counter, Gauge
sys.path.insert(0, sys.argv[1])
from cluster.metric_names import METRICS

ray.init()
for metric in METRICS:
    kind = {"counter": Counter, "gauge": Gauge}[metric.kind]
    told = kind(metric.name, metric.description, tag_keys=metric.labels)
    tell = told.inc if metric.kind == "counter" else told.set
    tell(1.5, dict.fromkeys(metric.labels, "x"))
print("told", flush=True)
time.sleep(60)
"""


def test_prometheus_finds_every_metric_of_the_list_under_its_name_with_its_labels(
    head: Head, tmp_path: Path
) -> None:
    script = tmp_path / "tell_all.py"
    script.write_text(TELL_ALL)
    command = [RAY, "job", "submit", "--address", head.dashboard, "--", sys.executable, script, ROOT]
    job = subprocess.Popen(command, env=head.variables, stdout=subprocess.DEVNULL)
    try:
        found = wait_for_metrics(head.metrics)
    finally:
        job.terminate()
        job.wait(60)
    for metric in METRICS:
        kind, labels = found[metric.exported]
        assert kind == metric.kind
        assert {"SessionName", *metric.labels} <= labels


WORK = """
import sys
from functools import partial
sys.path.insert(0, sys.argv[1])
import ray
from cluster.actors import PoolSize
from cluster.fake_worker import FakeWorker
from cluster.pool import run_shards
from tests.pool_simulation import Simulation, make_shards

ray.init(runtime_env={"env_vars": {"PYTHONPATH": sys.argv[1]}})
make_worker = partial(FakeWorker, track_s=1.0, open_tracks=1)
for _ in run_shards(make_shards(Simulation(1, 1, 5.0, 12, n_tracks=5)), make_worker, PoolSize(1, 1, 0, 1)):
    pass
"""


def test_prometheus_sees_a_run_while_it_works(head: Head, tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK)
    before = done_tracks(head.metrics)
    command = [RAY, "job", "submit", "--address", head.dashboard, "--", sys.executable, script, ROOT]
    job = subprocess.Popen(command, env=head.variables, stdout=subprocess.DEVNULL)
    try:
        deadline, n_done = time.monotonic() + 180, 0.0
        while time.monotonic() < deadline and not n_done:
            time.sleep(1)
            n_done = sum(count - before.get(of, 0) for of, count in done_tracks(head.metrics).items())
    finally:
        job.terminate()
        job.wait(60)
    assert 1 <= n_done <= 60


def done_tracks(url: str) -> dict[frozenset[tuple[str, str]], float]:
    """How many each actor has done, by its labels; Ray goes on telling those of actors that are gone."""
    samples = [sample for family in scraped(url) for sample in family.samples]
    return {
        frozenset(sample.labels.items()): sample.value
        for sample in samples
        if sample.name == "ray_splitfire_tracks_total" and sample.labels["status"] == "done"
    }


def scraped(url: str) -> list[Any]:
    """What Prometheus would get; nothing while Ray's agent is not there yet."""
    try:
        text = httpx.get(url).text
    except httpx.TransportError:
        return []
    return list(prometheus_client.parser.text_string_to_metric_families(text))


def wait_for_metrics(url: str) -> dict[str, tuple[str, set[str]]]:
    """Kind and labels of whatever Ray exports, once all of ours are among it: some are of jobs before."""
    deadline, missing = time.monotonic() + 120, {metric.exported for metric in METRICS}
    while time.monotonic() < deadline:
        found = {
            sample.name: (family.type, set(sample.labels))
            for family in scraped(url)
            for sample in family.samples
        }
        missing = {metric.exported for metric in METRICS} - found.keys()
        if not missing:
            return found
        time.sleep(1)
    raise AssertionError(f"Ray does not export {', '.join(sorted(missing))}")
