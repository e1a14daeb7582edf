"""Files that FFmpeg reads, through PyAV: the audio of MP4, M4A, MOV, WMA, WebM, Matroska and raw AAC.

PyAV is an extra, and the only way to FFmpeg on purpose: a `ffmpeg` found on the path would decode other
lengths on other machines. Of a container with several streams the first audio stream is read. Demuxers and
codecs are those listed here, whatever else the library can do, and only local files are opened.

FFmpeg drops an encoder's delay at the start of a stream, but leaves its padding at the end of an MP4; how
long the audio is, is then in iTunes' comment, in the edit list, or in the last packet's duration (`_length`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from splitfire_batch.audio.codecs import CODECS, DEMUXERS, name_subtype, to_samples
from splitfire_batch.audio.formats import Samples, sample_dtype, source_bits
from splitfire_batch.audio.mpeg4 import single_edit
from splitfire_batch.audio.sniff import Family, Sniffed
from splitfire_batch.audio.speakers import FFMPEG_NAMES, sort_speakers
from splitfire_batch.errors import TrackError
from splitfire_batch.records import AudioFormat

INSTALL = "pip install 'splitfire-batch[decode]'"

_HELD_FRAMES = 16_384
"""Kept back until the end of the file says whether they are padding: more than any codec's."""


