"""Whether all of a file is there: what its headers promise against the bytes it has.

libsndfile reads a cut WAV, AIFF or OGG file without a word and returns what is left, so the promise is
checked here first. Lengths that streaming writers leave open (0 or all ones) promise nothing.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from splitfire_batch.audio.sniff import Sniffed
from splitfire_batch.errors import TrackError

_MAX_CHUNKS = 10_000
_TAIL_BYTES = 128 * 1024  # more than the largest OGG page, and than a FLAC frame usually has
_FOREIGN_CODECS = {0x50: "MPEG", 0x55: "MP3", 0x160: "WMA", 0x161: "WMA", 0x162: "WMA", 0xFF: "AAC"}


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
class _Chunk:
    """A chunk: its name, where its content begins, and how long that claims to be."""

    name: bytes
    start: int
    n_bytes: int


def check_complete(path: Path, sniffed: Sniffed) -> None:
    """Refuse a file whose end is missing, as far as its headers tell.

    Raises:
        TrackError: TRUNCATED, with the bytes promised and found; NO_SAMPLES for a FLAC file without frames.
    """
    with path.open("rb") as file:
        n_bytes = path.stat().st_size
        if sniffed.family == "FLAC":
            _check_flac(file, sniffed.offset, n_bytes)
        elif sniffed.family == "OGG":
            _check_ogg(file, n_bytes)
        elif sniffed.family != "MP3":
            _check_chunks(file, sniffed.offset, n_bytes)


def with_data_length(path: Path, sniffed: Sniffed, scratch_dir: Path | None) -> IO[bytes] | None:
    """A temporary copy, with its header finished, of a WAV file whose header was not; None for others.

    Such a header says 0 bytes of data, and an open whole or one that ends before them; libsndfile then
    reads 0 frames.
    """
    if sniffed.family != "WAV":
        return None
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        data = next((c for c in chunks(file, sniffed.offset, n_bytes) if c.name == b"data"), None)
        file.seek(sniffed.offset)
        name, whole = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF" or data is None or data.n_bytes:
            return None
        if sniffed.offset + whole >= data.start and not _is_open(whole):
            return None
        file.seek(0)
        copy = tempfile.NamedTemporaryFile(dir=scratch_dir)  # noqa: SIM115
        shutil.copyfileobj(file, copy, 2**20)
    copy.seek(data.start - 4)
    copy.write(struct.pack("<I", min(n_bytes - data.start, 2**32 - 1)))
    copy.flush()
    return copy


def foreign_codec(path: Path, sniffed: Sniffed) -> str | None:
    """The codec inside a WAV file that libsndfile cannot decode; None if it is another matter."""
    if sniffed.family not in ("WAV", "RF64"):
        return None
    with path.open("rb") as file:
        for chunk in chunks(file, sniffed.offset, path.stat().st_size):
            if chunk.name == b"fmt ":
                file.seek(chunk.start)
                return _FOREIGN_CODECS.get(int.from_bytes(file.read(2), "little"))
    return None


def ends_in_flac_frame(path: Path) -> bool:
    """Whether the file's last bytes are a whole FLAC frame (RFC 9639 §9.1, §9.3: sync code, CRC-16)."""
    with path.open("rb") as file:
        tail = _tail(file, path.stat().st_size)
    position = len(tail)
    while (position := tail.rfind(b"\xff", 0, position)) >= 0:
        if tail[position + 1 : position + 2] in (b"\xf8", b"\xf9") and _crc16(tail[position:]) == 0:
            return True
    return False


def chunks(file: IO[bytes], offset: int, n_bytes: int) -> Iterator[_Chunk]:
    """The chunks of a file as their headers have it, up to the first that runs past the end."""
    file.seek(offset)
    layout = _LAYOUTS[file.read(4)]
    position = offset + layout.first
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(layout.header.size)
        if len(head) < layout.header.size:
            return
        name, size = layout.header.unpack(head)
        if layout.counts_header:
            size = max(0, size - layout.header.size)
        start = position + layout.header.size
        yield _Chunk(name[:4], start, size)
        position = start + size + -size % layout.align
        if position >= n_bytes:
            return


def _check_chunks(file: IO[bytes], offset: int, n_bytes: int) -> None:
    file.seek(offset)
    audio = _LAYOUTS[file.read(4)].audio
    long_size = 0xFFFFFFFF  # of an RF64 data chunk: the true one is in ds64
    for chunk in chunks(file, offset, n_bytes):
        if chunk.name == b"ds64":
            file.seek(chunk.start + 8)
            long_size = int.from_bytes(file.read(8), "little")
        if chunk.name == audio:
            claimed = long_size if chunk.n_bytes == 0xFFFFFFFF else chunk.n_bytes
            if not _is_open(claimed) and chunk.start + claimed > n_bytes:
                found = max(0, n_bytes - chunk.start)
                raise _truncated(f"its header promises {claimed} bytes of samples, {found} are there")
            return


def _is_open(n_bytes: int) -> bool:
    """Whether a length is one that streaming writers leave: 0, or close to the greatest number."""
    is_near_top = any(top - 0xFFFF <= n_bytes <= top for top in (2**31 - 1, 2**32 - 1))
    return n_bytes == 0 or is_near_top or n_bytes >= 2**62


def _check_flac(file: IO[bytes], offset: int, n_bytes: int) -> None:
    """Walk the metadata blocks (RFC 9639 §8.1): the top bit marks the last one."""
    position, is_last = offset + 4, False
    while not is_last:
        file.seek(position)
        head = file.read(4)
        if len(head) < 4:
            raise _truncated(f"it has {n_bytes} bytes and ends inside its header")
        is_last = bool(head[0] & 0x80)
        position += 4 + int.from_bytes(head[1:4], "big")
    if position > n_bytes:
        raise _truncated(f"it has {n_bytes} bytes and ends inside its header of {position} bytes")
    if position == n_bytes:
        raise TrackError("NO_SAMPLES", "it is a FLAC file without frames; leave it out of the catalogue")


def _check_ogg(file: IO[bytes], n_bytes: int) -> None:
    """The last page must be whole and marked as the end of its stream (RFC 3533 §6)."""
    tail = _tail(file, n_bytes)
    page = tail.rfind(b"OggS\0")
    if page < 0 or len(tail) < page + 27:
        raise _truncated(f"it has {n_bytes} bytes, and no whole page near its end")
    lacing = tail[page + 27 : page + 27 + tail[page + 26]]
    if len(lacing) < tail[page + 26] or page + 27 + len(lacing) + sum(lacing) > len(tail):
        raise _truncated(f"it has {n_bytes} bytes and ends inside a page")
    if not tail[page + 5] & 4:
        raise _truncated(f"it has {n_bytes} bytes, and its last page does not end the stream")


def _tail(file: IO[bytes], n_bytes: int) -> bytes:
    file.seek(max(0, n_bytes - _TAIL_BYTES))
    return file.read()


def _crc16(data: bytes) -> int:
    """CRC-16 with polynomial x^16 + x^15 + x^2 + 1, from 0: over data and their own CRC it is 0."""
    table, crc = _crc16_table(), 0
    for byte in data:
        crc = (crc << 8) & 0xFFFF ^ table[crc >> 8 ^ byte]
    return crc


@cache
def _crc16_table() -> tuple[int, ...]:
    """The remainders of all single bytes."""
    remainders = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1) & 0xFFFF ^ (0x8005 if crc & 0x8000 else 0)
        remainders.append(crc)
    return tuple(remainders)


def _truncated(found: str) -> TrackError:
    return TrackError("TRUNCATED", f"{found}; fetch the whole file again or leave it out of the catalogue")
