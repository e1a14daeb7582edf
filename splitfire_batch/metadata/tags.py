"""Tags of any format as pairs named like Vorbis comments, read by tinytag within bounds."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from tinytag import TinyTag, TinyTagException

Tags = tuple[tuple[str, str], ...]
"""Names (upper case ASCII, without "=") and values, in the file's order; a name may come again."""

MAX_TAG_BYTES = 8 * 2**20
_MAX_READS = 200_000
_NAMES = {
    "year": "DATE",
    "track": "TRACKNUMBER",
    "track_total": "TRACKTOTAL",
    "disc": "DISCNUMBER",
    "disc_total": "DISCTOTAL",
    "initial_key": "INITIALKEY",
    "set_subtitle": "DISCSUBTITLE",
    "catalog_number": "CATALOGNUMBER",
    "url": "WEBSITE",
}
"""tinytag's names that are not simply those of Vorbis comments in lower case."""
_ABOUT_THE_FILE = {
    "filename", "filesize", "mime_type", "duration", "channels", "bitrate", "bitdepth", "samplerate",
    "is_lossless", "encoded_by", "encoder_settings", "encoder", "xmp", "tlen", "tflt", "isft",
}  # fmt: skip
_NAME = re.compile(r"[ -<>-}]+")
_ISRC = re.compile(r"[A-Z]{2}[A-Z0-9]{3}[0-9]{7}")


@dataclass(frozen=True, slots=True)
class Cover:
    """A picture of a recording."""

    mime_type: str
    data: bytes


def read_tags(source: Path | bytes) -> tuple[Tags, Cover | None]:
    """The tags of a local file, or of the bytes of one, and its cover; none if they are damaged.

    What describes the file itself (its encoder, its length) is left out.
    """
    try:
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            found = TinyTag.get(file_obj=cast(BinaryIO, _Bounded(file)), duration=False, image=True)
    except (TinyTagException, OSError):
        return (), None
    pairs = []
    for name, values in found.as_dict().items():
        label = _NAMES.get(name, name.lstrip("_").replace("_", "").upper())
        if name not in _ABOUT_THE_FILE and isinstance(values, list) and _NAME.fullmatch(label):
            pairs += [(label, text) for value in values if (text := str(value).strip("\0 \r\n\t"))]
    image = found.images.any
    cover = Cover(image.mime_type or "image/", image.data) if image and image.data else None
    return tuple(dict.fromkeys(pairs)), cover


def first(tags: Tags, *names: str) -> str | None:
    """The first value under the first of `names` that there is."""
    return next((value for name in names for label, value in tags if label == name), None)


def parse_isrc(text: str | None) -> str | None:
    """An ISRC as twelve characters without hyphens; None for anything else (ISO 3901)."""
    code = re.sub(r"[-\s]", "", text or "").upper().removeprefix("ISRC:")
    return code if _ISRC.fullmatch(code) else None


class _Bounded:
    """A file that gives so many bytes, in so many reads, and then no more, whatever lengths it claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._n_bytes, self._n_reads = file, MAX_TAG_BYTES, _MAX_READS
        self.seek, self.tell = file.seek, file.tell

    def read(self, n_bytes: int = -1) -> bytes:
        self._n_reads -= 1
        wanted = self._n_bytes if n_bytes < 0 else min(n_bytes, self._n_bytes)
        data = self._file.read(wanted if self._n_reads > 0 else 0)
        self._n_bytes -= len(data)
        return data
