"""Writes stems: integers as they are, floats as they are, with what the manifest says about a file.

libsndfile gets integers of 16 bits as they are, and others left-justified in 32, of which it only takes the
upper ones; it never converts a float, except inside lossy codecs. PCM WAV, AIFF and FLAC come out the same,
byte for byte, each time; so do lossy files where the codec's build is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from numpy.typing import NDArray

from splitfire_batch.audio.flac import STREAMINFO_BYTES
from splitfire_batch.audio.formats import OutputFormat, Samples, sample_dtype
from splitfire_batch.audio.insert import Insert, insert_before_samples
from splitfire_batch.audio.ogg import finish_ogg
from splitfire_batch.audio.quantise import fits
from splitfire_batch.audio.speakers import vorbis_order, write_mask
from splitfire_batch.audio.spool import disk_error
from splitfire_batch.errors import NoSpace, StorageError

_PIECE_FRAMES = 65_536  # libsndfile has crashed on longer writes
_PROBE_BYTES = 256 * 1024  # more than what libsndfile may still hold when a disk is full
_MD5_BYTES = 16
_TAIL_FRAMES = 16_384  # several blocks of FLAC: libFLAC may decode half a file to find its very last frame


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one written file is."""

    n_frames: int
    n_bytes: int
    sha256: str
    """Of the file's bytes."""
    pcm_md5: str | None
    """Of the PCM data, little-endian, interleaved, at the file's depth: FLAC's STREAMINFO MD5. For lossy
    formats of the floats that the codec was given, because what comes back depends on who decodes it. None
    where it was not wanted, and the format has none."""
    inserted: tuple[str, ...] = ()
    """Names of the chunks before the samples, each once; none if a decoder stumbles over them."""


