"""FFmpeg's demuxers and codecs: which are used, what libsndfile would call them, how their samples lie.

Nothing here imports FFmpeg; names are its own.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitfire_batch.audio.formats import Samples
from splitfire_batch.audio.sniff import Family

DEMUXERS: dict[Family, str] = {
    "MP4": "mov",
    "ASF": "asf",
    "MATROSKA": "matroska",
    "AAC": "aac",
    "WAV": "wav",
    "RF64": "wav",
    "W64": "w64",
    "AIFF": "aiff",
    "CAF": "caf",
    "OGG": "ogg",
    "FLAC": "flac",
    "MP3": "mp3",
}
"""What opens a file of each family."""

CODECS = re.compile(
    r"aac|alac|mp[23](float)?|e?ac3|flac|opus|vorbis|wmav[12]|wmapro|wmalossless|wmavoice"
    r"|pcm_([suf]\d+(le|be)?|alaw|mulaw)|adpcm_(ms|ima_wav|ima_qt)"
)
"""Decoders that files of music use."""


def name_subtype(name: str, extra: bytes, sample_format: str) -> str:
    """libsndfile's name for the codec where it has one; `source_bits` knows those of integer samples."""
    if name == "alac" and len(extra) >= 24:
        return f"ALAC_{extra[17]}"  # the magic cookie's bitDepth, behind 12 bytes of atom header
    if name == "flac" and len(extra) >= 34:
        depth = extra[-34:][12:14]  # STREAMINFO: 5 bits across two bytes
        bits = ((depth[0] & 1) << 4 | depth[1] >> 4) + 1
        return "PCM_16" if bits <= 16 else "PCM_24" if bits <= 24 else "PCM_32"
    if name == "wmalossless":
        return "PCM_16" if sample_format.startswith("s16") else "PCM_24"
    if match := re.fullmatch(r"pcm_([suf]\d+)(?:le|be)?", name):
        kind = match[1]
        return {"f32": "FLOAT", "f64": "DOUBLE", "s8": "PCM_S8", "u8": "PCM_U8"}.get(kind, f"PCM_{kind[1:]}")
    return {"pcm_alaw": "ALAW", "pcm_mulaw": "ULAW"}.get(name, name.removesuffix("float").upper())


def to_samples(block: NDArray[Any], dtype: type[np.int16 | np.int32 | np.float32]) -> Samples:
    """FFmpeg's samples as integers of that width, left-justified, or as float32 with full scale = 1."""
    if block.dtype.kind == "f":
        return block.astype(np.float32)
    bits = 8 * block.dtype.itemsize
    wide: NDArray[np.int32] = block.astype(np.int32)
    if block.dtype.kind == "u":
        wide -= 1 << (bits - 1)
    wide = wide << np.int32(32 - bits)
    if dtype is np.float32:
        return np.multiply(wide, np.float32(2**-31), dtype=np.float32)
    return wide if dtype is np.int32 else (wide >> np.int32(16)).astype(np.int16)
