"""What samples a format holds, and which format the stems of a source get.

Container and subtype are libsndfile's names. Nothing here touches a file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from splitfire_batch.audio.channels import is_default
from splitfire_batch.errors import TrackError
from splitfire_batch.records import AudioFormat

if (
    TYPE_CHECKING
):  # codec children need no settings, and not pydantic, which takes longer to load than all else
    from splitfire_batch.config import OutputConfig

Samples = NDArray[np.int16 | np.int32 | np.float32]
"""Frames first, channels second: integers of a known depth, or floats with full scale = 1."""

EXTENSIONS = {"WAV": "wav", "WAVEX": "wav", "RF64": "wav", "FLAC": "flac", "AIFF": "aiff"}
"""Lossless containers that are written, and how their files end."""

MAX_WAV_BYTES = int(3.9 * 2**30)
"""PCM data beyond this go to RF64: sizes in plain WAV are 32 bits wide, and wrap silently."""

SHORT_MP3_FRAMES = 8_192
"""FFmpeg may not recognise an MP3 of fewer frames, and below 50 it reads more of them."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """What an output format can carry."""

    container: str
    ext: str
    rates: tuple[range, ...]
    """Hz."""
    rates_text: str
    depths: tuple[int | None, ...] = ()
    """Bits per sample, None for float; empty for lossy formats, which are given floats."""
    codec: str | None = None
    """libsndfile's subtype of a lossy format."""
    max_channels: int = 8

    def has_rate(self, sample_rate: int) -> bool:
        """Whether it can carry that rate, Hz."""
        return any(sample_rate in rates for rates in self.rates)


def _only(*rates: int) -> tuple[range, ...]:
    return tuple(range(rate, rate + 1) for rate in rates)


