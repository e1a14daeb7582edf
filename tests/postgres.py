"""A real PostgreSQL server on 127.0.0.1, as this machine has it, in a folder that is thrown away."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_USER = "prefect"
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
"""Where Debian's and PGDG's packages put the programs, which are in no PATH there."""


def find_programs() -> Path | None:
    """The folder with `initdb` and `postgres`; None where there is no PostgreSQL server."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = [folder for place in _PLACES for folder in Path("/").glob(place[1:])]
    return max((folder for folder in folders if (folder / "initdb").exists()), default=None)


def why_not() -> str | None:
    """Why there can be none here; None where there can."""
    if find_programs() is None:
        return "no initdb here: install the package postgresql"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and there is no setpriv"
    return None


@contextmanager
def postgres() -> Iterator[str]:
    """URL of an empty database, as Prefect's setting PREFECT_API_DATABASE_CONNECTION_URL takes it."""
    programs = find_programs()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="splitfire-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # it refuses root; nobody is everywhere
        shutil.chown(folder, "nobody")
        as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]
    password = secrets.token_hex(16)
    secret = folder / "password"
    secret.write_text(password)
    secret.chmod(0o644)  # inside a folder that only its owner enters
    data = folder / "data"
    flags = [
        f"--username={_USER}",
        f"--pwfile={secret}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--no-sync",
    ]
    made = subprocess.run(
        [*as_user, str(programs / "initdb"), f"--pgdata={data}", *flags],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert made.returncode == 0, made.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*as_user, str(programs / "postgres"), "-D", str(data), "-p", str(port)]
    command += [
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        f"unix_socket_directories={folder}",
        "-c",
        "fsync=off",
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        _wait(port, server, folder / "log")
        yield f"postgresql+asyncpg://{_USER}:{password}@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        try:
            server.wait(20)
        finally:
            server.kill()
            server.wait()
            shutil.rmtree(folder)


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"PostgreSQL is not there; its log ends:\n{log.read_text()[-2000:]}")
