"""ID3v2 tags, as WAV, AIFF and MP3 files hold them: made from tags, or given another title.

Layout: id3.org, informal standards 2.3 and 2.4. Other frames than the title are copied as they are,
pictures and cue points of DJ software included.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from splitfire_batch.metadata.tags import Cover, Tags, first

_FRAMES = {
    "TITLE": b"TIT2",
    "ARTIST": b"TPE1",
    "ALBUM": b"TALB",
    "ALBUMARTIST": b"TPE2",
    "COMPOSER": b"TCOM",
    "CONDUCTOR": b"TPE3",
    "LYRICIST": b"TEXT",
    "GENRE": b"TCON",
    "DATE": b"TDRC",
    "TRACKNUMBER": b"TRCK",
    "DISCNUMBER": b"TPOS",
    "ISRC": b"TSRC",
    "BPM": b"TBPM",
    "INITIALKEY": b"TKEY",
    "COPYRIGHT": b"TCOP",
    "PUBLISHER": b"TPUB",
    "LANGUAGE": b"TLAN",
}
_TOTALS = {"TRACKTOTAL": "TRACKNUMBER", "DISCTOTAL": "DISCNUMBER"}
_UTF16, _UTF8 = b"\x01\xff\xfe", b"\x03"
"""Encodings, the former with its byte order mark: little-endian."""
_CODECS = {0: "latin-1", 1: "utf-16", 2: "utf-16-be", 3: "utf-8"}


def make_id3(tags: Tags, cover: Cover | None = None) -> bytes:
    """A tag of version 2.4 with all of `tags`: in frames of their own where there are any, else in TXXX."""
    frames = []
    for name in dict.fromkeys(name for name, _ in tags):
        values = [value for label, value in tags if label == name]
        if name == "COMMENT":
            frames += [(b"COMM", _UTF8 + b"XXX\0" + value.encode()) for value in values]
        elif name in _FRAMES:
            total = next((first(tags, label) for label, of in _TOTALS.items() if of == name), None)
            values = [f"{value}/{total}" if total and "/" not in value else value for value in values]
            frames.append((_FRAMES[name], _UTF8 + "\0".join(values).encode()))
        elif name not in _TOTALS:
            frames += [(b"TXXX", _UTF8 + f"{name}\0{value}".encode()) for value in values]
    if cover:
        frames.append((b"APIC", _UTF8 + cover.mime_type.encode() + b"\0\3\0" + cover.data))
    return _tag(4, b"".join(_frame(name, b"\0\0", data, 4) for name, data in frames))


def retitled_id3(data: bytes, retitle: Callable[[str], str]) -> bytes | None:
    """The tag with another title, if it has one; None for a tag that is damaged or of a rare kind.

    Rare are version 2.2, extended headers and tags in which sync bytes were masked.
    """
    version, flags, size = data[3], data[5], _from_sync_safe(data[6:10])
    if version not in (3, 4) or flags or size > len(data) - 10:
        return None
    body = b""
    for name, frame_flags, content in _frames(data[10 : 10 + size], version):
        if content is None:
            return None
        if name == b"TIT2" and content and frame_flags == b"\0\0":
            text = content[1:].decode(_CODECS.get(content[0], "latin-1"), "replace")
            titles = "\0".join(retitle(title) for title in text.split("\0") if title)
            new = _UTF16 + titles.encode("utf-16-le") if version == 3 else _UTF8 + titles.encode()
            body += _frame(name, frame_flags, new, version)
        else:
            body += _frame(name, frame_flags, content, version)
    return _tag(version, body)


def _frames(body: bytes, version: int) -> Iterator[tuple[bytes, bytes, bytes | None]]:
    """Name, flags and content of each frame up to the padding; no content where a frame is damaged."""
    place = 0
    while place < len(body) and body[place]:
        name, size, flags = body[place : place + 4], body[place + 4 : place + 8], body[place + 8 : place + 10]
        n_bytes = _from_sync_safe(size) if version == 4 else int.from_bytes(size, "big")
        place += 10 + n_bytes
        if len(name) < 4 or not name.isalnum() or place > len(body):
            yield name, flags, None
            return
        yield name, flags, body[place - n_bytes : place]


def _frame(name: bytes, flags: bytes, content: bytes, version: int) -> bytes:
    n_bytes = _sync_safe(len(content)) if version == 4 else struct.pack(">I", len(content))
    return name + n_bytes + flags + content


def _tag(version: int, body: bytes) -> bytes:
    return b"ID3" + bytes([version, 0, 0]) + _sync_safe(len(body)) + body


def _sync_safe(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def _from_sync_safe(data: bytes) -> int:
    return sum((byte & 0x7F) << shift for byte, shift in zip(data, (21, 14, 7, 0), strict=False))
