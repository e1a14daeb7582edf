"""Reads audio files, block by block, and refuses what is damaged instead of returning less.

Integer samples stay exact integers, so that the stems can be made to sum to the very mix. libsndfile reads
what it can (`sndfile`), FFmpeg the rest (`ffmpeg`); what both owe a caller is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from splitfire_batch.audio.ffmpeg import FFmpegReader
from splitfire_batch.audio.formats import Samples, source_bits
from splitfire_batch.audio.sndfile import ForeignCodec, SndfileReader
from splitfire_batch.audio.sniff import FOREIGN, sniff
from splitfire_batch.errors import TrackError
from splitfire_batch.records import AudioFormat

MIN_RATE, MAX_RATE, MAX_CHANNELS = 4_000, 768_000, 8
MAX_LEVEL = 1e6
"""Float samples beyond this, 120 dB over full scale, are damage and not music."""


def to_float(block: Samples) -> NDArray[np.float32]:
    """A decoded block as float32 with full scale = 1: integers divided by it, floats as they are."""
    if block.dtype == np.float32:
        return block.astype(np.float32, copy=False)
    return np.multiply(block, np.float32(1 / decoded_scale(block.dtype)), dtype=np.float32)


def to_depth(block: NDArray[Any], bits: int) -> NDArray[Any]:
    """A decoded integer block, right-justified: the source's own integers when `bits` is its depth."""
    held = 8 * block.dtype.itemsize
    if held == bits:
        return block
    return block >> (held - bits) if held > bits else block.astype(np.int32) << (bits - held)


def decoded_scale(dtype: np.dtype[Any]) -> float:
    """The value in decoded blocks that is full scale."""
    return 1.0 if dtype == np.float32 else 2.0 ** (8 * dtype.itemsize - 1)


class Reader(Protocol):
    """A file that one library has open."""

    format: AudioFormat
    """As the header has it; `n_frames` is 0 where that does not tell."""
    is_empty: bool
    """Whether the header says that there are no frames."""
    tolerance_frames: int
    """How many frames fewer than the header says make no damaged file."""

    def read(self, n_frames: int) -> Samples:
        """The next frames as `Decoder.blocks` has them, the caller's to keep; fewer only at the end.

        Raises:
            TrackError: CORRUPT_DATA or TRUNCATED.
        """

    def close(self) -> None:
        """Close the file; idempotent."""


