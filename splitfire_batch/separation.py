"""One track from a local file to its estimates at the file's own rate, channels and length.

A single streaming pass: decode, bring to the model's rate, separate, bring back. What comes out waits in
spools, in memory below a limit and on disk above it, because the gain that keeps every stem below full
scale is known only at the end. Rendering makes stems of it.

Axes: n frames, C channels of the file, G lanes (channel pairs), S stems.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from splitfire_batch.audio import (
    Resampler,
    Spool,
    channel_groups,
    decoded_scale,
    from_lanes,
    sample_peak,
    to_float,
    to_lanes,
)
from splitfire_batch.children import Codecs, Inline, OpenAudio
from splitfire_batch.ensembles import AnyEngine
from splitfire_batch.errors import TrackError
from splitfire_batch.records import AudioFormat
from splitfire_batch.stopwatch import Stopwatch

BLOCK_FRAMES = 65_536
_BLOCKS_AHEAD = 8
"""Decoded blocks, a Spleeter segment in all, that a long track has ready while its estimates are kept."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one track may take."""

    max_duration_s: float = 86_400
    scratch: Path | None = None
    codecs: Codecs = field(default_factory=Inline)
    """Who decodes it."""
    begin: Callable[[Separated], None] = lambda _: None
    """Gets what its audio is kept in, as that begins to be read."""


def _in_memory(_: AudioFormat) -> int:
    """For a caller with one track at a time: a spool of up to 32 MB."""
    return 32 * 2**20


