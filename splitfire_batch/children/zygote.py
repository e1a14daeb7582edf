"""The process that codec children are forked from: the codecs are loaded once, and a child costs a few
milliseconds. It never touches a file of the catalogue, and has one thread only, so that forking is safe.

Its owner asks by a byte with three open files: the child's socket, the file for what its libraries print,
and a pipe that gets the child's exit status. When the owner is gone, so are all.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence

from splitfire_batch.children import limits

_LOOK_S = 1.0
"""How often it looks whether its owner lives, in case another process holds the owner's socket open."""


def main(control: int, owner: int, memory_bytes: int, codec_s: float, modules: Sequence[str]) -> None:
    """Fork a child per request until the owner is gone.

    Args:
        control: an open Unix socket.
        owner: the owner's process id.
        memory_bytes: what a child may allocate.
        codec_s: see `serving.serve`.
        modules: loaded before the first child, in this order.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # they may go to all of a group: the worker finishes
        signal.signal(number, signal.SIG_IGN)  # what is in flight, and its end is ours
    limits.die_with(owner)
    for name in modules:
        if importlib.util.find_spec(name):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the children's collections would copy every page
    _Zygote(socket.socket(fileno=control), owner, memory_bytes, codec_s).run()


class _Zygote:
    """The open files, and which child's status goes where."""

    def __init__(self, control: socket.socket, owner: int, memory_bytes: int, codec_s: float) -> None:
        self._control, self._owner = control, owner
        self._memory_bytes, self._codec_s = memory_bytes, codec_s
        self._statuses: dict[int, int] = {}
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        poll = select.poll()  # `select` knows no file beyond the 1024th, and the owner may have many
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while os.getppid() == self._owner:
            ready = {file for file, _ in poll.poll(_LOOK_S * 1000)}
            if self._woken.fileno() in ready:
                self._woken.recv(4096)
            self._reap()
            if self._control.fileno() in ready and not self._answer():
                break
        for pid in self._statuses:
            os.kill(pid, signal.SIGKILL)  # none is reaped yet, so each is still our child
        for pid in self._statuses:
            os.waitpid(pid, 0)  # what they have computed counts as ours, and then as the owner's

    def _answer(self) -> bool:
        """Fork one child; False when the owner is gone.

        Whoever asks for a child that cannot be had sees its files closed; the other children are at work.
        """
        data, files, _, _ = socket.recv_fds(self._control, 1, 3)
        if not data:
            return False
        try:
            link, notes, status = files  # fewer, if this process may open no more
            pid = os.fork()
        except (OSError, ValueError):
            for file in files:
                os.close(file)
            return True
        if not pid:
            self._become_child(link, notes, status)
        os.close(link)
        os.close(notes)
        self._statuses[pid] = status
        return True

    def _become_child(self, link: int, notes: int, status: int) -> None:
        """Serve until the end; never returns into the zygote's code."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            zygote = os.getppid()
            for file in (self._control, self._woken, self._wake):
                file.close()
            for other in (*self._statuses.values(), status):
                os.close(other)
            os.dup2(notes, sys.stderr.fileno())
            os.close(notes)
            limits.die_with(zygote)
            limits.hold_to(self._memory_bytes)
            from splitfire_batch.children.serving import serve

            serve(socket.socket(fileno=link), self._codec_s)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, it must not run on as a second zygote
            traceback.print_exc()
            os._exit(1)

    def _reap(self) -> None:
        """Tell how children ended."""
        while self._statuses:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            file = self._statuses.pop(pid)
            try:
                os.write(file, str(os.waitstatus_to_exitcode(status)).encode())
            except BrokenPipeError:
                continue  # nobody wants to know
            finally:
                os.close(file)
