"""What a FLAC stream says of itself, and where it really ends: frames are numbered (RFC 9639 §8.2, §9).

libsndfile stops after the frames that the file's header promises, without a word about those that follow.
"""

from __future__ import annotations

from typing import IO

from splitfire_batch.errors import TrackError

STREAMINFO_BYTES = 34
_TAIL_BYTES = 128 * 1024  # more than a frame usually has
_CRC8, _CRC16 = 0x07, 0x8005


def streaminfo(info: bytes) -> tuple[int, int, int, int]:
    """Sample rate in Hz, channels, bits of a sample, and frames: 0 if the encoder did not know.

    Args:
        info: at least 18 bytes of the block, without its header.
    """
    # 20 bits of rate, 3 of channels - 1, 5 of depth - 1, 36 of frames
    word = int.from_bytes(info[10:18], "big")
    return word >> 44, (word >> 41 & 7) + 1, (word >> 36 & 31) + 1, word & (1 << 36) - 1


def check_total(file: IO[bytes], offset: int, n_bytes: int) -> None:
    """Refuse a file with more frames than its header says.

    Args:
        file: the whole file.
        offset: where FLAC's own first byte lies, behind any tags; STREAMINFO, always first, follows.
        n_bytes: length of the file.

    Raises:
        TrackError: CORRUPT_HEADER, with both numbers.
    """
    file.seek(offset + 8)
    info = file.read(STREAMINFO_BYTES)
    *_, total = streaminfo(info)
    if len(info) < STREAMINFO_BYTES or not total:
        return
    file.seek(max(offset, n_bytes - _TAIL_BYTES))
    tail = file.read()
    block_frames = int.from_bytes(info[:2], "big")
    position = len(tail)
    while (position := tail.rfind(b"\xff", 0, position)) >= 0:
        end = _frame_end(tail[position : position + 16], block_frames)
        if end == total:
            return
        if end is not None and end > total and not _crc(tail[position:], 16, _CRC16):
            raise TrackError(
                "CORRUPT_HEADER",
                f"its header says {total} frames, and its audio goes on to frame {end}; write it again with "
                "the right length (`flac -d`, then encode)",
            )


def _frame_end(head: bytes, block_frames: int) -> int | None:
    """The first audio frame after the FLAC frame with that header; None for bytes that are no header."""
    if len(head) < 6 or head[1] & 0xFE != 0xF8:
        return None
    n_coded = max(1, 8 - (head[4] ^ 0xFF).bit_length())  # like UTF-8: leading ones count the bytes
    code = head[2] >> 4
    n_size = {6: 1, 7: 2}.get(code, 0)
    size_at = 4 + n_coded
    crc_at = size_at + n_size
    if n_coded > 7 or code == 0 or crc_at >= len(head) or _crc(head[: crc_at + 1], 8, _CRC8):
        return None
    number = head[4] & (0x7F if n_coded == 1 else (1 << (7 - n_coded)) - 1)
    for byte in head[5:size_at]:
        number = number << 6 | byte & 0x3F
    size = int.from_bytes(head[size_at:crc_at], "big") + 1 if n_size else _size_of(code)
    is_variable = head[1] & 1  # then the number is that of the first frame, else that of the block
    return (number if is_variable else number * block_frames) + size


def _size_of(code: int) -> int:
    return 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)


def _crc(data: bytes, width: int, polynomial: int) -> int:
    """From 0, the most significant bit first: over data and their own CRC it is 0."""
    crc, top, mask = 0, 1 << (width - 1), (1 << width) - 1
    for byte in data:
        crc ^= byte << (width - 8)
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc & top else crc << 1) & mask
    return crc
