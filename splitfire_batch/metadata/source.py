"""What a source file carries besides samples, within bounds: chunks worth keeping, and tags.

A chunk is worth keeping if it says something that is as true of a stem: where loops and slices are, who
made the recording, when. What describes the very samples or their file (peaks, overviews, checksums,
padding) is left behind without a word; what is unknown, damaged or too large is named in a warning.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from splitfire_batch.audio import VORBIS_COMMENT, Insert
from splitfire_batch.audio.chunks import Chunk, walk_chunks, walk_flac_blocks
from splitfire_batch.audio.sniff import sniff
from splitfire_batch.errors import TrackError
from splitfire_batch.metadata.damage import is_sound
from splitfire_batch.metadata.tags import Cover, Tags, parse_isrc, read_tags

MAX_HELD_BYTES = 8 * 2**20
"""Of all chunks of a file together."""
MAX_HELD_CHUNKS = 1_000

_WAV = {
    b"smpl", b"inst", b"acid", b"strc", b"cue ", b"plst", b"tlst", b"LIST", b"bext", b"iXML", b"axml",
    b"chna", b"cart", b"clm ", b"id3 ", b"ID3 ", b"_PMX",
}  # fmt: skip
_AIFF = {
    b"MARK", b"INST", b"COMT", b"NAME", b"AUTH", b"ANNO", b"(c) ", b"APPL", b"MIDI", b"basc", b"trns",
    b"cate", b"ID3 ", b"id3 ",
}  # fmt: skip
_FLAC = {VORBIS_COMMENT, b"PICTURE", b"CUESHEET", b"APPLICATION"}
_KEPT = {"WAV": _WAV, "AIFF": _AIFF, "FLAC": _FLAC}
_CHUNKED = ("WAV", "RF64", "W64", "AIFF", "CAF", "FLAC")
_FAMILIES = {b"RIFF": "WAV", b"RF64": "WAV", b"riff": "WAV", b"FORM": "AIFF", b"fLaC": "FLAC"}
_OF_THE_SAMPLES = {
    b"RIFF", b"fmt ", b"data", b"fact", b"ds64", b"JUNK", b"junk", b"PAD ", b"FLLR", b"PEAK", b"levl",
    b"MD5 ", b"minf", b"elm1", b"regn", b"umid", b"ovwf", b"LGWV", b"ResU",
    b"COMM", b"SSND", b"FVER", b"CHAN", b"AESD",
    b"desc", b"pakt", b"kuki", b"chan", b"free", b"ovvw", b"peak", b"edct",
    b"STREAMINFO", b"PADDING", b"SEEKTABLE",
}  # fmt: skip
"""Those of Pro Tools and Logic are their private overviews and the identity of the very recording."""
_IS_NAME = re.compile(rb"[\w ()]+")
"""Bytes behind the last chunk may look like a chunk of any other name."""
TEXTS = {b"LIST", b"id3 ", b"ID3 ", b"NAME", b"AUTH", b"ANNO", b"(c) ", VORBIS_COMMENT}
"""Chunks that tags are read from."""
_NO_COMMENTS = bytes(4)
"""What nearly every FLAC file without tags has."""
_FOREIGN_HEADERS = (b"riff", b"aiff", b"w64 ")
"""APPLICATION blocks of FLAC that hold the headers of the file it was made from: untrue of a stem's file."""


@dataclass(frozen=True, slots=True)
class SourceMetadata:
    """What `read_metadata` found."""

    family: str = ""
    """WAV, AIFF or FLAC if the chunks are of that kind; else empty."""
    chunks: tuple[Insert, ...] = ()
    """Sound ones, in the file's order."""
    tags: Tags = ()
    cover: Cover | None = None
    warnings: tuple[str, ...] = ()
    """About what is left out of any stem."""


def read_metadata(path: Path) -> SourceMetadata:
    """What the local audio file `path` carries besides samples, whatever is wrong with it.

    At most 8 MiB of chunks and 8 MiB of tags are read.

    Raises:
        OSError: the disk cannot be read.
    """
    try:
        sniffed = sniff(path)
    except TrackError:
        sniffed = None
    if sniffed is None or sniffed.family not in _CHUNKED:  # with tags only, or for another decoder
        return SourceMetadata("", (), *read_tags(path))
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        file.seek(sniffed.offset)
        family = _FAMILIES.get(file.read(4), "")
        walk = (
            walk_flac_blocks(file, sniffed.offset)
            if family == "FLAC"
            else walk_chunks(file, sniffed.offset, n_bytes)
        )
        chunks, warnings = _kept(file, walk, n_bytes, _KEPT.get(family, set()))
    tags, cover = read_tags(path) if family == "FLAC" else _tags_of(chunks, family)
    return SourceMetadata(family, chunks, tags, cover, warnings)


def _kept(
    file: IO[bytes], walk: Iterable[Chunk], n_bytes: int, names: set[bytes]
) -> tuple[tuple[Insert, ...], tuple[str, ...]]:
    """Sound chunks of those names; sentences about the others that might be missed."""
    kept: list[Insert] = []
    left: dict[str, list[str]] = defaultdict(list)
    room = MAX_HELD_BYTES
    for chunk in walk:
        if chunk.name in _OF_THE_SAMPLES or not _IS_NAME.fullmatch(chunk.name):
            continue
        if chunk.name not in names:
            reason = "it is not known whether they are true of a stem"
        elif chunk.start + chunk.n_bytes > n_bytes:
            reason = "they are cut off"
        elif chunk.n_bytes > room or len(kept) == MAX_HELD_CHUNKS:
            reason = f"there are more than {MAX_HELD_BYTES} bytes or {MAX_HELD_CHUNKS} chunks"
        else:
            file.seek(chunk.start)
            data = _without_vendor(chunk.name, file.read(chunk.n_bytes))
            reason = _why_not(Insert(chunk.name, data))
            if not reason and data != _NO_COMMENTS:
                kept.append(Insert(chunk.name, data))
                room -= chunk.n_bytes
        if reason:
            left[reason].append(chunk.name.decode().strip())
    return tuple(kept), tuple(
        f"not carried over: {_listed(found)}; {reason}" for reason, found in left.items()
    )


def _why_not(chunk: Insert) -> str:
    if chunk.name == b"APPLICATION" and chunk.data[:4] in _FOREIGN_HEADERS:
        return "they are the header of the file that this one was made from"
    return "" if is_sound(chunk) else "they are damaged"


def _listed(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(names))
    return ", ".join(different[:20]) + (" and others" if len(different) > 20 else "")


def _without_vendor(name: bytes, data: bytes) -> bytes:
    return data[4 + int.from_bytes(data[:4], "little") :] if name == VORBIS_COMMENT else data


def _tags_of(chunks: Sequence[Insert], family: str) -> tuple[Tags, Cover | None]:
    """The tags in chunks of WAV or AIFF: read from a file of nothing else, however the real one is built.

    `ISRC` in a WAV's INFO is the source, a person; some write the recording's code there all the same.
    """
    order, head, form = (">", b"FORM", b"AIFF") if family == "AIFF" else ("<", b"RIFF", b"WAVE")
    body = b"".join(
        chunk.name + struct.pack(f"{order}I", len(chunk.data)) + chunk.data + bytes(len(chunk.data) % 2)
        for chunk in chunks
        if chunk.name in TEXTS
    )
    if not body:
        return (), None
    tags, cover = read_tags(head + struct.pack(f"{order}I", 4 + len(body)) + form + body)
    return tuple(
        ("SOURCE" if n == "ISRC" and not parse_isrc(value) else n, value) for n, value in tags
    ), cover
