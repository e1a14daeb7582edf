"""What samples a format holds, and which format the stems of a source get.

Container and subtype are libsndfile's names. Nothing here touches a file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitfire_batch.config import OutputConfig
from splitfire_batch.errors import TrackError
from splitfire_batch.records import AudioFormat

Samples = NDArray[np.int32 | np.float32]
"""Frames first, channels second: integers of a known depth, or floats with full scale = 1."""

EXTENSIONS = {"WAV": "wav", "RF64": "wav", "FLAC": "flac", "AIFF": "aiff"}
"""Containers that are written, and how their files end."""

MAX_WAV_BYTES = int(3.9 * 2**30)
"""PCM data beyond this go to RF64: sizes in plain WAV are 32 bits wide, and wrap silently."""

_SOURCE_BITS = {
    "PCM_S8": 8,
    "PCM_U8": 8,
    "PCM_16": 16,
    "PCM_24": 24,
    "PCM_32": 32,
    "ALAC_16": 16,
    "ALAC_20": 20,
    "ALAC_24": 24,
    "ALAC_32": 32,
}
_FLOATS = {"FLOAT", "DOUBLE"}
_LIKE_SOURCE = {"WAV": "WAV", "WAVEX": "WAV", "RF64": "WAV", "W64": "WAV", "CAF": "WAV", "AIFF": "AIFF"}
_MAX_FLAC_RATE = 655_350


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """How the stems of one track are written. `bits` is None for 32-bit float."""

    container: str
    subtype: str
    ext: str
    bits: int | None
    sample_rate: int
    n_channels: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame of PCM data."""
        return self.n_channels * (self.bits or 32) // 8


def source_bits(subtype: str) -> int | None:
    """Bits per sample of integer PCM and ALAC; None for float and lossy samples."""
    return _SOURCE_BITS.get(subtype)


def choose_output(source: AudioFormat, config: OutputConfig) -> OutputFormat:
    """The format for stems of `source`; rate and channels are always the source's.

    `format = "source"`: WAV, RF64 and W64 (and CAF, whose writers few programs read) become WAV, AIFF
    and FLAC stay, lossy sources become FLAC. `depth = "source"`: 8-bit sources get 16 bit, because a quiet
    stem in 8 bit is mostly rounding noise; lossy ones get 24; double becomes float, because models
    compute in float; FLAC holds at most 24 bit, which then is what 32-bit and float sources get.

    Args:
        source: `n_frames` decides between WAV and RF64, so give the decoded count.
        config: what the operator asked for.

    Raises:
        TrackError: UNSUPPORTED_OUTPUT, the container cannot carry rate, depth, channels or length.
    """
    container = _container(source, config)
    bits = _bits(source, config, container)
    out = OutputFormat(
        container=container,
        subtype="FLOAT" if bits is None else f"PCM_{bits}",
        ext=EXTENSIONS[container],
        bits=bits,
        sample_rate=source.sample_rate,
        n_channels=source.n_channels,
    )
    return _fit_length(out, source.n_frames) if container != "FLAC" else _fit_flac(out)


def _container(source: AudioFormat, config: OutputConfig) -> str:
    if config.format != "source":
        return config.format.upper()
    if source_bits(source.subtype) is None and source.subtype not in _FLOATS:
        return "FLAC"
    return _LIKE_SOURCE.get(source.container, "FLAC")


def _bits(source: AudioFormat, config: OutputConfig, container: str) -> int | None:
    """Bits per sample, None for float."""
    if config.depth == "float":
        return None
    if config.depth != "source":
        return int(config.depth)
    bits = source_bits(source.subtype)
    if bits is None:
        return 24 if source.subtype not in _FLOATS or container == "FLAC" else None
    held = 16 if bits <= 16 else 24 if bits <= 24 else 32
    return min(held, 24) if container == "FLAC" else held


def _fit_flac(out: OutputFormat) -> OutputFormat:
    """Refuse what FLAC (its streamable subset, the only one libsndfile writes) cannot carry."""
    if out.bits is None or out.bits > 24:
        raise _refusal(f"{out.subtype} samples, FLAC holds 16 or 24 bit", 'depth = "24" or format = "wav"')
    if out.sample_rate > _MAX_FLAC_RATE or (out.sample_rate > 65_535 and out.sample_rate % 10):
        raise _refusal(
            f"{out.sample_rate} Hz, FLAC holds rates to 65,535 Hz, and multiples of 10 to 655,350 Hz",
            'format = "wav"',
        )
    return out


def _fit_length(out: OutputFormat, n_frames: int) -> OutputFormat:
    """RF64 for what plain WAV cannot hold."""
    n_bytes = n_frames * out.frame_bytes
    if n_bytes <= MAX_WAV_BYTES:
        return out
    if out.container == "AIFF":
        raise _refusal(f"{n_bytes} bytes of samples, AIFF holds {MAX_WAV_BYTES}", 'format = "wav" or "flac"')
    return OutputFormat("RF64", out.subtype, EXTENSIONS["RF64"], out.bits, out.sample_rate, out.n_channels)


def _refusal(found: str, remedy: str) -> TrackError:
    return TrackError("UNSUPPORTED_OUTPUT", f"the stems would have {found}; set {remedy}")
