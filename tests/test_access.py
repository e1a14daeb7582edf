"""Who may use a Ray: on a real one, as a stranger on the same machine would try."""

from __future__ import annotations

import base64
import os
import secrets
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager
from pathlib import Path

import grpc
import pytest
import ray
from ray._private import parameter, services

from cluster import access
from cluster.session import connect, knock
from splitfire_batch.errors import ConfigError, TransientError
from tests.benchmarks.processes import tree

LOOPBACK = {"0100007F", "0" * 24 + "01000000", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, ::1 and ::ffff:127.0.0.1 as /proc/net spells them."""


class Grown:
    """A worker process that stays; one that has only done a task goes when it is idle."""

    def paths(self) -> list[str]:
        return sys.path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the driver stands in."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def paths(place: Path) -> Iterator[list[str]]:
    """Where a worker looks for modules, on a Ray of our own."""
    with chdir(place), connect(n_cpus=1):
        worker = ray.remote(Grown).remote()
        yield ray.get(worker.paths.remote())


@pytest.fixture(scope="module")
def head(paths: list[str]) -> str:
    """`host:port` of a Ray of our own, with a worker."""
    assert paths
    return str(ray.get_runtime_context().gcs_address)


@contextmanager
def bare_head(folder: Path, **settings: str) -> Iterator[str]:
    """`host:port` of a head with these settings: only the process that answers there, of the real Ray."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {
        "log_dir": folder,
        "session-dir": folder,
        "session-name": "open",
        "gcs_server_port": port,
        "metrics-agent-port": 0,
        "node-ip-address": "127.0.0.1",
        "node-id": secrets.token_hex(28),
        "config_list": base64.b64encode(b"{}").decode(),
        "ray-commit": ray.__commit__,
    }
    command = [services.GCS_SERVER_EXECUTABLE, *(f"--{name}={value}" for name, value in flags.items())]
    child = subprocess.Popen(
        command,
        env=variables | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        child.kill()
        child.wait()


@pytest.fixture(scope="module")
def open_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of a head that asks for no token."""
    with bare_head(tmp_path_factory.mktemp("open"), RAY_AUTH_MODE="disabled") as address:
        yield address


def listening(pids: set[int]) -> set[tuple[int, str]]:
    """(process id, address as in /proc/net) of every TCP socket that those processes listen on."""
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    addresses = {fields[9]: fields[1].partition(":")[0] for fields in lines if fields[3] == "0A"}
    found = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inode = str(link.readlink()).removeprefix("socket:[").removesuffix("]")
            except FileNotFoundError:  # closed while we looked
                continue
            if inode in addresses:
                found.add((pid, addresses[inode]))
    return found


def processes_of_ray() -> set[int]:
    """This one, those that have the token in their environment, and those below them.

    Ray's agents write their names over their environment.
    """
    token, pids = os.environ["RAY_AUTH_TOKEN"].encode(), set[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if token in (folder / "environ").read_bytes():
                pids.add(int(folder.name))
        except OSError:  # it ended, or is not ours
            continue
    others = pids - {os.getpid()}
    return {below for pid in others for below in tree(pid)} | {os.getpid()}


def test_a_ray_that_does_not_start_is_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup")

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(TransientError, match="did not start on this machine: The current node timed"),
        connect(n_cpus=1),
    ):
        pytest.fail("there is no Ray")


def test_every_process_of_a_ray_of_our_own_listens_on_this_machine_only(head: str) -> None:
    deadline = time.monotonic() + 120
    found: set[tuple[int, str]] = set()
    while len({pid for pid, _ in found}) < 6 and time.monotonic() < deadline:
        time.sleep(0.5)  # Ray's agents start after it
        found = listening(processes_of_ray())
    assert access.is_loopback(head)
    assert len({pid for pid, _ in found}) >= 6, found  # driver, gcs, raylet, two agents, worker
    assert {address for _, address in found} <= LOOPBACK, found


def test_a_signal_to_the_group_of_a_run_does_not_reach_its_ray(head: str) -> None:
    others = processes_of_ray() - {os.getpid()}
    assert access.is_loopback(head)
    assert len(others) >= 3  # gcs, raylet, worker; agents may still be starting
    assert os.getpgid(0) not in {os.getpgid(pid) for pid in others}


def test_a_ray_of_our_own_has_no_process_that_a_run_does_not_use(head: str) -> None:
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of_ray()]
    assert access.is_loopback(head)
    assert any(b"gcs_server" in line for line in lines)
    assert not any(b"ray::IDLE" in line for line in lines)
    for needless in (b"dashboard/dashboard.py", b"autoscaler/_private/monitor.py", b"log_monitor.py"):
        assert not any(needless in line for line in lines)
    assert parameter.RayParams.__module__ == "ray._private.parameter"
    assert services.start_api_server.__module__ == services.ConsolePopen.__module__ == services.__name__


def test_workers_look_for_modules_where_the_driver_does_and_not_where_it_stands(
    paths: list[str], place: Path
) -> None:
    root = str(Path(__file__).parents[1])
    assert root in sys.path
    assert root in paths
    assert str(place) not in paths
    assert "" not in paths


def test_strangers_are_refused_by_a_ray_of_our_own(head: str) -> None:
    assert not access.is_obeyed(head)
    assert not access.is_obeyed(head, secrets.token_hex(32))
    assert access.is_obeyed(head, os.environ["RAY_AUTH_TOKEN"])


def client(head: str, token: str | None) -> subprocess.CompletedProcess[str]:
    """Ray's own client in a process that shares nothing with this one but the machine."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    variables |= {"HOME": "/nonexistent", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    variables |= {"RAY_NUM_REDIS_GET_RETRIES": "1"}
    variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {}
    script = f"import ray; ray.init('{head}', logging_level='CRITICAL'); print(len(ray.nodes()))"
    return subprocess.run(
        [sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=60
    )


def test_rays_own_client_comes_in_with_the_token_and_not_without(head: str) -> None:
    with_token = client(head, os.environ["RAY_AUTH_TOKEN"])
    without = client(head, None)
    assert (with_token.returncode, with_token.stdout.strip()) == (0, "1"), with_token.stderr
    assert without.returncode != 0
    assert without.stdout == ""


def test_the_token_is_in_no_file_and_on_no_command_line(head: str) -> None:
    token = os.environ["RAY_AUTH_TOKEN"].encode()
    folder = access.private_folder()
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    lines = [
        (process / "cmdline").read_bytes() for process in Path("/proc").glob("[0-9]*") if process.exists()
    ]
    assert access.is_loopback(head)
    assert len(files) > 10  # Ray's logs
    assert [path for path in files if token in path.read_bytes()] == []
    assert [line for line in lines if token in line] == []
    assert not any(token in path.read_bytes() for path in Path.home().glob(".ray/*") if path.is_file())


def test_nobody_else_can_enter_the_folder_of_sockets_and_logs(head: str) -> None:
    folder = access.private_folder()
    sockets = [path for path in folder.rglob("*") if path.is_socket()]
    assert access.is_loopback(head)
    assert {path.name for path in sockets} >= {"plasma_store", "raylet"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the private folder would be called in an empty folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(access, "_MAX_FOLDER_BYTES", 1_000)
    return tmp_path / f"splitfire-{os.geteuid()}"


def test_a_folder_of_ours_that_others_may_enter_is_closed(shared: Path) -> None:
    shared.mkdir()
    shared.chmod(0o777)
    assert access.private_folder() == shared
    assert stat.S_IMODE(shared.stat().st_mode) == 0o700


def test_a_folder_of_somebody_else_is_refused(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody = os.geteuid() + 1
    shared.with_name(f"splitfire-{somebody}").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: somebody)
    with pytest.raises(ConfigError, match="it is not yours"):
        access.private_folder()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_link_in_its_place_is_refused(kind: str, shared: Path) -> None:
    if kind == "file":
        shared.write_text("x")
    else:
        shared.symlink_to(shared.parent)
    with pytest.raises(ConfigError, match=r"not yours; remove it or set TMPDIR|free the name"):
        access.private_folder()


def test_a_temporary_folder_too_deep_for_sockets_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 80)))
    assert access.private_folder() == Path("/tmp", f"splitfire-{os.geteuid()}")  # noqa: S108


