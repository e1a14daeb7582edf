"""Keeps a track's audio until it is complete: in memory below a limit, in an unlinked file beyond.

Whether a stem would clip, and so the gain of the whole track, is known only at its end; until then stems
wait here. The file has no name, so that nothing is left behind when the process dies.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from splitfire_batch.audio.formats import Samples
from splitfire_batch.errors import FULL_DISK, NoSpace, StorageError


def disk_error(where: str, error: OSError) -> StorageError:
    """What a failed write to a local disk means: NoSpace for a full disk or quota, else StorageError."""
    if error.errno in FULL_DISK:
        return NoSpace(where, f"{os.strerror(error.errno)}; free some space or set another scratch_dir")
    return StorageError(where, f"could not be written: {error}")


class Spool:
    """Samples of one signal, written once and read any number of times, in order."""

    def __init__(self, n_channels: int, memory_limit_bytes: int, folder: Path | None) -> None:
        self._n_channels = n_channels
        self._limit = memory_limit_bytes
        self._folder = folder
        self._held: list[Samples] = []
        self._file: IO[bytes] | None = None
        self._dtype: np.dtype[np.int16 | np.int32 | np.float32] | None = None
        self.n_frames = 0
        """Frames appended so far."""

    def append(self, block: Samples) -> None:
        """Keep a copy of a block (n, C), integers or float32; the first one fixes which.

        Raises:
            NoSpace: the disk or the quota is full.
        """
        if self._dtype is None:
            self._dtype = block.dtype
        if block.ndim != 2 or block.shape[1] != self._n_channels or block.dtype != self._dtype:
            raise ValueError(
                f"a block has shape {block.shape} of {block.dtype}, wanted (n, {self._n_channels}) "
                f"of {self._dtype}"
            )
        self.n_frames += block.shape[0]
        if self._file is None and self.n_bytes <= self._limit:
            self._held.append(block.copy(order="C"))
            return
        for held in (*self._held, block):
            self._write(held)
        self._held.clear()

    @property
    def n_bytes(self) -> int:
        """Bytes of audio kept, in memory or on disk."""
        return self.n_frames * self._frame_bytes

    @property
    def _frame_bytes(self) -> int:
        return self._n_channels * (self._dtype.itemsize if self._dtype else 0)

    @property
    def is_on_disk(self) -> bool:
        """Whether the limit was passed."""
        return self._file is not None

    def blocks(self, n_frames: int = 65_536) -> Iterator[Samples]:
        """All frames from the first one, in blocks (n_frames, C); the last one may be shorter.

        They keep the dtype they came with, and may lie in the spool's own memory: do not write into them.
        """
        pieces = self._read(n_frames) if self._file is not None else iter(self._held)
        waiting: list[Samples] = []
        n_waiting = 0
        for piece in pieces:
            position = 0
            while position < len(piece):
                part = piece[position : position + n_frames - n_waiting]
                position += len(part)
                waiting.append(part)
                n_waiting += len(part)
                if n_waiting == n_frames:
                    yield _joined(waiting)
                    waiting, n_waiting = [], 0
        if waiting:
            yield _joined(waiting)

    def close(self) -> None:
        """Let memory and file go; idempotent."""
        self._held.clear()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, block: Samples) -> None:
        """Append to the file, made at the first call; unbuffered, so that no error comes late."""
        where = str(self._folder or tempfile.gettempdir())
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
            rest = memoryview(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise disk_error(where, error) from error

    def _read(self, n_frames: int) -> Iterator[Samples]:
        """Pieces of the file; each iterator has a position of its own."""
        assert self._file is not None  # noqa: S101
        assert self._dtype is not None  # noqa: S101
        position, n_piece = 0, n_frames * self._frame_bytes
        while position < self.n_bytes:
            data = os.pread(self._file.fileno(), n_piece, position)
            if not data or len(data) % self._frame_bytes:
                raise StorageError("spool", f"found {position + len(data)} of {self.n_bytes} bytes written")
            position += len(data)
            yield np.frombuffer(data, self._dtype).reshape(-1, self._n_channels)


def _joined(blocks: list[Samples]) -> Samples:
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