class FFmpegReader:
    """Implements `decode.Reader`."""

    is_empty = False

    def __init__(self, path: Path, sniffed: Sniffed, kind: str) -> None:
        """Raises TrackError (UNSUPPORTED, CORRUPT_HEADER, NO_SAMPLES); `kind` is what to call the file."""
        self._av = _load(kind)
        self._kind, self._n_frames, self._n_held = kind, 0, 0
        self._held: deque[Samples] = deque()
        self._is_mp4 = sniffed.family == "MP4"
        self._edit = single_edit(path) if self._is_mp4 else None
        self._end: Fraction | None = None
        self._is_at_end = False
        with self._translated("CORRUPT_HEADER"):
            options = {"protocol_whitelist": "file"}
            if self._edit and self._edit.is_whole:
                # else a last packet, of which less is played than the clock rounds off, would be dropped
                options["advanced_editlist"] = "0"
            self._container = self._av.open(str(path), format=DEMUXERS[sniffed.family], options=options)
        try:
            self._stream = self._find_stream()
            self._frames = self._decoded()
            self._start(sniffed.family)
        except BaseException:
            self._container.close()
            raise

    def read(self, n_frames: int) -> Samples:
        """The next frames; fewer only at the end."""
        while self._n_held < n_frames + _HELD_FRAMES and self._append_next():
            pass
        parts: list[Samples] = []
        while n_frames and self._held:
            part = self._held.popleft()
            if len(part) > n_frames:
                self._held.appendleft(part[n_frames:])
                part = part[:n_frames]
            parts.append(part)
            n_frames -= len(part)
            self._n_held -= len(part)
            self._n_frames += len(part)
        return np.concatenate(parts) if parts else np.empty((0, self.format.n_channels), self._dtype)

    def close(self) -> None:
        """Close the file; idempotent."""
        self._container.close()

    def _find_stream(self) -> Any:
        """The first audio stream, if a codec of the list can decode it."""
        streams = self._container.streams.audio
        if not streams:
            raise TrackError("NO_SAMPLES", f"it is {self._kind} without an audio stream; leave it out")
        codec = streams[0].codec_context
        if codec is None or not CODECS.fullmatch(codec.name):
            raise TrackError(
                "UNSUPPORTED",
                f"it is {self._kind} with {codec.name if codec else 'an unknown codec'}, which is not on the "
                "list of codecs read here; convert it to FLAC or WAV",
            )
        codec.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
        return streams[0]

    def _start(self, family: Family) -> None:
        """Decode the first frame: only that tells rate and layout for certain (HE-AAC has two rates)."""
        codec, first = self._stream.codec_context, self._next_frame()
        if first is None:
            raise TrackError("NO_SAMPLES", f"it is {self._kind}, but no frames can be decoded; leave it out")
        subtype, layout = (
            name_subtype(codec.name, bytes(codec.extradata or b""), first.format.name),
            first.layout,
        )
        speakers = sort_speakers([FFMPEG_NAMES.get(channel.name, 0) for channel in layout.channels])
        self._order = None if speakers.order is None else list(speakers.order)
        self._dtype = sample_dtype(source_bits(subtype))
        self._packed = self._av.AudioResampler(first.format.packed, layout, first.sample_rate)
        self.format = AudioFormat(
            container=family,
            subtype=subtype,
            sample_rate=first.sample_rate,
            n_channels=layout.nb_channels,
            n_frames=self._claimed(first.sample_rate),
            channel_mask=speakers.mask,
        )
        self.tolerance_frames = first.sample_rate // 4
        """Containers count milliseconds, and an encoder's delay as they please."""
        self._append(first)

    def _claimed(self, sample_rate: int) -> int:
        """Frames by the header; 0 where it does not tell, or means a video beside the audio."""
        stream, container = self._stream, self._container
        if container.format.name == "aac":  # a guess from the bitrate
            return 0
        if self._edit:
            return math.floor(self._edit.duration_s * sample_rate)
        if stream.duration:
            return math.floor(float(stream.duration * stream.time_base) * sample_rate + 0.5)
        is_alone = len(container.streams) == 1 and container.duration
        return int(container.duration) * sample_rate // 1_000_000 if is_alone else 0

    def _decoded(self) -> Iterator[Any]:
        start = Fraction(0)
        for packet in self._container.demux(self._stream):
            if packet.size and packet.pts is not None and packet.duration:
                if self._end is None:  # an encoder's delay lies before 0, and what is late begins after it
                    start = max(0, packet.pts) * packet.time_base
                self._end = (packet.pts + packet.duration) * packet.time_base - start
            yield from packet.decode()

    def _next_frame(self) -> Any:
        with self._translated("CORRUPT_DATA"):
            return next(self._frames, None)

    def _append_next(self) -> bool:
        """Whether there was another frame; at the end, the padding goes."""
        frame = self._next_frame()
        if frame is not None:
            self._append(frame)
            return True
        if not self._is_at_end:
            self._is_at_end = True
            self._append(None)
            self._cut_padding()
            self._n_held = sum(map(len, self._held))
        return False

    def _append(self, frame: Any) -> None:
        """Hold a frame's samples; None for what the packer still has."""
        with self._translated("CORRUPT_DATA"):
            for packed in self._packed.resample(frame):
                block = to_samples(packed.to_ndarray().reshape(-1, self.format.n_channels), self._dtype)
                self._held.append(block[:, self._order] if self._order else block)
                self._n_held += len(block)

    def _cut_padding(self) -> None:
        """Drop what an MP4 holds beyond its own length."""
        n_frames = self._length()
        surplus = self._n_frames + self._n_held - n_frames if n_frames else 0
        if surplus > _HELD_FRAMES:  # so much is no padding
            return
        while surplus > 0 and self._held:
            last = self._held.pop()
            if len(last) > surplus:
                self._held.append(last[:-surplus])
            surplus -= len(last)

    def _length(self) -> int | None:
        """Frames of an MP4 by the best witness it has; None where none is to be trusted.

        The edit list is exact in units of the movie's clock, which many writers let count milliseconds; if it
        agrees with the packets to within a tick, these know better.
        """
        rate, tags = self.format.sample_rate, {**self._container.metadata, **self._stream.metadata}
        if not self._is_mp4 or self._end is None:
            return None
        gapless = tags.get("iTunSMPB", "").split()
        if len(gapless) > 3 and (n_frames := _hex(gapless[3])):
            return n_frames
        by_packets = self._end * rate
        if self._edit is None or (
            self._edit.is_whole and abs(self._end - self._edit.duration_s) <= self._edit.tick_s
        ):
            return round(by_packets)
        return round(min(by_packets, self._edit.duration_s * rate))

    @contextmanager
    def _translated(self, code: str) -> Iterator[None]:
        """FFmpeg's errors as a TrackError with that code."""
        try:
            yield
        except (self._av.error.FFmpegError, ValueError) as error:
            where = f" after {self._n_frames + self._n_held} frames" if code == "CORRUPT_DATA" else ""
            raise TrackError(
                code,
                f"it is {self._kind}, and FFmpeg stopped{where}: {getattr(error, 'strerror', error)}; "
                "fetch it again or leave it out",
            ) from error


def ffmpeg_version() -> str:
    """Which FFmpeg there is, in words, or what to install."""
    try:
        av = _load("")
    except TrackError:
        return f"no FFmpeg for MP4, WMA and WebM ({INSTALL})"
    return f"FFmpeg {av.ffmpeg_version_info} in PyAV {av.__version__}"


def _load(kind: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise TrackError(
            "UNSUPPORTED",
            f"it is {kind}, for which FFmpeg is needed; install it ({INSTALL}) or convert it to FLAC or WAV",
        ) from error
    return av


def _hex(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0
