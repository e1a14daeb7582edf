"""A small HTTP proxy in front of a store that does to requests and answers what networks and stores do.

`Rule`s say which requests meet which fault. Whether one fires depends only on the seed, the request line and
how often that line was seen, not on the order in which threads arrive. Requests go upstream as they came,
`Host` included, so signatures stay valid; connections to clients are kept alive.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tests.http_messages import Message, read_message

KINDS = ("latency", "status", "reset", "blackhole", "lostack", "truncate", "shortlen", "flip", "flipsent")

_DAMAGE = ("truncate", "shortlen", "flip")  # of the answer's body


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault, and whom it meets."""

    kind: str
    """One of KINDS.

    latency: `seconds` pass first. status: answered with `status` and `code`, and not sent upstream unless
    `is_done`. reset: the connection breaks before the request is sent upstream. lostack: it breaks after the
    request was answered there. blackhole: no answer, for `seconds` or until the client leaves. truncate: the
    body ends half-way, and so does the connection. shortlen: half the body, with a length that says so.
    flip: one bit of the body. flipsent: one bit of the body that was sent.
    """
    match: str = ""
    """Searched in "METHOD /path?query" as it is sent (a regular expression)."""
    count: int | None = None
    """The rule is spent after so many faults."""
    chance: float = 1.0
    status: int = 503
    code: str = "SlowDown"
    is_done: bool = False
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"found the kind {self.kind!r}, wanted one of {', '.join(KINDS)}")


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to one request."""

    kind: str
    request: str


class FaultProxy:
    """Runs in a thread of its own inside a `with` block.

    Args:
        upstream: http://host:port of the real server.
        rules: of those that match and fire, only the first acts.
        seed: of `Rule.chance`, and of which bit flips.
    """

    def __init__(self, upstream: str, *rules: Rule, seed: int = 0) -> None:
        address = urlsplit(upstream)
        self._upstream = (address.hostname or "127.0.0.1", address.port or 80)
        self._seed = seed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")
        self._connections: set[asyncio.Task[None]] = set()
        self._flips: Counter[str] = Counter()
        self.requests: list[str] = []
        """Every request line in the order of arrival."""
        self.log: list[Fault] = []
        self.endpoint = ""
        """http://127.0.0.1:port, once the proxy runs."""
        self.set_rules(*rules)

    def set_rules(self, *rules: Rule) -> None:
        """Replace all rules; what the old ones were doing to a request goes on."""
        self._rules: tuple[tuple[Rule, Counter[str]], ...] = tuple((rule, Counter()) for rule in rules)

    def faults(self) -> Counter[str]:
        """How often each kind was injected."""
        return Counter(fault.kind for fault in self.log)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._server = self._wait(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _close(self) -> None:
        await asyncio.sleep(0.02)  # asyncio leaves a connection open that it is just about to accept
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next round

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while request := await read_message(reader, writer):
                    if not await self._answer(request, reader, writer):
                        break
                    await writer.drain()
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()  # what a client does not read must not keep the connection open
            self._connections.discard(task)

    async def _answer(
        self, request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection goes on."""
        line = request.start.rpartition(" ")[0]
        self.requests.append(line)
        rule, undo = self._choose(line)
        kind = rule.kind if rule else ""
        if rule and kind == "latency":
            await asyncio.sleep(rule.seconds)
        if rule and kind == "blackhole":
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(), rule.seconds or None)
        if kind in ("blackhole", "reset"):
            return _reset(writer)
        if rule and kind == "status":
            if rule.is_done:
                await self._forward(request)
            return _send(writer, _error(rule, line))
        if kind == "flipsent" and request.body:
            request = replace(request, body=self._flip(request.body, line))
        answer = await self._forward(request)
        if kind == "lostack":
            return _reset(writer)
        if kind not in _DAMAGE:
            return _send(writer, answer, is_head=line.startswith("HEAD "))
        if line.startswith("HEAD ") or not answer.start.startswith("HTTP/1.1 2") or len(answer.body) < 2:
            undo()  # there is nothing to damage
            return _send(writer, answer, is_head=line.startswith("HEAD "))
        return self._damage(kind, line, answer, writer)

    def _choose(self, line: str) -> tuple[Rule | None, Callable[[], None]]:
        """The rule that fires, and what takes that back."""
        for rule, seen in self._rules:
            if not re.search(rule.match, line) or (rule.count is not None and seen[""] >= rule.count):
                continue
            seen[line] += 1
            if self._number(repr(rule), line, str(seen[line])) >= rule.chance * 2**64:
                continue
            seen[""] += 1
            fault = Fault(rule.kind, line)
            self.log.append(fault)

            def undo(seen: Counter[str] = seen, fault: Fault = fault) -> None:
                seen[""] -= 1
                self.log.remove(fault)

            return rule, undo
        return None, lambda: None

    def _number(self, *words: str) -> int:
        """A number below 2**64 that depends on the seed and the words alone."""
        digest = hashlib.sha256("\n".join((str(self._seed), *words)).encode()).digest()
        return int.from_bytes(digest[:8], "big")

    def _damage(self, kind: str, line: str, answer: Message, writer: asyncio.StreamWriter) -> bool:
        half = answer.body[: len(answer.body) // 2]
        if kind == "shortlen":
            return _send(writer, replace(answer, body=half))
        if kind == "truncate":
            whole = answer.without("connection", "content-length", "transfer-encoding")
            headers = (*whole.headers, ("Content-Length", str(len(answer.body))))
            writer.write(replace(whole, headers=headers).head() + half)
            return False
        return _send(writer, replace(answer, body=self._flip(answer.body, line)))

    def _flip(self, body: bytes, line: str) -> bytes:
        self._flips[line] += 1  # never twice the same bit: damage on the way does not repeat itself
        flipped, bit = bytearray(body), self._number(str(self._flips[line]), line) % (8 * len(body))
        flipped[bit // 8] ^= 1 << bit % 8
        return bytes(flipped)

    async def _forward(self, request: Message) -> Message:
        """The real server's answer, over a connection of its own."""
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            lasting = request.without("connection", "expect", "transfer-encoding", "content-length")
            length = (("Content-Length", str(len(request.body))),) if request.body else ()
            if not request.body and request.header("content-length"):
                length = (("Content-Length", "0"),)
            headers = (*lasting.headers, *length, ("Connection", "close"))
            writer.write(replace(lasting, headers=headers).head() + request.body)
            answer = await read_message(reader, None, is_head=request.start.startswith("HEAD "))
            if answer is None:
                raise ConnectionResetError("the server left without an answer")
            return answer
        finally:
            writer.close()


def _send(writer: asyncio.StreamWriter, answer: Message, is_head: bool = False) -> bool:
    """Whether the connection goes on: it does. An answer to HEAD keeps the length that it tells."""
    if is_head:
        writer.write(answer.without("connection").head())
        return True
    lasting = answer.without("connection", "content-length", "transfer-encoding")
    headers = (*lasting.headers, ("Content-Length", str(len(answer.body))))
    writer.write(replace(lasting, headers=headers).head() + answer.body)
    return True


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Whether the connection goes on: it ends with a reset, not with a proper goodbye."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


def _error(rule: Rule, line: str) -> Message:
    body = f"<?xml version='1.0'?><Error><Code>{rule.code}</Code><Message>injected</Message></Error>".encode()
    start, kind = f"HTTP/1.1 {rule.status} Injected", ("Content-Type", "application/xml")
    return Message(start, (kind,), b"" if line.startswith("HEAD ") else body)
