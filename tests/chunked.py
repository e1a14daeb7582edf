"""Chunks of WAV and AIFF files and blocks of FLAC, made and read for tests, without code of the library."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

Chunks = list[tuple[bytes, bytes]]


def smpl(*loops: tuple[int, int], note: int = 60, sample_rate: int = 44_100, extra: bytes = b"") -> bytes:
    """A `smpl` chunk with loops from first to last frame."""
    head = struct.pack("<9I", 0, 0, round(1e9 / sample_rate), note, 0, 0, 0, len(loops), len(extra))
    records = (struct.pack("<6I", i, 0, first, last, 0, 0) for i, (first, last) in enumerate(loops))
    return head + b"".join(records) + extra


def acid(tempo: float, beats: int, flags: int = 0, note: int = 60) -> bytes:
    return struct.pack("<IHHfIHHf", flags, note, 0x8000, 0.0, beats, 4, 4, tempo)


def cue(*positions: int) -> bytes:
    records = (struct.pack("<II4sIII", i, p, b"data", 0, 0, p) for i, p in enumerate(positions, 1))
    return struct.pack("<I", len(positions)) + b"".join(records)


def bext(
    description: bytes = b"a take", time_reference: int = 0, version: int = 1, loudness: int = 0
) -> bytes:
    head = description.ljust(256, b"\0") + b"maker".ljust(32, b"\0") + b"ref".ljust(32, b"\0")
    head += b"2026-11-2412:00:00" + struct.pack("<QH", time_reference, version) + bytes(64)
    return head + struct.pack("<5h", *[loudness] * 5) + bytes(180) + b"A=PCM,F=44100\r\n"


def listed(kind: bytes, *parts: tuple[bytes, bytes]) -> bytes:
    """A LIST chunk."""
    return kind + joined(parts, "<")


def info(**texts: str) -> bytes:
    return listed(b"INFO", *((name.encode(), text.encode() + b"\0") for name, text in texts.items()))


def labels(texts: Mapping[int, str]) -> bytes:
    return listed(
        b"adtl",
        *((b"labl", struct.pack("<I", number) + text.encode() + b"\0") for number, text in texts.items()),
        (b"ltxt", struct.pack("<II4sHHHH", 1, 500, b"rgn ", 0, 0, 0, 0)),
    )


def mark(*positions: int) -> bytes:
    """AIFF markers 1, 2, ... with names of odd and even length."""
    found = struct.pack(">H", len(positions))
    for number, position in enumerate(positions, 1):
        name = b"loop"[: number % 4 + 1]
        found += struct.pack(">HIB", number, position, len(name)) + name + bytes((len(name) + 1) % 2)
    return found


def inst(note: int, first_marker: int, last_marker: int) -> bytes:
    """AIFF's instrument with a sustain loop between two markers."""
    return struct.pack(">BbBBBBh", note, 0, 0, 127, 1, 127, 0) + struct.pack(
        ">HHHHHH", 1, first_marker, last_marker, 0, 0, 0
    )


def comments(*entries: str, vendor: bytes = b"tester") -> bytes:
    """A whole Vorbis comment."""
    texts = [entry.encode() for entry in entries]
    parts = [vendor, *texts]
    counted = [struct.pack("<I", len(part)) + part for part in parts]
    return counted[0] + struct.pack("<I", len(texts)) + b"".join(counted[1:])


def picture(data: bytes) -> bytes:
    head = struct.pack(">I", 3) + struct.pack(">I", 10) + b"image/jpeg" + struct.pack(">I", 0)
    return head + struct.pack(">4I", 1, 1, 24, 0) + struct.pack(">I", len(data)) + data


def id3(*frames: tuple[bytes, bytes], version: int = 3) -> bytes:
    """An ID3v2 tag with some padding; texts need their encoding byte."""

    def safe(n: int) -> bytes:
        return bytes([n >> 21 & 127, n >> 14 & 127, n >> 7 & 127, n & 127])

    size = safe if version == 4 else lambda n: struct.pack(">I", n)
    body = b"".join(name + size(len(data)) + b"\0\0" + data for name, data in frames) + bytes(32)
    return b"ID3" + bytes([version, 0, 0]) + safe(len(body)) + body


def joined(parts: Sequence[tuple[bytes, bytes]], order: str) -> bytes:
    return b"".join(
        name + struct.pack(f"{order}I", len(data)) + data + bytes(len(data) % 2) for name, data in parts
    )


def add(path: Path, before: Chunks = (), after: Chunks = ()) -> Path:  # type: ignore[assignment]
    """Put chunks (FLAC: blocks by number) before and behind the samples of a file that soundfile wrote."""
    data = path.read_bytes()
    if data[:4] == b"fLaC":
        blocks = b"".join(bytes([name[0]]) + len(d).to_bytes(3, "big") + d for name, d in before)
        path.write_bytes(data[:42] + blocks + data[42:])
        return path
    order = ">" if data[:4] == b"FORM" else "<"
    at = next(start - 8 for name, start, _ in _walk(data) if name in (b"data", b"SSND"))
    data = data[:at] + joined(before, order) + data[at:] + bytes(len(data) % 2) + joined(after, order)
    if data[:4] == b"RF64":
        data = data[:20] + struct.pack("<Q", len(data) - 8) + data[28:]
    else:
        data = data[:4] + struct.pack(f"{order}I", len(data) - 8) + data[8:]
    path.write_bytes(data)
    return path


def read_chunks(path: Path) -> Chunks:
    """Every chunk of a WAV, RF64 or AIFF file, or block of a FLAC file (named by its number).

    The file must be built as its standard says: true lengths, padding, no byte that belongs to nothing.
    """
    data = path.read_bytes()
    if data[:4] == b"fLaC":
        return _blocks(data)
    if data[:4] == b"RF64":
        assert data[4:8] == b"\xff" * 4
        assert data[12:16] == b"ds64"
        assert struct.unpack_from("<Q", data, 20)[0] == len(data) - 8
    else:
        assert struct.unpack_from(">I" if data[:4] == b"FORM" else "<I", data, 4)[0] == len(data) - 8
    walked = _walk(data)
    _, start, size = walked[-1]
    assert start + size + size % 2 == len(data)
    return [(name, data[start : start + size]) for name, start, size in walked]


def before_samples(path: Path) -> Chunks:
    """The chunks before `data` or `SSND`; behind it there must be none."""
    found = read_chunks(path)
    if path.read_bytes()[:4] == b"fLaC":
        return found
    assert found[-1][0] in (b"data", b"SSND")
    return found[:-1]


def _walk(data: bytes) -> list[tuple[bytes, int, int]]:
    found, place, order = [], 12, ">" if data[:4] == b"FORM" else "<"
    long_size = 0
    while place < len(data):
        name, size = struct.unpack_from(f"{order}4sI", data, place)
        if name == b"ds64":
            long_size = struct.unpack_from("<Q", data, place + 16)[0]
        size = long_size if size == 0xFFFFFFFF else size
        found.append((name, place + 8, size))
        place += 8 + size + size % 2
    return found


def _blocks(data: bytes) -> Chunks:
    found, place, is_last = [], 4, False
    while not is_last:
        is_last, size = bool(data[place] & 0x80), int.from_bytes(data[place + 1 : place + 4], "big")
        found.append((bytes([data[place] & 0x7F]), data[place + 4 : place + 4 + size]))
        place += 4 + size
    assert data[place] == 0xFF
    return found
