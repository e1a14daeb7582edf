"""Which speaker each channel of a file is for, and how to bring channels into the order of a WAVE mask.

WAV, RF64 and W64 say it in WAVEFORMATEXTENSIBLE, CAF and AIFF in Core Audio's channel layout, FLAC in a
comment (RFC 9639 §8.6.2). Vorbis and Opus have an order of their own (Vorbis I §4.3.9, RFC 7845 §5.1.1.2):
centre before right, LFE last. libsndfile passes channels on as they lie in the file, so they are sorted
here: with a mask in hand, everything downstream sees the same order, whatever the file was.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from splitfire_batch.audio.channels import BC, BL, BR, FC, FL, FLC, FR, FRC, LFE, SL, SR
from splitfire_batch.audio.chunks import walk_chunks
from splitfire_batch.audio.sniff import Sniffed

_EXTENSIBLE = 0xFFFE
_N_SPEAKERS = 18
_COMMENT = b"waveformatextensible_channel_mask="
_MAX_COMMENT_BYTES = 2**20

_VORBIS = {
    3: (FL, FC, FR),
    4: (FL, FR, BL, BR),
    5: (FL, FC, FR, BL, BR),
    6: (FL, FC, FR, BL, BR, LFE),
    7: (FL, FC, FR, SL, SR, BC, LFE),
    8: (FL, FC, FR, SL, SR, BL, BR, LFE),
}
FFMPEG_NAMES = {
    name: 1 << bit
    for bit, name in enumerate(
        "FL FR FC LFE BL BR FLC FRC BC SL SR TC TFL TFC TFR TBL TBC TBR".split(),  # noqa: SIM905
    )
}
"""FFmpeg's names of a mask's speakers."""

_BY_LABELS, _BY_BITMAP = 0, 1 << 16
_CORE_AUDIO = {  # kAudioChannelLayoutTag: the layouts that programs write
    100 << 16 | 1: (FC,),
    101 << 16 | 2: (FL, FR),
    108 << 16 | 4: (FL, FR, BL, BR),
    113 << 16 | 3: (FL, FR, FC),
    114 << 16 | 3: (FC, FL, FR),
    115 << 16 | 4: (FL, FR, FC, BC),
    116 << 16 | 4: (FC, FL, FR, BC),
    117 << 16 | 5: (FL, FR, FC, BL, BR),
    118 << 16 | 5: (FL, FR, BL, BR, FC),
    119 << 16 | 5: (FL, FC, FR, BL, BR),
    120 << 16 | 5: (FC, FL, FR, BL, BR),
    121 << 16 | 6: (FL, FR, FC, LFE, BL, BR),
    122 << 16 | 6: (FL, FR, BL, BR, FC, LFE),
    123 << 16 | 6: (FL, FC, FR, BL, BR, LFE),
    124 << 16 | 6: (FC, FL, FR, BL, BR, LFE),
    125 << 16 | 7: (FL, FR, FC, LFE, BL, BR, BC),
    126 << 16 | 8: (FL, FR, FC, LFE, BL, BR, FLC, FRC),
    128 << 16 | 8: (FL, FR, FC, LFE, SL, SR, BL, BR),
}
_REAR_LABELS = {33: BL, 34: BR}  # beside them, labels 5 and 6 (surrounds) are at the sides


@dataclass(frozen=True, slots=True)
class Speakers:
    """The speakers of a file's channels.

    `mask` is 0 where the file does not say. `order[k]` is the file's channel that has the k-th speaker;
    None where that is k itself.
    """

    mask: int = 0
    order: tuple[int, ...] | None = None


def read_speakers(path: Path, sniffed: Sniffed, subtype: str, n_channels: int) -> Speakers:
    """The speakers of a file that libsndfile reads; `subtype` is its name for the codec."""
    if sniffed.family == "OGG":
        speakers = _VORBIS.get(n_channels, ())
        is_mapped = subtype in ("VORBIS", "OPUS") and not (subtype == "OPUS" and _is_free(path))
        return sort_speakers(speakers) if is_mapped else Speakers()
    with path.open("rb") as file:
        if sniffed.family == "FLAC":
            mask = _flac_mask(file, sniffed.offset)
        elif sniffed.family in ("WAV", "RF64", "W64"):
            mask = _wave_mask(file, sniffed.offset, path.stat().st_size)
        elif sniffed.family in ("CAF", "AIFF"):
            found = sort_speakers(_core_audio(file, sniffed.offset, path.stat().st_size))
            return found if found.mask.bit_count() == n_channels else Speakers()
        else:
            return Speakers()
    return Speakers(mask if mask.bit_count() == n_channels else 0)


def write_mask(path: Path, mask: int) -> None:
    """Set the mask of a WAVEX or RF64 file; libsndfile guesses one from the number of channels."""
    with path.open("r+b") as file:
        fmt = next(chunk for chunk in walk_chunks(file, 0, path.stat().st_size) if chunk.name == b"fmt ")
        file.seek(fmt.start + 20)
        file.write(struct.pack("<I", mask))


def sort_speakers(speakers: Sequence[int]) -> Speakers:
    """Speakers as they lie in a file, brought into the order of a mask; unknown if one is there twice."""
    if len(set(speakers)) < len(speakers) or not all(speakers):
        return Speakers()
    order = tuple(sorted(range(len(speakers)), key=lambda channel: speakers[channel]))
    return Speakers(sum(speakers), None if order == tuple(range(len(speakers))) else order)


def vorbis_order(n_channels: int) -> tuple[int, ...] | None:
    """For writing Vorbis and Opus: the channel, in the order of the default mask, of each one in the file."""
    order = sort_speakers(_VORBIS.get(n_channels, ())).order
    return None if order is None else tuple(order.index(channel) for channel in range(n_channels))


def _is_free(path: Path) -> bool:
    """Whether an Opus file's channel mapping family, byte 18 of its header, gives channels no speakers."""
    with path.open("rb") as file:
        head = file.read(256)
    return head[head.find(b"OpusHead") + 18] > 1