def knock_until_heard(address: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            return knock(address)
        except TransientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_an_open_cluster_is_joined_only_where_nobody_else_reaches_it(
    open_head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(access.MODE, raising=False)
    knock_until_heard(open_head)
    assert access.check_cluster(open_head) == "nothing, and only this machine reaches it"
    monkeypatch.setattr(access, "is_loopback", lambda _: False)
    with pytest.raises(ConfigError, match=r"asks for no token.*RAY_AUTH_MODE=token"):
        access.check_cluster(open_head)
    monkeypatch.setenv(access.MODE, "disabled")
    assert "wishes" in access.check_cluster(open_head)


def test_a_cluster_with_another_token_is_refused_at_once(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = access._raylet.AuthenticationTokenLoader
    ours = os.environ["RAY_AUTH_TOKEN"]
    assert access.check_cluster(head) == "token authentication"
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    loader.instance().reset_cache()
    begin = time.monotonic()
    try:
        with pytest.raises(ConfigError, match="asks for a token, and this process has another one"):
            access.check_cluster(head)
        assert time.monotonic() - begin < 5
    finally:
        monkeypatch.setenv("RAY_AUTH_TOKEN", ours)
        loader.instance().reset_cache()


def test_a_cluster_that_is_gone_is_a_passing_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_ANSWER_S", 0.5)
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:1 does not answer"):
        access.is_obeyed("127.0.0.1:1")


@contextmanager
def answering(answer: grpc.StatusCode | bytes) -> Iterator[str]:
    """`host:port` of what answers every question so."""

    def reply(_: bytes, context: grpc.ServicerContext) -> bytes:
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "so")
        return answer

    class Handler(grpc.GenericRpcHandler):
        def service(self, _: object) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(reply)

    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, handlers=[Handler()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@pytest.mark.parametrize(
    ("answer", "is_obeyed"),
    [
        (b"", True),
        (bytes(5 * 2**20), True),  # of a cluster of thousands; gRPC takes 4 MiB
        (grpc.StatusCode.UNIMPLEMENTED, True),
        (grpc.StatusCode.UNAUTHENTICATED, False),
        (grpc.StatusCode.PERMISSION_DENIED, False),
        (grpc.StatusCode.UNAVAILABLE, None),
    ],
    ids=["empty", "large", "unknown question", "no token", "refused", "not there"],
)
def test_any_answer_but_a_refusal_is_obedience(
    answer: grpc.StatusCode | bytes, is_obeyed: bool | None
) -> None:
    with answering(answer) as address:
        if is_obeyed is None:
            with pytest.raises(TransientError, match="does not answer: UNAVAILABLE"):
                access.is_obeyed(address)
        else:
            assert access.is_obeyed(address) is is_obeyed


@pytest.mark.parametrize(
    ("address", "is_so"),
    [
        ("127.0.0.1:6379", True),
        ("127.9.9.9", True),
        ("localhost:1", True),
        ("[::1]:6379", True),
        ("10.0.0.1:6379", False),
        ("0.0.0.0:6379", False),
        ("head.internal:6379", False),
        ("127.0.0.1.evil.example:6379", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(address: str, is_so: bool) -> None:
    assert access.is_loopback(address) is is_so
