"""Codecs that do what a hostile or damaged file may make them do, chosen by the file's sample rate.

A zygote that loads `tests.hostile_zygote` (tests put it on `starting.MODULES`) has children with these;
files of any other rate are read and written as ever. Nothing of it is known to the product.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from splitfire_batch.audio import decode
from splitfire_batch.children import serving
from splitfire_batch.metadata import SourceMetadata, read_metadata


def segfault(_: Path) -> None:
    """Write to where nothing is, as a decoder with a bad index does."""
    ctypes.memset(8, 0, 8)


def abort(_: Path) -> None:
    """As the C library does when it finds its heap damaged."""
    os.abort()


def leave(_: Path) -> None:
    """End without a word."""
    os._exit(3)


def hang(_: Path) -> None:
    """Do nothing, for ever."""
    time.sleep(3600)


def compute(_: Path) -> None:
    """Loop for ever, and say something now and then, so that only the CPU limit ends it."""
    while True:
        sum(range(1000))


def eat(_: Path) -> None:
    """Allocate without end, as a header that lies about a length makes a decoder do."""
    held = []
    while True:
        held.append(np.empty(2**23))


def crash_once(path: Path) -> None:
    """The first time only, as bad luck does."""
    mark = path.with_suffix(".crashed")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def be_killed(_: Path) -> None:
    """As by the system when memory is full."""
    os.kill(os.getpid(), signal.SIGKILL)


def talk(_: Path) -> None:
    """Print, as mpg123 does."""
    os.write(2, b"[parse.c:42] warning:\n  what an odd frame\n")


def forge(_: Path) -> None:
    """Send what no message looks like, to the owner's socket."""
    for number in range(3, 20):
        try:
            os.write(number, b"\xff" * 64)
        except OSError:
            continue


def forge_block(_: Path) -> None:
    """Claim another number of frames than there are bytes."""
    link = next(frame.f_locals["link"] for frame in _frames() if "link" in frame.f_locals)
    serving.send(link, "block", {"dtype": "float32", "n_frames": 10**9}, b"1234")


def write_long_ogg(_: Path) -> None:
    """What libsndfile 1.2.2 does not survive: a minute of Vorbis in a single write."""
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (44_100 * 100, 2))
    soundfile.SoundFile(tempfile.TemporaryFile(), "w", 44_100, 2, "VORBIS", format="OGG").write(x)  # noqa: SIM115


def _frames() -> list[object]:
    frame, found = sys._getframe(), []
    while frame:
        found.append(frame)
        frame = frame.f_back  # type: ignore[assignment]
    return found  # type: ignore[return-value]


DECODING: dict[int, Callable[[Path], None]] = {
    11_001: segfault,
    11_002: abort,
    11_003: leave,
    11_004: hang,
    11_005: compute,
    11_006: eat,
    11_007: crash_once,
    11_008: talk,
    11_009: forge,
    11_010: forge_block,
    11_011: be_killed,
}
ENCODING: dict[int, Callable[[Path], None]] = {
    12_001: segfault,
    12_002: hang,
    12_003: write_long_ogg,
    12_004: eat,
    12_005: leave,
    12_007: be_killed,
}
IN_METADATA = 13_001
"""The rate of files whose metadata kill their reader."""
SLOW = 14_001
"""The rate of files whose blocks take their time."""
FLOODING = 12_006
"""The rate of stems that are written longer than they are."""


class HostileReader:
    """Reads the second block of a hostile file with the deed."""

    def __init__(self, path: Path, reader: decode.Reader) -> None:
        self._path, self._reader, self._n_reads = path, reader, 0
        self.format, self.is_empty = reader.format, reader.is_empty
        self.tolerance_frames = reader.tolerance_frames

    def read(self, n_frames: int) -> decode.Samples:
        self._n_reads += 1
        deed = DECODING.get(self.format.sample_rate)
        if deed and self._n_reads == 2:
            deed(self._path)
        if self.format.sample_rate == SLOW:
            time.sleep(0.2)
        return self._reader.read(n_frames)

    def close(self) -> None:
        self._reader.close()


class HostileWriter(serving.StemWriter):
    """Writes a hostile stem's first block with the deed."""

    def write(self, block: np.ndarray) -> None:
        deed = ENCODING.get(self._out.sample_rate)
        if deed:
            deed(self._path)
        super().write(block)
        while self._out.sample_rate == FLOODING:
            super().write(block)


def hostile_metadata(path: Path) -> SourceMetadata:
    """Killed by a file of that rate."""
    if soundfile.info(str(path)).samplerate == IN_METADATA:
        segfault(path)
    return read_metadata(path)


def install() -> None:
    """Let this process read and write with these codecs."""
    open_reader = decode._open_reader
    decode._open_reader = lambda path, scratch: HostileReader(path, open_reader(path, scratch))
    serving.read_metadata = hostile_metadata
    serving.StemWriter = HostileWriter  # type: ignore[misc]
