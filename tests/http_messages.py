"""HTTP/1.1 requests and answers as the fault proxy passes them on: read whole, chunks joined."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer, its body whole."""

    start: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The first header of that name, in small letters; "" when there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    def without(self, *names: str) -> Message:
        """The message less these headers, named in small letters."""
        kept = tuple(pair for pair in self.headers if pair[0].lower() not in names)
        return replace(self, headers=kept)

    def head(self) -> bytes:
        """Everything before the body."""
        lines = [self.start, *(f"{key}: {value}" for key, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")


async def read_message(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, is_head: bool = False
) -> Message | None:
    """The next message, its chunks joined; None at the end. `writer` is there for requests only."""
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as end:
        if end.partial:
            raise
        return None
    start, *lines = text.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    message = Message(start, tuple((key, value.strip()) for key, _, value in pairs), b"")
    if writer is not None and message.header("expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if is_head:
        return message
    if "chunked" in message.header("transfer-encoding").lower():
        return replace(message, body=await _join_chunks(reader))
    length = message.header("content-length")
    if length:
        return replace(message, body=await reader.readexactly(int(length)))
    return message if writer is not None else replace(message, body=await reader.read())


async def _join_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while n_bytes := int((await reader.readline()).split(b";")[0], 16):
        chunks.append(await reader.readexactly(n_bytes))
        await reader.readline()
    while (await reader.readline()).strip():  # trailers
        continue
    return b"".join(chunks)
