"""Texts about a recording in chunks of WAV and AIFF and in Vorbis comments: made from tags, or retitled.

Retitling adds to the bytes of a title and copies all others, so that no text changes by being decoded.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Iterator, Sequence

from splitfire_batch.audio import VORBIS_COMMENT, Insert
from splitfire_batch.metadata.damage import comment_entries, subchunks
from splitfire_batch.metadata.id3 import make_id3, retitled_id3
from splitfire_batch.metadata.tags import Cover, Tags

_INFO = {
    "TITLE": b"INAM",
    "ARTIST": b"IART",
    "ALBUM": b"IPRD",
    "GENRE": b"IGNR",
    "DATE": b"ICRD",
    "TRACKNUMBER": b"ITRK",
    "COPYRIGHT": b"ICOP",
    "COMMENT": b"ICMT",
}
_AIFF = {"TITLE": b"NAME", "ARTIST": b"AUTH", "COPYRIGHT": b"(c) ", "COMMENT": b"ANNO"}


def stem_title(title: str, stem: str) -> str:
    """What a stem of a recording is called."""
    return f"{title} ({stem})"


def make_texts(tags: Tags, cover: Cover | None, container: str, stem: str) -> tuple[Insert, ...]:
    """What a stem's file in another container than the source's says in place of its tags.

    WAV and AIFF get their own texts, which hold the common ones, and an ID3 chunk, which holds all.
    """
    tags = tuple((name, stem_title(value, stem) if name == "TITLE" else value) for name, value in tags)
    if not tags and not cover:
        return ()
    if container == "FLAC":
        pictures = [Insert(b"PICTURE", _picture(cover))] if cover else []
        entries = [f"{name}={value}".encode() for name, value in tags]
        return (*pictures, Insert(VORBIS_COMMENT, _comments(entries)))
    if container == "OGG":
        entries = [f"{name}={value}".encode() for name, value in tags]
        if cover:  # https://wiki.xiph.org/VorbisComment, "METADATA_BLOCK_PICTURE"
            entries.append(b"METADATA_BLOCK_PICTURE=" + b64encode(_picture(cover)))
        return (Insert(VORBIS_COMMENT, _comments(entries)),)
    if container in ("WAV", "WAVEX", "RF64"):
        texts = [(_INFO[name], value.encode() + b"\0") for name, value in _once(tags, _INFO)]
        info = [Insert(b"LIST", b"INFO" + _subchunks(texts))] if texts else []
        return (*info, Insert(b"id3 ", make_id3(tags, cover)))
    if container == "AIFF":
        own = [Insert(_AIFF[name], value.encode()) for name, value in _once(tags, _AIFF)]
        return (*own, Insert(b"ID3 ", make_id3(tags, cover)))
    return (Insert(b"ID3 ", make_id3(tags, cover)),) if container == "MP3" else ()


def retitled(chunk: Insert, stem: str) -> Insert | None:
    """The chunk with the stem behind any title in it; None if its title cannot be reached."""
    suffix = stem_title("", stem).encode()
    if chunk.name == b"NAME":
        return Insert(chunk.name, chunk.data.rstrip(b"\0") + suffix)
    if chunk.name == b"LIST" and chunk.data[:4] == b"INFO":
        texts = subchunks(chunk.data) or iter(())
        return Insert(
            chunk.name,
            b"INFO"
            + _subchunks((n, t.rstrip(b"\0") + suffix + b"\0" if n == b"INAM" else t) for n, t in texts),
        )
    if chunk.name in (b"id3 ", b"ID3 "):
        data = retitled_id3(chunk.data, lambda title: stem_title(title, stem))
        return None if data is None else Insert(chunk.name, data)
    if chunk.name == VORBIS_COMMENT:
        entries = comment_entries(chunk.data) or []
        is_title = [entry[:6].upper() == b"TITLE=" for entry in entries]
        return Insert(
            chunk.name,
            _comments([e + suffix if is_one else e for e, is_one in zip(entries, is_title, strict=True)]),
        )
    return chunk


def with_comment(inserts: Sequence[Insert], entry: str) -> tuple[Insert, ...]:
    """The blocks of a FLAC file with one Vorbis comment (NAME=value) in place of any of that name."""
    name = entry.partition("=")[0].encode() + b"="
    others = [insert for insert in inserts if insert.name != VORBIS_COMMENT]
    entries = [
        old
        for insert in inserts
        if insert.name == VORBIS_COMMENT
        for old in comment_entries(insert.data) or []
        if old[: len(name)].upper() != name
    ]
    return (*others, Insert(VORBIS_COMMENT, _comments([*entries, entry.encode()])))


def _comments(entries: Sequence[bytes]) -> bytes:
    lengths_and_texts = (struct.pack("<I", len(entry)) + entry for entry in entries)
    return struct.pack("<I", len(entries)) + b"".join(lengths_and_texts)


def _picture(cover: Cover) -> bytes:
    """A front cover (RFC 9639 §8.8) whose size in pixels is not known."""
    mime = cover.mime_type.encode()
    head = struct.pack(">II", 3, len(mime)) + mime + struct.pack(">I", 0) + bytes(16)
    return head + struct.pack(">I", len(cover.data)) + cover.data


def _subchunks(parts: Iterator[tuple[bytes, bytes]] | list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in parts)


def _once(tags: Tags, names: dict[str, bytes]) -> list[tuple[str, str]]:
    """The first value of each of `names` that there is."""
    found: dict[str, str] = {}
    for name, value in tags:
        if name in names:
            found.setdefault(name, value)
    return list(found.items())