CARRIERS = {
    "wav": Carrier("WAV", "wav", (range(1, 2**31),), "any rate", (16, 24, 32, None)),
    "aiff": Carrier("AIFF", "aiff", (range(1, 2**31),), "any rate", (16, 24, 32, None)),
    "flac": Carrier(  # its streamable subset, the only one libsndfile writes
        "FLAC",
        "flac",
        (range(1, 65_536), range(65_540, 655_351, 10)),
        "rates to 65,535 Hz, and multiples of 10 to 655,350 Hz",
        (16, 24),
    ),
    "ogg": Carrier("OGG", "ogg", (range(4_000, 200_001),), "4,000 to 200,000 Hz", codec="VORBIS"),
    "opus": Carrier(
        "OGG",
        "opus",
        _only(8_000, 12_000, 16_000, 24_000, 48_000),
        "8, 12, 16, 24 and 48 kHz",
        codec="OPUS",
    ),
    "mp3": Carrier(
        "MP3",
        "mp3",
        _only(8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
        "8, 11.025, 12, 16, 22.05, 24, 32, 44.1 and 48 kHz",
        codec="MPEG_LAYER_III",
        max_channels=2,
    ),
}
"""By `OutputConfig.format`. Above Vorbis' greatest rate libvorbis crashes."""

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
_LIKE_SOURCE = {"WAV": "wav", "WAVEX": "wav", "RF64": "wav", "W64": "wav", "CAF": "wav", "AIFF": "aiff"}


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """How the stems of one track are written. `bits` is None where floats are given to the encoder."""

    container: str
    subtype: str
    ext: str
    bits: int | None
    sample_rate: int
    n_channels: int
    channel_mask: int = 0
    """The source's speakers; WAVEX and RF64 store them."""
    quality: float | None = None
    """Of a lossy codec, 1 is best; None for a lossless one."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame of PCM data."""
        return self.n_channels * (self.bits or 32) // 8

    @property
    def is_lossy(self) -> bool:
        """Whether what a decoder gives back differs from what was written."""
        return self.quality is not None


def source_bits(subtype: str) -> int | None:
    """Bits per sample of integer PCM and ALAC; None for float and lossy samples."""
    return _SOURCE_BITS.get(subtype)


def sample_dtype(bits: int | None) -> type[np.int16 | np.int32 | np.float32]:
    """What samples of that depth are decoded to: the narrowest that holds them; floats for None."""
    if bits is None:
        return np.float32
    return np.int16 if bits <= 16 else np.int32


def spool_frame_bytes(source: AudioFormat, n_estimates: int) -> int:
    """Bytes of a frame of the mix, as decoded, and of so many estimates of it, float32."""
    mix = np.dtype(sample_dtype(source_bits(source.subtype))).itemsize
    return source.n_channels * (mix + 4 * n_estimates)


def choose_output(source: AudioFormat, config: OutputConfig) -> OutputFormat:
    """The format for stems of `source`; rate and channels are always the source's.

    `format = "source"`: WAV, RF64 and W64 (and CAF, whose writers few programs read) become WAV, AIFF
    and FLAC stay, lossy sources become FLAC, and so does what else is lossless and fits. `depth = "source"`:
    8-bit sources get 16 bit, because a quiet stem in 8 bit is mostly rounding noise; lossy ones get 24;
    double becomes float, because models compute in float; FLAC holds at most 24 bit, which then is what
    32-bit and float sources get.

    Args:
        source: `n_frames` decides between WAV and RF64, so give the decoded count.
        config: what the operator asked for.

    Raises:
        TrackError: UNSUPPORTED_OUTPUT, the format cannot carry rate, depth, channels or length.
    """
    name = _like_source(source) if config.format == "source" else config.format
    carrier = CARRIERS[name]
    bits = None if carrier.codec else _bits(source, config, name)
    _check(carrier, name, source, bits)
    mask = (
        0
        if is_default(source.channel_mask, source.n_channels) and source.n_channels < 3
        else source.channel_mask
    )
    out = OutputFormat(
        container=carrier.container,
        subtype=carrier.codec or ("FLOAT" if bits is None else f"PCM_{bits}"),
        ext=carrier.ext,
        bits=bits,
        sample_rate=source.sample_rate,
        n_channels=source.n_channels,
        channel_mask=mask,
        quality=config.quality if carrier.codec else None,
    )
    if name == "wav" and mask:
        out = replace(out, container="WAVEX")
    return _fit_length(out, source.n_frames) if name in ("wav", "aiff") else out


def losses(source: AudioFormat, out: OutputFormat) -> tuple[str, ...]:
    """What the stems of a track cannot keep, in words: warnings for its row."""
    found = []
    mask, n_channels = source.channel_mask, source.n_channels
    if out.container not in ("WAVEX", "RF64", "FLAC") and not is_default(mask, n_channels):
        found.append(
            f"{out.ext} files have no channel mask: 0x{mask:X}, which is not the default for {n_channels} "
            "channels, is lost"
        )
    if out.container == "MP3" and source.n_frames < SHORT_MP3_FRAMES:
        found.append(f"{source.n_frames} frames are so few that some programs may not recognise the MP3")
    return tuple(found)


def _like_source(source: AudioFormat) -> str:
    bits = source_bits(source.subtype)
    if bits is None and source.subtype not in _FLOATS:
        return "flac"
    holds = "flac" if bits is not None and bits <= 24 else "wav"
    return _LIKE_SOURCE.get(source.container, holds)


def _bits(source: AudioFormat, config: OutputConfig, name: str) -> int | None:
    """Bits per sample, None for float."""
    if config.depth == "float":
        return None
    if config.depth != "source":
        return int(config.depth)
    bits = source_bits(source.subtype)
    if bits is None:
        return 24 if source.subtype not in _FLOATS or name == "flac" else None
    held = 16 if bits <= 16 else 24 if bits <= 24 else 32
    return min(held, 24) if name == "flac" else held


def _check(carrier: Carrier, name: str, source: AudioFormat, bits: int | None) -> None:
    """Refuse what the format cannot carry."""
    label = name.upper()
    if not carrier.codec and bits not in carrier.depths:
        found = "float" if bits is None else f"{bits}-bit"
        raise _refusal(f"{found} samples, {label} holds 16 or 24 bit", 'depth = "24" or format = "wav"')
    if not carrier.has_rate(source.sample_rate):
        remedy = 'format = "wav"' if name == "flac" else 'format = "flac" or "wav"'
        raise _refusal(f"{source.sample_rate} Hz, {label} holds {carrier.rates_text}", remedy)
    if source.n_channels > carrier.max_channels:
        raise _refusal(
            f"{source.n_channels} channels, {label} holds {carrier.max_channels}", 'format = "ogg" or "flac"'
        )


def _fit_length(out: OutputFormat, n_frames: int) -> OutputFormat:
    """RF64 for what plain WAV cannot hold."""
    n_bytes = n_frames * out.frame_bytes
    if n_bytes <= MAX_WAV_BYTES:
        return out
    if out.container == "AIFF":
        raise _refusal(f"{n_bytes} bytes of samples, AIFF holds {MAX_WAV_BYTES}", 'format = "wav" or "flac"')
    return replace(out, container="RF64")


def _refusal(found: str, remedy: str) -> TrackError:
    return TrackError("UNSUPPORTED_OUTPUT", f"the stems would have {found}; set {remedy}")
