"""Codecs in the caller's own process: for files that somebody has at hand, and to see what children cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from splitfire_batch.audio import Decoder, Encoded, Insert, OutputFormat, StemWriter, open_audio, read_back
from splitfire_batch.audio.readback import Heard
from splitfire_batch.children.codecs import Made, MakeMix
from splitfire_batch.metadata import SourceMetadata, read_metadata


class Inline:
    """Implements `codecs.Codecs`."""

    def open_audio(self, path: Path, max_duration_s: float, scratch: Path | None) -> Decoder:
        """See `Codecs.open_audio`."""
        return open_audio(path, max_duration_s, scratch)

    def open_stems(
        self,
        files: Mapping[str, Path],
        out: OutputFormat,
        inserts: Mapping[str, Sequence[Insert]],
        n_frames: int,  # noqa: ARG002 - a limit of children
        has_md5: bool = True,
    ) -> InlineStems:
        """See `Codecs.open_stems`."""
        return InlineStems(files, out, inserts, has_md5)

    def encode(self, attempt: Callable[[], Made]) -> Made:
        """See `Codecs.encode`."""
        return attempt()

    def read_back(self, files: Mapping[str, Path], mix: MakeMix, summed: frozenset[str]) -> Heard:
        """See `Codecs.read_back`."""
        return read_back(files, mix(), summed)

    def read_metadata(self, path: Path) -> SourceMetadata:
        """See `Codecs.read_metadata`."""
        return read_metadata(path)

    def named(self, name: str) -> Inline:  # noqa: ARG002 - what libraries print goes where it will
        """See `Codecs.named`."""
        return self

    def close(self) -> None:
        """Nothing is running."""


class InlineStems:
    """Implements `codecs.OpenStems`."""

    extra_s = 0.0

    def __init__(
        self,
        files: Mapping[str, Path],
        out: OutputFormat,
        inserts: Mapping[str, Sequence[Insert]],
        has_md5: bool,
    ) -> None:
        self._stack = ExitStack()
        with ExitStack() as stack:
            self._writers = {
                stem: stack.enter_context(StemWriter(file, out, inserts.get(stem, ()), has_md5))
                for stem, file in files.items()
            }
            self._stack = stack.pop_all()

    def __enter__(self) -> InlineStems:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, blocks: Mapping[str, np.ndarray]) -> None:
        """See `OpenStems.write`."""
        for stem, writer in self._writers.items():
            writer.write(blocks[stem])

    def close(self) -> dict[str, Encoded]:
        """See `OpenStems.close`."""
        return {stem: writer.close() for stem, writer in self._writers.items()}
