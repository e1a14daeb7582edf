"""The chunks of WAV, RF64, W64, AIFF and CAF files, and the metadata blocks of FLAC: names and places.

They are as the headers have them, true or not.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

FLAC_BLOCKS = (
    b"STREAMINFO",
    b"PADDING",
    b"APPLICATION",
    b"SEEKTABLE",
    b"VORBIS_COMMENT",
    b"CUESHEET",
    b"PICTURE",
)
"""Names of FLAC's metadata blocks, by number (RFC 9639 §8.1)."""

_MAX_CHUNKS = 10_000
_NAME = re.compile(rb"[\w ()]{4}")
_OPEN = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a family of files strings its chunks together."""

    first: int
    header: struct.Struct
    audio: bytes
    align: int = 2
    counts_header: bool = False


_LAYOUTS = {
    b"RIFF": _Layout(12, struct.Struct("<4sI"), b"data"),
    b"RIFX": _Layout(12, struct.Struct(">4sI"), b"data"),
    b"RF64": _Layout(12, struct.Struct("<4sI"), b"data"),
    b"FORM": _Layout(12, struct.Struct(">4sI"), b"SSND"),
    b"caff": _Layout(8, struct.Struct(">4sQ"), b"data", align=1),
    b"riff": _Layout(40, struct.Struct("<16sQ"), b"data", align=8, counts_header=True),
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk: its name, where its content begins, and how long that claims to be."""

    name: bytes
    start: int
    n_bytes: int


def walk_chunks(file: IO[bytes], offset: int, n_bytes: int) -> Iterator[Chunk]:
    """The chunks of a file up to the first that runs past the end, and at most 10,000.

    An RF64 data chunk has the length that `ds64` gives. Where a chunk of odd length lacks its padding,
    as some writers leave it, the next one is found all the same.

    Args:
        file: may be read and moved by the caller between two chunks.
        offset: where the family's own name (RIFF, RF64, FORM, ...) is.
        n_bytes: of the whole file.
    """
    file.seek(offset)
    layout = _LAYOUTS[file.read(4)]
    position, long_size = offset + layout.first, _OPEN
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(layout.header.size)
        if len(head) < layout.header.size:
            return
        name, size = layout.header.unpack(head)
        if layout.counts_header:
            size = max(0, size - layout.header.size)
        start = position + layout.header.size
        if name == b"ds64":
            file.seek(start + 8)
            long_size = int.from_bytes(file.read(8), "little")
        if name == b"data" and size == _OPEN:
            size = long_size
        yield Chunk(name[:4], start, size)
        position = start + size + -size % layout.align
        if position >= n_bytes:
            return
        if layout.align == 2 and size % 2:
            position -= _lacks_padding(file, start + size)


def audio_chunk(file: IO[bytes], offset: int, n_bytes: int) -> Chunk | None:
    """The chunk with the samples, as `walk_chunks` gives it."""
    file.seek(offset)
    name = _LAYOUTS[file.read(4)].audio
    return next((chunk for chunk in walk_chunks(file, offset, n_bytes) if chunk.name == name), None)


def walk_flac_blocks(file: IO[bytes], offset: int) -> Iterator[Chunk]:
    """The metadata blocks of a FLAC file whose marker is at `offset`, at most 10,000; frames follow the last.

    The name of a block of unknown kind is empty.
    """
    position = offset + 4
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(4)
        if len(head) < 4:
            return
        number, size = head[0] & 0x7F, int.from_bytes(head[1:], "big")
        yield Chunk(FLAC_BLOCKS[number] if number < len(FLAC_BLOCKS) else b"", position + 4, size)
        position += 4 + size
        if head[0] & 0x80:
            return


def _lacks_padding(file: IO[bytes], end: int) -> bool:
    """Whether a name begins right at `end`, and none a byte behind it."""
    file.seek(end)
    head = file.read(5)
    return _NAME.fullmatch(head[:4]) is not None and _NAME.fullmatch(head[1:]) is None
