"""What a file is, by its first bytes, before any decoder sees it.

Only formats on the lists below reach libsndfile and FFmpeg: their rarer readers are where memory-safety
fixes gather, and libsndfile's own answer to a foreign file ("File does not exist") misleads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from splitfire_batch.audio.mpeg import find_frame
from splitfire_batch.errors import TrackError

Family = Literal["WAV", "RF64", "W64", "AIFF", "CAF", "FLAC", "OGG", "MP3", "MP4", "ASF", "MATROSKA", "AAC"]

READABLE = "WAV, RF64, W64, AIFF, CAF, FLAC, OGG, Opus, MP3, MP4/M4A/MOV, AAC, WMA or Matroska/WebM"

FOREIGN: dict[Family, str] = {
    "MP4": "MP4, M4A or MOV",
    "ASF": "ASF (Windows Media Audio)",
    "MATROSKA": "Matroska or WebM",
    "AAC": "AAC",
}
"""Families that libsndfile does not read, and how to call them."""

_W64_GUID = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_MAGIC: tuple[tuple[int, bytes, Family], ...] = (
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "OGG"),
    (0, b"caff", "CAF"),
    (0, _W64_GUID, "W64"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF"),
    (0, b"\x1a\x45\xdf\xa3", "MATROSKA"),
    (4, b"ftyp", "MP4"),
    (4, b"moov", "MP4"),
    (4, b"wide", "MP4"),
)
_FORMS: dict[tuple[bytes, bytes], Family] = {
    (b"RIFF", b"WAVE"): "WAV",
    (b"RIFX", b"WAVE"): "WAV",
    (b"RF64", b"WAVE"): "RF64",
    (b"FORM", b"AIFF"): "AIFF",
    (b"FORM", b"AIFC"): "AIFF",
}
_UNREADABLE = (
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"wvpk", "WavPack"),
    (0, b"TTA1", "True Audio"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b"DSD ", "DSD"),
    (0, b"FRM8", "DSD"),
    (0, b"BW64", "BW64"),
    (0, b".snd", "AU"),
    (0, b"#!AMR", "AMR"),
)
_SEARCH_BYTES = 64 * 1024  # padding some writers leave between an ID3 tag and the first MPEG frame
_MAX_TAGS = 16


@dataclass(frozen=True, slots=True)
class Sniffed:
    """A readable family, and where its first byte lies: behind any ID3 tags."""

    family: Family
    offset: int


def sniff(path: Path) -> Sniffed:
    """The family of the audio file at `path`.

    Raises:
        TrackError: EMPTY; NOT_AUDIO for bytes of no audio format; UNSUPPORTED for audio that cannot be
            decoded here.
    """
    with path.open("rb") as file:
        return sniff_file(file, path.stat().st_size)


def sniff_file(file: IO[bytes], n_bytes: int) -> Sniffed:
    """As `sniff`, of a file that is open and has so many bytes."""
    if not n_bytes:
        raise TrackError("EMPTY", "the file has 0 bytes; fetch it again or leave it out of the catalogue")
    offset = _after_id3(file, n_bytes)
    file.seek(offset)
    head = file.read(_SEARCH_BYTES)
    family = _family(head, has_tag=offset > 0)
    if family is None:
        raise TrackError(
            "NOT_AUDIO",
            f"its {n_bytes} bytes begin with {head[:12]!r}{' behind an ID3 tag' if offset else ''}, "
            f"wanted {READABLE}; fetch it again or leave it out of the catalogue",
        )
    return Sniffed(family, offset)


def _family(head: bytes, has_tag: bool) -> Family | None:
    for at, magic, family in _MAGIC:
        if head.startswith(magic, at):
            return family
    if (head[:4], head[8:12]) in _FORMS:
        return _FORMS[head[:4], head[8:12]]
    for at, magic, name in _UNREADABLE:
        if head.startswith(magic, at):
            raise _unsupported(name)
    if find_frame(head, 0, len(head) if has_tag else 1) is not None:
        return "MP3"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "AAC"
    return None


def _unsupported(name: str) -> TrackError:
    return TrackError(
        "UNSUPPORTED",
        f"it is {name}, which is not on the list of formats read here; convert it to FLAC or WAV "
        f"(FFmpeg can), or leave it out; read are {READABLE}",
    )


def _after_id3(file: IO[bytes], n_bytes: int) -> int:
    """First byte after the ID3v2 tags at the start; sizes there have 7 bits a byte (id3.org, v2.4 §3.1)."""
    offset = 0
    for _ in range(_MAX_TAGS):
        file.seek(offset)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3" or any(byte & 0x80 for byte in head[6:10]):
            break
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        offset += 10 + size + (10 if head[5] & 0x10 else 0)
        if offset >= n_bytes:
            raise TrackError(
                "NOT_AUDIO",
                f"its ID3 tag claims {offset} of {n_bytes} bytes, so no audio follows; fetch the file again",
            )
    return offset