class StemWriter:
    """One stem file being written. In a `with` statement, an exception removes the unfinished file."""

    def __init__(
        self, path: Path, out: OutputFormat, inserts: Sequence[Insert] = (), has_md5: bool = True
    ) -> None:
        """Open `path` for writing; `close` will put the `inserts` before the samples."""
        self._path, self._out, self._inserts = path, out, inserts
        self._dtype = np.dtype(sample_dtype(out.bits))
        is_ours = has_md5 and out.container != "FLAC"
        self._md5 = hashlib.md5(usedforsecurity=False) if is_ours else None
        self.n_frames = 0
        """Frames written so far."""
        self._order = list(vorbis_order(out.n_channels) or ()) if out.container == "OGG" else []
        how = _codec_settings(out)
        try:
            self._file = soundfile.SoundFile(
                str(path), "w", out.sample_rate, out.n_channels, out.subtype, format=out.container, **how
            )
        except soundfile.LibsndfileError as error:
            raise self._write_error(error.error_string) from error

    def write(self, block: Samples | NDArray[np.int64]) -> None:
        """Append a block (n, C).

        Args:
            block: integers, right-justified at the format's depth; float32, finite, for a float format.

        Raises:
            ValueError: another shape or dtype, or samples that do not fit.
            NoSpace: the disk or the quota is full.
        """
        self._check(block)
        for start in range(0, len(block), _PIECE_FRAMES):
            piece = np.ascontiguousarray(block[start : start + _PIECE_FRAMES], dtype=self._dtype)
            if self._md5:
                self._md5.update(pcm_bytes(piece, self._out.bits))
            if self._out.bits not in (None, 16):
                piece = np.left_shift(piece, 32 - self._out.bits, dtype=np.int32)
            if self._order:
                piece = np.ascontiguousarray(piece[:, self._order])
            try:
                self._file.write(piece)
            except (soundfile.LibsndfileError, AssertionError) as error:  # the latter: a short write
                raise self._write_error(str(error)) from error
        self.n_frames += len(block)

    def close(self) -> Encoded:
        """Finish the file and say what it is.

        Raises:
            NoSpace: the disk or the quota is full.
            StorageError: the file does not read back to its last frame.
        """
        try:
            self._file.close()
        except soundfile.LibsndfileError as error:
            raise self._write_error(error.error_string) from error
        self._complete()
        if missing := self._missing(self._path):  # what could not be flushed is not reported by `close`
            raise self._write_error(missing)
        ours = self._md5.hexdigest() if self._md5 else None
        pcm_md5 = _flac_md5(self._path) if self._out.container == "FLAC" else ours
        inserted = self._insert() if self._inserts else ()
        with self._path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Encoded(self.n_frames, self._path.stat().st_size, sha256, pcm_md5, inserted)

    def __enter__(self) -> StemWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(soundfile.LibsndfileError):  # `close` has reported what matters
            self._file.close()
        if kind is not None:
            self._path.unlink(missing_ok=True)

    def _check(self, block: Samples | NDArray[np.int64]) -> None:
        bits, n_channels = self._out.bits, self._out.n_channels
        wanted = ("float32",) if bits is None else ("int16", "int32", "int64")
        if block.ndim != 2 or block.shape[1] != n_channels or block.dtype.name not in wanted:
            raise ValueError(
                f"a block has shape {block.shape} of {block.dtype}, wanted (n, {n_channels}) of "
                f"{' or '.join(wanted)}"
            )
        if bits is None:
            if not np.isfinite(block).all():
                raise ValueError("a block has NaN or infinite samples, wanted finite ones")
        elif 8 * block.dtype.itemsize > bits and not fits(block, bits):
            raise ValueError(f"samples from {block.min()} to {block.max()} do not fit into {bits} bit")

    def _complete(self) -> None:
        """What libsndfile does not do: the source's channel mask, and pages that all programs understand."""
        try:
            if self._out.container == "OGG":
                finish_ogg(self._path, self._out.subtype == "VORBIS")
            elif self._out.channel_mask and self._out.container in ("WAVEX", "RF64"):
                write_mask(self._path, self._out.channel_mask)
        except OSError as error:
            raise disk_error(str(self._path), error) from error

    def _insert(self) -> tuple[str, ...]:
        """Put the chunks in, unless a decoder then finds fewer frames: the samples matter more."""
        whole = self._path.with_name(f"{self._path.name}.tmp")
        try:
            insert_before_samples(self._path, whole, self._inserts)
            if self._missing(whole):
                return ()
            whole.replace(self._path)
        except OSError as error:
            raise disk_error(str(self._path), error) from error
        finally:
            whole.unlink(missing_ok=True)
        return tuple(dict.fromkeys(insert.name.decode().strip() for insert in self._inserts))

    def _missing(self, path: Path) -> str:
        """What libsndfile finds wrong about the last frames of the file; empty for nothing."""
        n_tail = min(self.n_frames, _TAIL_FRAMES)
        if not n_tail:
            return ""
        try:
            with soundfile.SoundFile(str(path)) as file:
                n_frames = int(file.frames)
                file.seek(self.n_frames - n_tail)
                is_whole = n_frames == self.n_frames and len(file.read(n_tail, self._dtype)) == n_tail
        except soundfile.LibsndfileError as error:
            return str(error.error_string)
        return "" if is_whole else f"found {n_frames} frames, wrote {self.n_frames}"

    def _write_error(self, text: str) -> StorageError:
        """libsndfile says only "System error": writing some bytes ourselves tells why."""
        try:
            with self._path.open("ab", buffering=0) as file:
                if file.write(bytes(_PROBE_BYTES)) < _PROBE_BYTES:
                    return NoSpace(str(self._path), "the disk is full; free some space")
        except OSError as error:
            return disk_error(str(self._path), error)
        return StorageError(str(self._path), f"could not be written: {text}")


def _codec_settings(out: OutputFormat) -> dict[str, object]:
    """libsndfile's own scale is 0 for the best quality; 1 is refused by its MP3 encoder."""
    if out.quality is None:
        return {}
    mode = {"bitrate_mode": "VARIABLE"} if out.container == "MP3" else {}
    return {"compression_level": 1 - out.quality, **mode}


def _flac_md5(path: Path) -> str:
    """The MD5 of the samples that libFLAC has put into STREAMINFO, the first block."""
    with path.open("rb") as file:
        file.seek(len("fLaC") + 4)
        return file.read(STREAMINFO_BYTES)[-_MD5_BYTES:].hex()


def pcm_bytes(block: Samples, bits: int | None) -> bytes:
    """Interleaved little-endian samples of 1 to 4 bytes: what `Encoded.pcm_md5` hashes.

    Args:
        block: (n, C), integers, right-justified at `bits`; float32 when that is None.
        bits: 8, 16, 24 or 32; None for float.
    """
    if bits is None:
        return block.astype("<f4", copy=False).tobytes()
    if bits == 16:
        return block.astype("<i2", copy=False).tobytes()
    four = block.astype("<i4", copy=False).reshape(-1).view(np.uint8).reshape(-1, 4)
    return four[:, : (bits + 7) // 8].tobytes()
