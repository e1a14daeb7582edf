"""A Prefect server as a child of this process, until that ends, however it does.

Prefect has one, too (`SubprocessASGIServer`), but using it imports all of the server into the process that
only talks to it, a third of the time until the server answers.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

import httpx

from splitfire_batch.errors import TransientError
from splitfire_batch.importing import uncollected

_VARIABLES = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
"""As Prefect sets them for a server of one process: no page, and no services that schedule deployments."""
_ASK_S = 0.1
_END_S = 5.0


def start_server(variables: Mapping[str, str], within_s: float) -> str:
    """URL of the API of a server that listens on 127.0.0.1 and answers.

    Where this process ends in good order, the server does so after Prefect's threads, which then send what
    they still have. A terminal sends Ctrl-C to all its processes. The server must outlive the tracks that are
    finished then, so it is born with SIGINT blocked; and its files are for this user only.

    Args:
        variables: settings of Prefect for the server, beside this process's environment.
        within_s: how long it may take to answer.

    Raises:
        TransientError: it ended, or did not answer in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # a socket that already listens: no other process can take the port, and who asks early waits
        server = _start(listener, variables)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    atexit.register(_end, server)
    _wait(url, server, within_s)
    return url


def _start(listener: socket.socket, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            # -P: whoever has flows of his own may stand beside a folder of that name
            [sys.executable, "-P", "-m", "flows.server_process", str(listener.fileno())],
            env={**os.environ, **_VARIABLES, **variables},
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            umask=0o077,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)


def _wait(url: str, server: subprocess.Popen[bytes], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TransientError(f"Prefect: its server ended with exit code {server.returncode}")
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=max(_ASK_S, deadline - time.monotonic())).is_success:
                return
        time.sleep(_ASK_S)
    raise TransientError(f"Prefect: its server did not answer within {within_s:g} s")


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.stdin:
        server.stdin.close()
    try:
        server.wait(_END_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _serve(listener: socket.socket) -> None:
    """In the child: answer until the parent closes its end of the pipe, or is no more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with uncollected():
        from prefect.server.api.server import create_app
        from uvicorn import Config, Server

        app = create_app()
    Server(Config(app, log_level="error", lifespan="on")).run(sockets=[listener])


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)  # uvicorn answers what it was asked, and ends


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
