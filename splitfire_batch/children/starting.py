"""The owner's hold on a zygote, which is started with little of the owner's environment."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

from splitfire_batch.children.child import END_S, Child, ChildLost

MODULES = ["splitfire_batch.children.serving", "splitfire_batch.audio.ffmpeg", "av"]
"""What a zygote loads before it forks; what is not installed is left out."""
_START_S = 60.0
_BOOTSTRAP = """
import sys
control, owner, memory, seconds, modules, *sys.path = sys.argv[1:]
from splitfire_batch.children.zygote import main
main(int(control), int(owner), int(memory), float(seconds), modules.split(","))
"""
_PASSED_ON = {
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE"),
    *("PYTHONHOME", "PYTHONUTF8", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
}
_BUFFER_BYTES = 2**20


class Zygote:
    """A running zygote; may be asked from several threads."""

    def __init__(self, memory_bytes: int, codec_s: float) -> None:
        """Start it, and do not wait for it; for its arguments see `zygote.main`.

        Raises:
            OSError: the system starts no process.
        """
        self._codec_s, self._lock = codec_s, threading.Lock()
        self._control, theirs = socket.socketpair()
        numbers = [theirs.fileno(), os.getpid(), memory_bytes, codec_s]
        command = [sys.executable, "-c", _BOOTSTRAP, *map(str, numbers), ",".join(MODULES), *sys.path]
        started: queue.SimpleQueue[subprocess.Popen[bytes] | OSError] = queue.SimpleQueue()
        # The kernel takes the end of the thread that started a process for the end of its parent, so
        # this one stays until there is nothing to lose.
        threading.Thread(
            target=_keep, args=(command, theirs.fileno(), started), name="codecs", daemon=True
        ).start()
        process = started.get()
        theirs.close()
        if isinstance(process, OSError):
            self._control.close()
            raise process
        self._process = process

    def fork(self) -> Child:
        """A child that waits for its first job.

        Raises:
            ChildLost: neither it nor, perhaps, the zygote is there.
        """
        ours, theirs = socket.socketpair()
        for link in (ours, theirs):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        status, told = os.pipe()
        notes = _notes_file()
        child = Child(ours, notes, status)
        try:
            with self._lock:
                socket.send_fds(self._control, [b"f"], [theirs.fileno(), notes.fileno(), told])
        except OSError as error:
            child.forget()
            raise ChildLost("could not be asked for") from error
        finally:
            theirs.close()
            os.close(told)
        try:
            child.greet(_START_S, self._codec_s)
        except ChildLost:
            child.forget()
            raise
        return child

    def end(self) -> None:
        """End it and all its children; idempotent."""
        self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
            return
        self._process.kill()
        self._process.wait()


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """What codecs may know of the environment: no credentials, and one thread for each library."""
    kept = {name: value for name, value in environment.items() if name in _PASSED_ON}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _keep(
    command: list[str], control: int, started: queue.SimpleQueue[subprocess.Popen[bytes] | OSError]
) -> None:
    """Start the process and wait for its end, in one thread."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=scrubbed(os.environ),
            pass_fds=[control],
            start_new_session=True,  # Ctrl-C goes to a whole group
        )
    except OSError as error:
        started.put(error)
        return
    started.put(process)
    process.wait()


def _notes_file() -> IO[bytes]:
    """Without a name; each write goes to its end, wherever that has been moved."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    import fcntl

    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_APPEND)
    return file