def _wave_mask(file: IO[bytes], offset: int, n_bytes: int) -> int:
    file.seek(offset)
    endian = ">" if file.read(4) == b"RIFX" else "<"
    for chunk in walk_chunks(file, offset, n_bytes):
        if chunk.name == b"fmt " and chunk.n_bytes >= 24:
            file.seek(chunk.start)
            tag, mask = struct.unpack(f"{endian}H18xI", file.read(24))
            return int(mask) if tag == _EXTENSIBLE else 0
    return 0


def _flac_mask(file: IO[bytes], offset: int) -> int:
    """From the comments (block type 4), each a length and "NAME=value"."""
    position, head = offset + 4, b"\0\0\0\0"
    while not head[0] & 0x80:
        file.seek(position)
        if len(head := file.read(4)) < 4:
            return 0
        n_bytes = int.from_bytes(head[1:], "big")
        position += 4 + n_bytes
        if head[0] & 0x7F == 4:
            comments = file.read(min(n_bytes, _MAX_COMMENT_BYTES))
            start = comments.lower().find(_COMMENT)
            if start < 4:
                return 0
            length = int.from_bytes(comments[start - 4 : start], "little")
            return _number(comments[start + len(_COMMENT) : start + length])
    return 0


def _number(text: bytes) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return 0


def _core_audio(file: IO[bytes], offset: int, n_bytes: int) -> Sequence[int]:
    """The speakers in the layout chunk: a tag, a bitmap, and a list of labels of 20 bytes each."""
    for chunk in walk_chunks(file, offset, n_bytes):
        if chunk.name not in (b"chan", b"CHAN") or chunk.n_bytes < 12:
            continue
        file.seek(chunk.start)
        tag, bitmap, n_labels = struct.unpack(">III", file.read(12))
        if tag == _BY_BITMAP:
            return [1 << bit for bit in range(_N_SPEAKERS) if bitmap >> bit & 1]
        if tag != _BY_LABELS:
            return _CORE_AUDIO.get(tag, ())
        data = file.read(20 * min(n_labels, 64))
        labels = [int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 20)]
        sides = {5: SL, 6: SR} if any(label in _REAR_LABELS for label in labels) else {}
        known = {label: 1 << (label - 1) for label in range(1, _N_SPEAKERS + 1)} | _REAR_LABELS | sides
        return [known.get(label, 0) for label in labels]
    return ()