class Separated:
    """A track's mix and estimates, block by block, as often as wanted. Close it to free its spools."""

    def __init__(
        self, source: AudioFormat, mix: Spool, estimates: dict[str, Spool], spools: ExitStack
    ) -> None:
        self.source = source
        """With the frames counted, not those claimed by the header."""
        self.peaks = dict.fromkeys(estimates, 0.0)
        """Highest absolute value of each estimate; 1.0 is full scale."""
        self.mix_peak = 0.0
        """That of the mix."""
        self._mix, self._estimates, self._spools = mix, estimates, spools

    def __enter__(self) -> Separated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spools.close()

    def append_mix(self, block: np.ndarray) -> None:
        """Take the next block (n, C) of the mix, as decoded."""
        self._mix.append(block)
        self.mix_peak = max(self.mix_peak, sample_peak(block) / decoded_scale(block.dtype))

    def append(self, stem: str, block: np.ndarray) -> None:
        """Take the next block (n, C) of an estimate.

        Raises:
            TrackError: INTERNAL, NaN or infinite samples; they would pass for silence further on.
        """
        peak = sample_peak(block)
        if not math.isfinite(peak):
            why = (
                f"the model's {stem} has NaN or infinite samples near frame {self._estimates[stem].n_frames}"
            )
            raise TrackError("INTERNAL", f'{why}; try precision = "fp32", or another device')
        self._estimates[stem].append(block)
        self.peaks[stem] = max(self.peaks[stem], peak)

    @property
    def n_frames(self) -> int:
        """Frames of the mix so far."""
        return self._mix.n_frames

    @property
    def n_estimated(self) -> int:
        """Frames of which every estimate is there."""
        return min(spool.n_frames for spool in self._estimates.values())

    def mix_blocks(self) -> Iterator[np.ndarray]:
        """The mix (n, C), as decoded."""
        return self._mix.blocks(BLOCK_FRAMES)

    def blocks(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Pairs of the mix (n, C), as decoded, and the estimates (n, C), float32, frame by frame alike."""
        streams = [spool.blocks(BLOCK_FRAMES) for spool in self._estimates.values()]
        for mix, *estimates in zip(self._mix.blocks(BLOCK_FRAMES), *streams, strict=True):
            yield mix, dict(zip(self._estimates, estimates, strict=True))


def separate_file(
    path: Path,
    engine: AnyEngine,
    stems: Sequence[str],
    limits: Limits,
    watch: Stopwatch,
    accept: Callable[[AudioFormat], int] = _in_memory,
) -> Separated:
    """The estimates of `stems` for one audio file.

    Args:
        path: a local file.
        engine: may serve other tracks in other threads at the same time.
        stems: names of the model's stems; the others are not kept.
        limits: duration, scratch folder, and who is told that it begins.
        watch: gets the seconds of each stage.
        accept: sees the file's header before any audio is decoded, and gives the bytes that each spool (the
            mix, or one estimate) may keep in memory; the rest goes to disk. What it raises ends the track.

    Raises:
        TrackError: the file cannot be decoded whole, or is too long.
        NoSpace: scratch is full.
    """
    opened = limits.codecs.open_audio(path, limits.max_duration_s, limits.scratch)
    with ExitStack() as on_error, opened as decoder:
        spool_bytes = accept(decoder.format)
        spools = on_error.enter_context(ExitStack())
        n_channels = decoder.format.n_channels
        mix, *kept = (
            spools.enter_context(Spool(n_channels, spool_bytes, limits.scratch))
            for _ in range(1 + len(stems))
        )
        separated = Separated(decoder.format, mix, dict(zip(stems, kept, strict=True)), spools)
        limits.begin(separated)
        with closing(_estimate_blocks(decoder, engine, separated, stems, watch)) as blocks:
            for name, block in blocks:
                with watch.measure("encode"):
                    separated.append(name, block)
        watch.add("decode", decoder.extra_s)
        separated.source = replace(decoder.format, n_frames=separated.n_frames)
        on_error.pop_all()
        return separated


def _estimate_blocks(
    decoder: OpenAudio, engine: AnyEngine, separated: Separated, stems: Sequence[str], watch: Stopwatch
) -> Generator[tuple[str, np.ndarray], None, None]:
    """Append the mix to `separated`; give the estimates (n, C) at the file's rate as they become final."""
    model, source = engine.model, decoder.format
    groups = channel_groups(source.n_channels, source.channel_mask)
    kept = [model.stems.index(stem) for stem in stems]
    keeps_all = kept == list(range(len(model.stems)))
    back = Resampler(model.sample_rate, source.sample_rate, len(groups) * len(kept) * model.n_channels)
    at_model_rate = watch.timed("decode", _model_blocks(decoder, separated, model.sample_rate))
    is_long = not 0 < source.n_frames * model.sample_rate <= engine.full_frames * source.sample_rate
    with closing(_made_ahead(at_model_rate) if is_long else at_model_rate) as blocks:
        for frames in engine.separate(blocks, watch):
            with watch.measure("encode"):
                lanes = frames.numpy() if keeps_all else frames.numpy()[:, kept]
                native = from_lanes(back.push(lanes), groups)
            yield from zip(stems, native, strict=True)
    with watch.measure("encode"):
        native = from_lanes(back.finish(separated.n_frames), groups)
    yield from zip(stems, native, strict=True)


def _model_blocks(decoder: OpenAudio, separated: Separated, sample_rate: int) -> Iterator[torch.Tensor]:
    """Decoded blocks, kept in `separated`, as lanes (G, 2, n) at the model's rate."""
    source = decoder.format
    groups = channel_groups(source.n_channels, source.channel_mask)
    forth = Resampler(source.sample_rate, sample_rate, 2 * len(groups))
    for block in decoder.blocks(BLOCK_FRAMES):
        separated.append_mix(block)
        yield torch.from_numpy(forth.push(to_lanes(to_float(block), groups)))
    # at least one frame, so that a clip of one frame at a high rate is separated too
    n_frames = max(1, math.ceil(separated.n_frames * sample_rate / source.sample_rate))
    yield torch.from_numpy(forth.finish(n_frames))


def _made_ahead(blocks: Iterator[torch.Tensor]) -> Generator[torch.Tensor, None, None]:
    """The blocks, made in another thread before they are asked for; it ends when this is closed."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="decode")
    try:
        ready = deque(pool.submit(next, blocks, None) for _ in range(_BLOCKS_AHEAD))
        while (block := ready.popleft().result()) is not None:
            yield block
            ready.append(pool.submit(next, blocks, None))
    finally:
        pool.shutdown(cancel_futures=True)
