"""What went wrong with a track, in the closed list of codes: any exception on its way becomes a TrackError.

Stores and decoders translate their own exceptions; here it is decided what those mean for a track.
"""

from __future__ import annotations

import logging
from pathlib import Path

from splitfire_batch.audio.spool import disk_error
from splitfire_batch.errors import NoSpace, StorageError, TrackError, TransientError
from splitfire_batch.escapes import origin, traced

_log = logging.getLogger(__name__)


def mishap(error: Exception, track_id: str, scratch: Path | None) -> TrackError:
    """The code and the reason for a track's row; a bug is logged with all that is known of it.

    Args:
        error: what ended the track.
        track_id: for the log.
        scratch: folder of temporary files; None for the system's.
    """
    if isinstance(error, TrackError):
        return error
    if isinstance(error, NoSpace):
        return TrackError("NO_SPACE", f"{error}; free space or set scratch_dir")
    if isinstance(error, StorageError):
        return TrackError("STORE_WRITE", str(error))
    if isinstance(error, TransientError):
        return TrackError("STORE_WRITE", f"{error}; run the job again")
    if isinstance(error, OSError):  # stores and decoders translate theirs: this befell the scratch folder
        found = disk_error(f"scratch folder {scratch or 'of the system'}", error)
        return TrackError("NO_SPACE" if isinstance(found, NoSpace) else "STORE_WRITE", str(found))
    if isinstance(error, MemoryError):
        return TrackError("OOM", "the worker's memory is full; lower audio_mb")
    _log.error("track_bug track=%s why=%s", track_id, traced(error))
    return TrackError("INTERNAL", f"{type(error).__name__}: {error} ({origin(error)})")
