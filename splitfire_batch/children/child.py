"""One codec child as its owner sees it: messages there and back, and what became of it."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

from splitfire_batch.audio.formats import Samples
from splitfire_batch.children.wire import Message, WireError, receive, send, send_block
from splitfire_batch.errors import FAILURE_CODES, NoSpace, SplitfireError, StorageError, TrackError

MAX_PEAK_BYTES = 400 * 2**20
"""A child that once held more is replaced."""
END_S = 5.0
"""How long the kernel may take to end a process."""
_NOTE_BYTES = 2_000
_DISK_BYTES_PER_S = 10e6


class ChildLost(Exception):
    """A child is gone, or had to be ended.

    Args:
        why: what became of it, as the end of a sentence about it.
        limit: the limit that it met: memory, cpu, size or silence; or who else ended it: `kill`, somebody
            from outside, as the system does when memory is full; `parent`, its zygote, by ending first.
    """

    def __init__(self, why: str, limit: str | None = None) -> None:
        super().__init__(why, limit)
        self.why, self.limit = why, limit

    def __str__(self) -> str:
        return self.why


class Child:
    """One process; used by one thread at a time."""

    def __init__(
        self, link: socket.socket, notes: IO[bytes], status: int, is_orphan: Callable[[], bool]
    ) -> None:
        """Own these open files: the socket, where its libraries print to, and what tells how it ended.

        `is_orphan` says whether its zygote has ended.
        """
        self._link, self._notes, self._status, self._is_orphan = link, notes, status, is_orphan
        self._code: int | None = None
        self._is_killed = False
        self._timeout_s = 0.0
        self.pid = 0
        self.n_jobs = 0
        """How many it has done."""
        self.is_worn = False
        """Whether it should do no more."""

    def be_patient(self, n_bytes: float = 0) -> None:
        """Let it be silent for as long as a slow disk needs for so many bytes, beside its usual time."""
        self._link.settimeout(self._timeout_s + n_bytes / _DISK_BYTES_PER_S)

    def greet(self, within_s: float, timeout_s: float) -> None:
        """Wait for its first words; from then on it may be silent for `timeout_s`.

        Raises:
            ChildLost: it did not start.
        """
        self._timeout_s = within_s
        self.be_patient()
        self.pid = int(self.receive("hello").fields["pid"])
        self._timeout_s = timeout_s
        self.be_patient()

    def send(self, kind: str, fields: Mapping[str, Any] | None = None, body: bytes = b"") -> None:
        """Send a message.

        Raises:
            ChildLost: it is gone, or takes nothing.
            TrackError, StorageError: it has said why, see `receive`.
        """
        try:
            send(self._link, kind, fields, body)
        except OSError as error:
            raise self._why_deaf(error) from error

    def send_block(self, block: Samples) -> None:
        """Send samples (n, C), C-contiguous; raises what `send` does."""
        try:
            send_block(self._link, block)
        except OSError as error:
            raise self._why_deaf(error) from error

    def receive(self, *kinds: str) -> Message:
        """The next message, one of these kinds.

        Raises:
            ChildLost: it is gone, frozen, talks nonsense, or has met a limit.
            TrackError, StorageError: what it met instead.
        """
        try:
            message = receive(self._link)
            if message and message.number("peak_bytes") > MAX_PEAK_BYTES:
                self.is_worn = True
        except TimeoutError as error:
            raise self._silent() from error
        except ConnectionError:
            message = None
        except WireError as error:
            raise self.forged(error) from error
        if message is None:
            raise self._ended()
        if message.kind == "error":
            raise _error(message.fields)
        if message.kind not in kinds:
            raise self.forged(WireError(f"found {message.kind}, wanted {' or '.join(kinds)}"))
        return message

    def is_ready(self) -> bool:
        """Whether it is alive and has nothing to say, as between jobs."""
        return not _can_read(self._link.fileno(), 0)

    def notes(self) -> str:
        """What its libraries have printed since the last call, in one line."""
        if not os.fstat(self._notes.fileno()).st_size:
            return ""
        text = os.pread(self._notes.fileno(), _NOTE_BYTES, 0).decode(errors="replace")
        os.ftruncate(self._notes.fileno(), 0)
        return " ".join(text.split())

    def end(self) -> None:
        """End it at once, and wait until it has ended."""
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        if self.pid and not self._has_ended(0):
            self._is_killed = True
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._has_ended(END_S)

    def forget(self) -> None:
        """Close what belongs to it."""
        self._link.close()
        self._notes.close()
        os.close(self._status)

    def forged(self, error: WireError) -> ChildLost:
        """It said what our code never says: it is ended, and not believed again."""
        self.end()
        return ChildLost(f"talked nonsense ({error})")

    def _why_deaf(self, error: OSError) -> Exception:
        """Why it takes no message: what it has said before it went, or how it went."""
        if isinstance(error, TimeoutError):
            return self._silent()
        try:
            while True:
                message = receive(self._link)
                if message is None or message.kind == "error":
                    return _error(message.fields) if message else self._ended()
        except (OSError, WireError):
            return self._ended()

    def _ended(self) -> ChildLost:
        if not self._has_ended(END_S):
            self.end()
        if self._code is None:
            is_orphan = not self._is_killed and self._is_orphan()
            return ChildLost("closed its connection", "parent" if is_orphan else None)
        if self._code >= 0:
            return ChildLost(f"ended by itself with exit code {self._code}")
        number = -self._code
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        if number == signal.SIGKILL and not self._is_killed:
            return ChildLost(f"was ended by {name}", "kill")
        return ChildLost(f"was ended by {name}", "cpu" if number == signal.SIGXCPU else None)

    def _silent(self) -> ChildLost:
        self.end()
        return ChildLost(f"said nothing for {self._link.gettimeout() or 0:.3g} s", "silence")

    def _has_ended(self, within_s: float) -> bool:
        """Whether it has, and with which exit code, minus a signal's number, if the zygote could tell."""
        if self._code is not None:
            return True
        if not _can_read(self._status, within_s):
            return False
        if told := os.read(self._status, 16):
            self._code = int(told)
        return True


def _can_read(file: int, within_s: float) -> bool:
    """Whether there is something, or the end of it; `select` knows no file beyond the 1024th."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def _error(fields: Mapping[str, Any]) -> SplitfireError | ChildLost:
    """What an `error` message means."""
    limit, code, why = fields.get("limit"), fields.get("code"), str(fields.get("why"))
    if limit == "memory":
        return ChildLost("needed more memory than it may have", limit)
    if limit == "size":
        return ChildLost("wrote a longer file than it may", limit)
    if "uri" in fields:
        return (NoSpace if fields.get("is_full") else StorageError)(str(fields["uri"]), why)
    if code in FAILURE_CODES:
        return TrackError(str(code), why)
    return ChildLost("talked nonsense (an error of no known kind)")
