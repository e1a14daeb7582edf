"""What a pipeline needs of codecs, whether they run in its own process or in children of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from splitfire_batch.audio import Encoded, Insert, OutputFormat
from splitfire_batch.audio.formats import Samples
from splitfire_batch.audio.readback import Heard
from splitfire_batch.metadata import SourceMetadata
from splitfire_batch.records import AudioFormat

Made = TypeVar("Made")
MakeMix = Callable[[], Iterator[NDArray[np.floating]]]
"""Gives the mix (n, C) block by block, anew with each call."""


class OpenAudio(Protocol):
    """A file that is being decoded; see `audio.Decoder`."""

    format: AudioFormat

    @property
    def extra_s(self) -> float:
        """Seconds that decoding has taken elsewhere, beyond those that its caller has waited."""

    def blocks(self, n_frames: int) -> Iterator[Samples]:
        """See `Decoder.blocks`.

        Raises:
            TrackError: besides what the decoder finds, DECODE_CRASH or DECODE_LIMIT.
        """

    def close(self) -> None:
        """Let the file go; idempotent."""

    def __enter__(self) -> OpenAudio: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class OpenStems(Protocol):
    """The files of a track's stems, being written side by side, in a `with` statement."""

    @property
    def extra_s(self) -> float:
        """Seconds that encoding has taken elsewhere, beyond those that its caller has waited."""

    def write(self, blocks: Mapping[str, np.ndarray]) -> None:
        """Append to every stem a block (n, C), see `StemWriter.write`; n is the same for all."""

    def close(self) -> dict[str, Encoded]:
        """Finish the files, and say what they are."""

    def __enter__(self) -> OpenStems: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Codecs(Protocol):
    """Where files are decoded and encoded; may be used by many threads."""

    def open_audio(self, path: Path, max_duration_s: float, scratch: Path | None) -> OpenAudio:
        """See `audio.open_audio`.

        Raises:
            TrackError: besides what the decoder finds, DECODE_CRASH or DECODE_LIMIT.
        """

    def open_stems(
        self,
        files: Mapping[str, Path],
        out: OutputFormat,
        inserts: Mapping[str, Sequence[Insert]],
        n_frames: int,
        has_md5: bool = True,
    ) -> OpenStems:
        """Begin the files of stems, of `n_frames` each; files of these names are overwritten.

        Without `has_md5` no MD5 of the samples is computed.

        Raises:
            ChildLost: here or later: let `encode` begin anew.
        """

    def encode(self, attempt: Callable[[], Made]) -> Made:
        """What `attempt` returns, which uses `open_stems`, and may be called twice.

        Raises:
            TrackError: ENCODE_CRASH, a child was lost each time.
        """

    def read_back(self, files: Mapping[str, Path], mix: MakeMix, summed: frozenset[str]) -> Heard:
        """See `audio.read_back`.

        Raises:
            TrackError: ENCODE_CRASH, what was written cannot be decoded without harm.
        """

    def read_metadata(self, path: Path) -> SourceMetadata:
        """See `metadata.read_metadata`."""

    def named(self, name: str) -> Codecs:
        """The same, for one track of that name, by which the log calls it."""

    def close(self) -> None:
        """End what is running; idempotent."""
