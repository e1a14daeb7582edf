"""FFmpeg's ebur128 filter, run through PyAV: a meter that shares no code with ours."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

_LAYOUTS = {1: "mono", 2: "stereo"}


@dataclass(frozen=True, slots=True)
class FfmpegLevels:
    """LUFS and LU with three decimals; the true peak, 1.0 is full scale, likewise."""

    loudness_lufs: float
    loudness_range_lu: float
    true_peak: float


def ffmpeg_levels(samples: NDArray[np.floating], sample_rate: int) -> FfmpegLevels:
    """What FFmpeg measures of samples (n, C), n a multiple of 100 ms: it reports once in that time."""
    layout = _LAYOUTS[samples.shape[1]]
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        sample_rate=sample_rate, format="flt", layout=layout, time_base=Fraction(1, sample_rate)
    )
    meter, sink = graph.add("ebur128", "peak=true:metadata=1"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    found: dict[str, str] = {}
    step = sample_rate // 10
    for start in range(0, len(samples), step):
        data = np.ascontiguousarray(samples[start : start + step], np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(data, format="flt", layout=layout)
        frame.sample_rate, frame.pts = sample_rate, start
        graph.push(frame)
        _pull(graph, found)
    graph.push(None)
    _pull(graph, found)
    return FfmpegLevels(*(float(found[f"lavfi.r128.{name}"]) for name in ("I", "LRA", "true_peak")))


def _pull(graph: av.filter.Graph, found: dict[str, str]) -> None:
    while True:
        try:
            found.update(graph.pull().metadata)
        except (av.BlockingIOError, av.EOFError):
            return
