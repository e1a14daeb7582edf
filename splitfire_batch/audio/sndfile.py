"""Files that libsndfile reads: opened, repaired where they do not say their length, and read forward.

Only local files are read: soundfile drops the errors of a Python file object and returns short audio.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import soundfile

from splitfire_batch.audio.bare import bare_copy
from splitfire_batch.audio.formats import Samples, sample_dtype, source_bits
from splitfire_batch.audio.lengths import check_complete, ends_in_flac_frame, foreign_codec, with_data_length
from splitfire_batch.audio.mpeg import with_length
from splitfire_batch.audio.sniff import Sniffed
from splitfire_batch.audio.speakers import read_speakers
from splitfire_batch.audio.spool import disk_error
from splitfire_batch.errors import TrackError
from splitfire_batch.records import AudioFormat

_UNKNOWN_FRAMES = 2**62  # libsndfile says 2^63 - 1 where the header does not tell
_UNIMPLEMENTED = 18
_FLAC_LOST_SYNC = 158


class ForeignCodec(Exception):
    """A container that libsndfile knows holds a codec that it does not; the argument names it."""


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A file read only forward. soundfile seeks after each read otherwise, which MP3 and OGG pay for."""

    def seekable(self) -> bool:
        return False


class SndfileReader:
    """Implements `decode.Reader`."""

    tolerance_frames = 0

    def __init__(self, path: Path, sniffed: Sniffed, scratch_dir: Path | None) -> None:
        """Raises TrackError (TRUNCATED, CORRUPT_HEADER), ForeignCodec, or NoSpace for scratch_dir."""
        check_complete(path, sniffed)
        self._path, self._sniffed = path, sniffed
        self._copy = self._repaired(scratch_dir)
        self._file = self._open(Path(self._copy.name) if self._copy else path, scratch_dir)
        claimed = int(self._file.frames)
        subtype, n_channels = self._file.subtype, self._file.channels
        speakers = read_speakers(path, sniffed, subtype, n_channels)
        self._order = None if speakers.order is None else list(speakers.order)
        self.format = AudioFormat(
            container=self._file.format,
            subtype=subtype,
            sample_rate=self._file.samplerate,
            n_channels=n_channels,
            n_frames=0 if claimed >= _UNKNOWN_FRAMES else claimed,
            channel_mask=speakers.mask,
        )
        self.is_empty = claimed == 0
        self._bits = source_bits(subtype)
        self._n_frames = 0

    def read(self, n_frames: int) -> Samples:
        """The next frames; fewer only at the end."""
        if self.format.container == "FLAC" and self.format.n_frames:
            # what lies behind the last frame, an ID3 tag perhaps, would cost the frames before it
            n_frames = min(n_frames, self.format.n_frames - self._n_frames)
        shape = n_frames, self.format.n_channels
        buffer: Samples = np.empty(shape, sample_dtype(self._bits))
        try:
            n_read = len(self._file.read(out=buffer))
        except soundfile.LibsndfileError as error:
            raise self._damage(error) from error
        self._n_frames += n_read
        if self._order:
            return np.ascontiguousarray(buffer[:n_read, self._order])
        return buffer if n_read == n_frames else buffer[:n_read].copy()

    def close(self) -> None:
        """Close the file; idempotent."""
        self._file.close()
        if self._copy:
            self._copy.close()

    def _repaired(self, scratch_dir: Path | None) -> IO[bytes] | None:
        """A temporary copy, kept until `close`, of a file that does not say its length; else None."""
        try:
            if self._sniffed.family == "MP3":
                return with_length(self._path, self._sniffed.offset, scratch_dir)
            return with_data_length(self._path, self._sniffed, scratch_dir)
        except OSError as error:
            raise disk_error(str(scratch_dir or tempfile.gettempdir()), error) from error

    def _open(self, path: Path, scratch_dir: Path | None) -> _Stream:
        try:
            return _Stream(os.fsencode(path))
        except soundfile.LibsndfileError as error:
            bare = bare_copy(path, self._sniffed, scratch_dir)
            if self._copy:
                self._copy.close()
            if bare:
                self._copy = bare
                with contextlib.suppress(soundfile.LibsndfileError):
                    return _Stream(bare.name)
                bare.close()
            codec = foreign_codec(self._path, self._sniffed)
            if codec or error.code == _UNIMPLEMENTED:
                raise ForeignCodec(f"{self._sniffed.family} with {codec or 'an unknown codec'}") from error
            raise TrackError(
                "CORRUPT_HEADER",
                f"it begins like {self._sniffed.family}, but its header makes no sense (libsndfile: "
                f"{error.error_string}); fetch it again or leave it out",
            ) from error

    def _damage(self, error: soundfile.LibsndfileError) -> TrackError:
        """A cut FLAC file loses sync where it ends; a damaged one still ends in a whole frame."""
        decoded = (
            f"decoding stopped after {self._n_frames} of {self.format.n_frames or 'unknown'} frames "
            f"({self._n_frames / self.format.sample_rate:.1f} s)"
        )
        if error.code == _FLAC_LOST_SYNC and not ends_in_flac_frame(self._path):
            return TrackError("TRUNCATED", f"{decoded}: the file ends inside a FLAC frame; fetch it again")
        return TrackError(
            "CORRUPT_DATA",
            f"{decoded}: damaged {self._sniffed.family} data (libsndfile: {error.error_string}); fetch it "
            "again or decode it elsewhere to see what is left",
        )
