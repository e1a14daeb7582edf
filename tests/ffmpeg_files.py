"""Files made, and read, by FFmpeg through PyAV alone: material and oracle for the tests of formats."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

_FORMATS = {"int16": "s16", "int32": "s32", "float32": "flt", "float64": "dbl", "uint8": "u8"}


def encode(
    path: Path, codec: str, x: NDArray[Any], sample_rate: int, layout: str, container: str | None = None
) -> Path:
    """A file of the samples (n, C), integers left-justified; the name's ending says which container."""
    with av.open(str(path), "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=sample_rate, layout=layout)
        if codec in ("aac", "wmav2"):
            stream.bit_rate = 256_000
        if codec in ("alac", "flac"):
            stream.format = _FORMATS[x.dtype.name] + ("p" if codec == "alac" else "")
        packer = av.AudioResampler(stream.format, layout, sample_rate, frame_size=1024)
        for start in range(0, len(x), 4096):
            piece = np.ascontiguousarray(x[start : start + 4096]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(piece, _FORMATS[x.dtype.name], layout)
            frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
            for part in packer.resample(frame):
                output.mux(stream.encode(part))
        for part in packer.resample(None):
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return path


def packed_frames(path: Path, container: str | None = None, **options: str) -> NDArray[Any]:
    """All samples (n, C) as FFmpeg decodes them; `options` are its demuxer's."""
    blocks: list[NDArray[Any]] = []
    with av.open(str(path), format=container, options=options) as source:
        packer = None
        for frame in source.decode(audio=0):
            packer = packer or av.AudioResampler(frame.format.packed, frame.layout, frame.sample_rate)
            n_channels = frame.layout.nb_channels
            blocks += [part.to_ndarray().reshape(-1, n_channels) for part in packer.resample(frame)]
        if packer:
            blocks += [part.to_ndarray().reshape(-1, n_channels) for part in packer.resample(None)]
    return np.concatenate(blocks)
