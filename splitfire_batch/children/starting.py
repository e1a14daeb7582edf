"""The owner's hold on a zygote, which is started with little of the owner's environment."""

from __future__ import annotations

import os
import queue
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
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
_MAX_SILENT = 2
"""A zygote hangs that has let so many callers in a row wait in vain."""


class Zygote:
    """A running zygote; may be asked from several threads."""

    def __init__(self, memory_bytes: int, codec_s: float) -> None:
        """Start it, and do not wait for it; for its arguments see `zygote.main`.

        Raises:
            OSError: the system starts no process.
        """
        self._codec_s, self._lock = codec_s, threading.Lock()
        self._control, theirs = socket.socketpair()
        self._control.settimeout(END_S)
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
        self._n_silent = 0

    def fork(self) -> Child:
        """A child that waits for its first job.

        Raises:
            ChildLost: it is not there; `is_lost` tells whether the zygote is.
        """
        with ExitStack() as kept:
            try:
                child = self._asked_for(kept)
            except OSError as error:
                raise ChildLost(f"could not be asked for: {error}") from error
            try:
                child.greet(_START_S, self._codec_s)
            except ChildLost as error:
                self._n_silent += error.limit == "silence"
                raise
            kept.pop_all()
        self._n_silent = 0
        return child

    def is_lost(self) -> bool:
        """Whether it has ended, and its children with it, or seems to hang."""
        return self.is_gone() or self._n_silent >= _MAX_SILENT

    def is_gone(self) -> bool:
        """Whether it has ended. Its socket tells so before its children are ended."""
        with self._lock:
            if self._control.fileno() < 0:
                return True
            poll = select.poll()
            poll.register(self._control, 0)
            return bool(poll.poll(0))

    def end(self) -> None:
        """End it and all its children; idempotent."""
        with self._lock:
            self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
            return
        self._process.kill()
        self._process.wait()

    def _asked_for(self, kept: ExitStack) -> Child:
        """A child that may come; what it needs on our side is put on `kept`."""
        with ExitStack() as lent:
            ours, theirs = socket.socketpair()
            kept.enter_context(ours)
            lent.enter_context(theirs)
            for link in (ours, theirs):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            status, told = os.pipe()
            kept.callback(os.close, status)
            lent.callback(os.close, told)
            notes = kept.enter_context(_notes_file())
            with self._lock:
                socket.send_fds(self._control, [b"f"], [theirs.fileno(), notes.fileno(), told])
        return Child(ours, notes, status, self.is_gone)


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
