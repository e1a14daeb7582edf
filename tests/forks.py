"""Processes that run a whole job each, without the seconds that importing torch and pyarrow takes.

A process of its own imports everything once, opens no store and starts no thread, and forks on request. What
it forks may crash, be killed or be frozen like any other process; nothing of it reaches the test's process.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

_NEEDED = (
    "aiobotocore.session",
    "numpy.ma",
    "numpy.random",
    "pyarrow.acero",
    "pyarrow.dataset",
    "s3fs",
    "safetensors.torch",
    "splitfire_batch.job",
    "splitfire_batch.models.weights",
    "splitfire_batch.worker",
    "tests.in_process_job",
)
"""Everything that a fork will import, also late."""
Target = Callable[[], int]
"""Runs in the fork; returns its exit code. Picklable, of an importable module."""


class Forks:
    """Starts processes inside a `with` block, from any thread; those that still run at its end are killed."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Forks:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tests.forks", str(theirs.fileno())]
        quiet = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
        self._server = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env={**os.environ, **quiet}, start_new_session=True
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in list(self._running):
            self.kill(pid)
        self._connection.close()
        self._server.wait(30)

    def start(self, target: Target, log: str = os.devnull) -> int:
        """Begin `target` in a process and session of its own, whose id is returned; it prints into `log`."""
        pid: int = self._ask("start", target, log)
        self._running.add(pid)
        return pid

    def wait(self, pid: int, timeout_s: float = 120) -> int:
        """The exit code; negative for a signal.

        Raises:
            TimeoutError: it still ran, and was killed.
        """
        if not has_ended(pid, timeout_s):
            self.kill(pid)
            raise TimeoutError(f"process {pid} still ran after {timeout_s} s")
        self._running.discard(pid)
        return int(self._ask("end", pid))

    def kill(self, pid: int) -> int:
        """End it at once, with SIGKILL; the exit code: its own if it was quicker."""
        os.kill(pid, signal.SIGKILL)
        return self.wait(pid)

    def run(self, target: Target, log: str = os.devnull) -> int:
        """`start` and `wait`."""
        return self.wait(self.start(target, log))

    def _ask(self, *request: object) -> Any:
        with self._lock:
            self._connection.send(request)
            return self._connection.recv()


def has_ended(pid: int, within_s: float = 0) -> bool:
    """Whether a process came to its end in so many seconds; it is still there for its parent to wait for."""
    process, end = os.pidfd_open(pid), select.poll()
    end.register(process, select.POLLIN)
    try:
        return bool(end.poll(1000 * within_s))
    finally:
        os.close(process)


def survivors(session: int) -> list[str]:
    """Command lines of the processes in a session; the dead that nobody has waited for do not count."""
    listed = subprocess.run(["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True, check=True)
    lines = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [args for sid, state, args in lines if sid == str(session) and not state.startswith("Z")]


def _serve(connection: Connection) -> None:
    """Fork on request until the other end is gone."""
    while True:
        try:
            what, *arguments = connection.recv()
        except EOFError:
            return
        if what == "start":
            connection.send(_fork(connection, *arguments))
        else:
            connection.send(_end(*arguments))


def _fork(connection: Connection, target: Target, log: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        connection.close()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = target()
    except BaseException:  # noqa: BLE001 - whatever it is, it ends here, in the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def _read_descriptions() -> None:
    """What every client of S3 reads from botocore's files; nothing is connected."""
    from splitfire_batch.storage.s3 import new_session

    async with new_session().create_client("s3"):
        return


if __name__ == "__main__":
    for name in _NEEDED:
        import_module(name)
    asyncio.run(_read_descriptions())
    with suppress(KeyboardInterrupt):
        _serve(Connection(int(sys.argv[1])))
