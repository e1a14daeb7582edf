"""A copy of a WAV or AIFF file with nothing but its samples and what describes them.

libsndfile refuses a whole file for a chunk beside its samples that is damaged, and an RF64 file for one
of odd length before them. Neither says anything about the samples.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from splitfire_batch.audio.chunks import Chunk, walk_chunks
from splitfire_batch.audio.sniff import Sniffed
from splitfire_batch.audio.spool import disk_error

_NEEDED = {b"fmt ", b"fact", b"ds64", b"data", b"COMM", b"FVER", b"SSND"}
_COPY_BYTES = 1 << 20


def bare_copy(path: Path, sniffed: Sniffed, scratch_dir: Path | None) -> IO[bytes] | None:
    """A temporary file; None for other families, and for a file that has no more than it needs.

    Raises:
        NoSpace: scratch_dir is full.
    """
    if sniffed.family not in ("WAV", "RF64", "AIFF"):
        return None
    with path.open("rb") as file:
        chunks = list(walk_chunks(file, sniffed.offset, path.stat().st_size))
        needed = [chunk for chunk in chunks if chunk.name in _NEEDED]
        if len(needed) == len(chunks):
            return None
        file.seek(sniffed.offset)
        head = file.read(12)
        try:
            return _written(file, head, needed, scratch_dir)
        except OSError as error:
            raise disk_error(str(scratch_dir or tempfile.gettempdir()), error) from error


def _written(source: IO[bytes], head: bytes, needed: Sequence[Chunk], scratch_dir: Path | None) -> IO[bytes]:
    copy = tempfile.NamedTemporaryFile(dir=scratch_dir)  # noqa: SIM115
    copy.write(head)
    for chunk in needed:
        source.seek(chunk.start - 8)
        _copy(source, copy, 8 + chunk.n_bytes)
        copy.write(bytes(chunk.n_bytes % 2))
    form, at = {b"RF64": ("<Q", 20), b"FORM": (">I", 4), b"RIFX": (">I", 4)}.get(head[:4], ("<I", 4))
    n_new = copy.tell() - 8
    copy.seek(at)
    copy.write(struct.pack(form, min(n_new, 256 ** struct.calcsize(form) - 1)))
    copy.flush()
    return copy


def _copy(source: IO[bytes], target: IO[bytes], n_bytes: int) -> None:
    """So many bytes, or all that there are."""
    while n_bytes > 0 and (block := source.read(min(n_bytes, _COPY_BYTES))):
        target.write(block)
        n_bytes -= len(block)
