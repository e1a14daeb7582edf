"""Ogg pages (RFC 3533 §6), rewritten: all decoders read the same frames, all runs write the same bytes, and
the comments are ours to say.

libsndfile draws a random serial number, so it is replaced by a fixed one. And it may put all of a short
Vorbis stream on one page: FFmpeg then cannot tell what the first packet, which gives no frames, has to do
with the granule position, and reads up to 1,000 frames more or 128 fewer. With that packet on a page of its
own, whose position is 0 as it should be, its count is exact from one frame up.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

_SERIAL = 1
_CONTINUED, _FIRST, _LAST = 1, 2, 4
_MOST_LACING = 255
_INSIDE = -1
"""Position of a page on which no packet ends."""
_HEADER = struct.Struct("<4sBBqIII")
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True)
class _Page:
    """One page. `lacing` has the lengths of its packets: each byte below 255 ends one."""

    flags: int
    position: int
    lacing: bytes
    body: bytes


def finish_ogg(path: Path, is_vorbis: bool) -> None:
    """Rewrite the file of one stream in place.

    Raises:
        OSError: the disk is full.
    """
    rewritten = path.with_name(f"{path.name}.pages")
    try:
        with path.open("rb") as source, rewritten.open("wb") as out:
            pages = _pages(source)
            for number, page in enumerate(_with_first_packet_alone(pages) if is_vorbis else pages):
                out.write(_to_bytes(page, number))
        rewritten.replace(path)
    finally:
        rewritten.unlink(missing_ok=True)


def commented(file: IO[bytes], comments: bytes) -> Iterator[bytes]:
    """The pages of a Vorbis or Opus stream with other comments.

    Args:
        file: one stream, as `finish_ogg` leaves it.
        comments: a list of Vorbis comments behind the vendor (Vorbis I §5.2.1; RFC 7845 §5.2); the vendor
            stays, which is whoever encoded the file.
    """
    pages = _pages(file)
    first = next(pages)
    is_vorbis = first.body.startswith(b"\x01vorbis")
    packets = _packets(pages, 2 if is_vorbis else 1)
    lead = 7 if is_vorbis else 8  # "\x03vorbis", "OpusTags"
    vendor = packets[0][: lead + 4 + int.from_bytes(packets[0][lead : lead + 4], "little")]
    packets[0] = vendor + comments + (b"\1" if is_vorbis else b"")
    for number, page in enumerate(chain([first], _header_pages(packets), pages)):
        yield _to_bytes(page, number)


def second_stream(file: IO[bytes], offset: int) -> int | None:
    """Where the second link of a chain whose first is at `offset` begins (RFC 3533 §4), or None.

    All first pages of streams that belong together come before any other page. Where something else than a
    page is in between, nobody looks further: the decoder will say that it is damaged.
    """
    file.seek(offset)
    at, is_inside = offset, False
    while len(head := file.read(_HEADER.size + 1)) > _HEADER.size and head.startswith(b"OggS\0"):
        is_first = bool(head[5] & _FIRST)
        if is_first and is_inside:
            return at
        is_inside = is_inside or not is_first
        at += len(head) + head[-1] + sum(file.read(head[-1]))
        file.seek(at)
    return None


def _packets(pages: Iterator[_Page], n: int) -> list[bytes]:
    """The next n packets, which end with a page."""
    packets = [b""]
    while len(packets) <= n:
        page, at = next(pages), 0
        for length in page.lacing:
            packets[-1] += page.body[at : at + length]
            at += length
            if length < 255:
                packets.append(b"")
    return packets[:n]


def _header_pages(packets: Sequence[bytes]) -> Iterator[_Page]:
    """Packets without audio on as many pages as they need; they belong to position 0."""
    body = b"".join(packets)
    lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets)
    at, is_inside = 0, False
    for start in range(0, len(lacing), _MOST_LACING):
        part = lacing[start : start + _MOST_LACING]
        position = 0 if min(part) < 255 else _INSIDE
        yield _Page(_CONTINUED if is_inside else 0, position, part, body[at : at + sum(part)])
        at += sum(part)
        is_inside = part[-1] == 255


def _pages(file: IO[bytes]) -> Iterator[_Page]:
    while head := file.read(_HEADER.size + 1):
        _, _, flags, position, _, _, _ = _HEADER.unpack(head[:-1])
        lacing = file.read(head[-1])
        yield _Page(flags, position, lacing, file.read(sum(lacing)))


def _with_first_packet_alone(pages: Iterator[_Page]) -> Iterator[_Page]:
    """The pages, the first one with audio, after three packets of headers, cut behind its first packet."""
    n_packets = 0
    for page in pages:
        n_packets += sum(length < 255 for length in page.lacing)
        if n_packets <= 3:
            yield page
            continue
        end = next(at for at, length in enumerate(page.lacing, 1) if length < 255)
        n_bytes = sum(page.lacing[:end])
        if end < len(page.lacing):
            yield _Page(page.flags & ~_LAST, 0, page.lacing[:end], page.body[:n_bytes])
            yield _Page(page.flags & ~_CONTINUED, page.position, page.lacing[end:], page.body[n_bytes:])
        else:
            yield page
        yield from pages


def _to_bytes(page: _Page, number: int) -> bytes:
    fields = b"OggS", 0, page.flags, page.position, _SERIAL, number
    content = bytes([len(page.lacing)]) + page.lacing + page.body
    return _HEADER.pack(*fields, _crc(_HEADER.pack(*fields, 0) + content)) + content


def _crc(data: bytes) -> int:
    """Ogg's CRC-32 runs from the top bit down and from 0: zlib's with all bytes, and the result, mirrored."""
    mirrored = zlib.crc32(data.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