class Decoder:
    """One open audio file; a context manager. Made by `open_audio`."""

    def __init__(self, path: Path, max_duration_s: float | None, scratch_dir: Path | None) -> None:
        self._path = path
        self._max_duration_s = max_duration_s
        self.extra_s = 0.0
        """Seconds that decoding has taken elsewhere: none."""
        self._reader = _open_reader(path, scratch_dir)
        self.format = self._reader.format
        """As the header has it; `n_frames` is 0 where that does not tell."""
        self.bits = source_bits(self.format.subtype)
        """Depth of integer samples; None for float and lossy ones."""
        self.n_frames = 0
        """Frames decoded so far."""
        self._n_bad, self._first_bad = 0, 0
        try:
            self._check_header(self._reader.is_empty)
        except TrackError:
            self.close()
            raise

    def blocks(
        self, n_frames: int = 65_536, held_back: Callable[[Samples], None] = lambda _: None
    ) -> Iterator[Samples]:
        """The samples from the current position on, at the file's rate.

        Args:
            n_frames: frames of a block; the last one may be shorter.
            held_back: gets each block that does not come out, since it or one before it has bad samples.

        Returns:
            Samples (n, C), C-contiguous, the caller's to keep: when `bits` is set, left-justified int16 up to
            16 bits, int32 beyond (the source's integer times 2^(16 - bits) or 2^(32 - bits)); else float32
            with full scale = 1.

        Raises:
            TrackError: TRUNCATED, CORRUPT_DATA, NO_SAMPLES, TOO_LONG, or NON_FINITE, the latter with all
                bad samples of the file counted; no block with such samples comes out.
        """
        while len(block := self._reader.read(n_frames)):
            if block.dtype == np.float32:
                self._count_bad(block)
            self.n_frames += len(block)
            self._check_limit(self.n_frames, "it has at least")
            if self._n_bad:
                held_back(block)
            else:
                yield block
        self._check_end()

    def close(self) -> None:
        """Close the file; idempotent."""
        self._reader.close()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_header(self, is_empty: bool) -> None:
        if not MIN_RATE <= self.format.sample_rate <= MAX_RATE:
            raise TrackError(
                "BAD_RATE",
                f"found {self.format.sample_rate} Hz, wanted {MIN_RATE} to {MAX_RATE} Hz; resample it or "
                "correct its header",
            )
        if self.format.n_channels > MAX_CHANNELS:
            raise TrackError(
                "BAD_CHANNELS",
                f"found {self.format.n_channels} channels, wanted 1 to {MAX_CHANNELS}; split or downmix it",
            )
        if is_empty:
            raise TrackError(
                "NO_SAMPLES",
                f"its header says 0 frames, the file has {self._path.stat().st_size} bytes; repair the "
                "header if its recorder was cut off, or leave it out",
            )
        self._check_limit(self.format.n_frames, "its header says")

    def _check_limit(self, n_frames: int, how: str) -> None:
        duration_s = n_frames / self.format.sample_rate
        if self._max_duration_s is not None and duration_s > self._max_duration_s:
            raise TrackError(
                "TOO_LONG",
                f"{how} {n_frames} frames ({duration_s:.0f} s), the limit is {self._max_duration_s:.0f} s; "
                "raise max_duration_s or leave it out",
            )

    def _count_bad(self, block: Samples) -> None:
        is_bad = ~(np.abs(block) <= MAX_LEVEL)  # NaN compares false
        n_bad = int(np.count_nonzero(is_bad))
        if n_bad and not self._n_bad:
            self._first_bad = self.n_frames + int(is_bad.any(axis=1).argmax())
        self._n_bad += n_bad

    def _check_end(self) -> None:
        if self._n_bad:
            raise TrackError(
                "NON_FINITE",
                f"{self._n_bad} samples are NaN, infinite or beyond {MAX_LEVEL:.0e} times full scale, the "
                f"first in frame {self._first_bad} "
                f"({self._first_bad / self.format.sample_rate:.3f} s); export it again",
            )
        if self.n_frames < self.format.n_frames - self._reader.tolerance_frames:
            raise TrackError(
                "TRUNCATED",
                f"its header says {self.format.n_frames} frames, {self.n_frames} could be decoded; fetch the "
                "whole file again",
            )
        if not self.n_frames:
            raise TrackError("NO_SAMPLES", "its header does not say how long it is, and no frames follow")


def open_audio(path: Path, max_duration_s: float | None = None, scratch_dir: Path | None = None) -> Decoder:
    """An open decoder for the local file `path`; use it in a `with` statement.

    Channels come in the order of `format.channel_mask`, or as they lie in a file that does not say.

    Args:
        path: a file of one of `sniff`'s families; recognised by content, not by name.
        max_duration_s: longer files are TOO_LONG, by their header or as soon as so much came out.
        scratch_dir: for copies of MP3 and WAV files that do not say their length; default: the system's.

    Raises:
        TrackError: EMPTY, NOT_AUDIO, UNSUPPORTED, CORRUPT_HEADER, TRUNCATED, NO_SAMPLES, BAD_RATE,
            BAD_CHANNELS or TOO_LONG.
        NoSpace: scratch_dir is full.
    """
    return Decoder(path, max_duration_s, scratch_dir)


def _open_reader(path: Path, scratch_dir: Path | None) -> Reader:
    sniffed = sniff(path)
    if sniffed.family in FOREIGN:
        return FFmpegReader(path, sniffed, FOREIGN[sniffed.family])
    try:
        return SndfileReader(path, sniffed, scratch_dir)
    except ForeignCodec as error:
        return FFmpegReader(path, sniffed, str(error))
