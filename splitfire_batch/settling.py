"""The story of one track: fetch, decode, separate, render, store, and always a row.

Whatever goes wrong with a track ends here, as a failed row with a code from the closed list. Nothing in
this module knows of other tracks, shards or machines.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from splitfire_batch.audio import choose_output, losses
from splitfire_batch.audio.spool import disk_error
from splitfire_batch.budget import Share
from splitfire_batch.errors import (
    AccessDenied,
    ConfigError,
    NoSpace,
    ObjectMissing,
    StorageError,
    TrackError,
    TransientError,
)
from splitfire_batch.naming import stem_path
from splitfire_batch.records import AudioFormat, StemFile, Track, TrackRow
from splitfire_batch.rendering import Rendered, RenderSettings, render
from splitfire_batch.separation import separate_file
from splitfire_batch.stems import needed_estimates
from splitfire_batch.stopwatch import Stopwatch
from splitfire_batch.transfer import DeviceLost
from splitfire_batch.workbench import Workbench, expected_need, need_of

_log = logging.getLogger(__name__)


def settle(track: Track, bench: Workbench, begin: Callable[[], None] = lambda: None) -> TrackRow:
    """Do everything for one track, once there is memory for it; whatever is wrong with it becomes the row.

    Args:
        track: what to do.
        bench: may serve other tracks in other threads at the same time.
        begin: called when the waiting is over; what it raises is raised, and there is no row.

    Raises:
        DeviceLost: no fault of the track: the process should be replaced, and the track tried again.
    """
    watch = Stopwatch(bench.engine.clock)
    with bench.budget.share(expected_need(track, bench).n_bytes, watch) as share:
        begin()
        return _settle(track, bench, share, watch)


def _settle(track: Track, bench: Workbench, share: Share, watch: Stopwatch) -> TrackRow:
    row = TrackRow(track, "failed", started_at=time.time())
    try:
        row = _separate(row, bench, share, watch)
    except TrackError as error:
        row = _failed(row, error)
    except NoSpace as error:
        row = _failed(row, TrackError("NO_SPACE", f"{error}; free space or set scratch_dir"))
    except StorageError as error:
        row = _failed(row, TrackError("STORE_WRITE", str(error)))
    except TransientError as error:
        row = _failed(row, TrackError("STORE_WRITE", f"{error}; run the job again"))
    except OSError as error:  # stores and decoders translate theirs: what is left befell the scratch folder
        row = _failed(row, _scratch_trouble(error, bench.limits.scratch))
    except DeviceLost:
        raise
    except MemoryError:
        row = _failed(row, TrackError("OOM", "the worker's memory is full; lower audio_mb"))
    except Exception as error:  # noqa: BLE001 - the one broad catch: a bug costs one track, and is recorded
        _log.exception("track_bug track=%s", track.track_id)
        row = _failed(row, TrackError("INTERNAL", f"{type(error).__name__}: {error} ({_origin(error)})"))
    return replace(row, seconds=watch.seconds(), finished_at=time.time())


def _separate(row: TrackRow, bench: Workbench, share: Share, watch: Stopwatch) -> TrackRow:
    track = row.track
    if track.problem:
        code, _, why = track.problem.partition(": ")
        raise TrackError(code, why)
    if track.n_bytes > bench.max_bytes:
        raise TrackError(
            "TOO_LARGE", f"found {track.n_bytes} bytes, the limit max_bytes is {bench.max_bytes}"
        )
    with tempfile.TemporaryDirectory(prefix="splitfire-", dir=bench.limits.scratch) as folder:
        with watch.measure("fetch"):
            path, content_id = _fetch(track, bench, Path(folder))
        wanted, accept = needed_estimates(bench.recipes), partial(_accept, bench=bench, share=share)
        with separate_file(path, bench.engine, wanted, bench.limits, watch, accept) as separated:
            share.resize(min(share.n_bytes, need_of(separated.source, bench).spools))
            with watch.measure("encode"):
                settings = _render_settings(track, separated.source, bench)
                rendered = render(separated, settings, Path(folder))
            source = separated.source
        share.resize(0)
        with watch.measure("store"):
            stems = _store(track, rendered, bench, Path(folder), settings.output.ext)
    return replace(
        row,
        status="done",
        warnings=(*bench.engine.warnings, *losses(source, settings.output)),
        content_id=content_id,
        source=source,
        stems=stems,
        gain_db=rendered.gain_db,
        sum_residual_db=rendered.sum_residual_db,
    )


def _fetch(track: Track, bench: Workbench, folder: Path) -> tuple[Path, str]:
    """The whole object as a local file, and the SHA-256 of its bytes."""
    try:
        store, key = bench.sources.locate(track.uri)
        found = store.stat(key)
        if track.etag and found.etag != track.etag:
            raise TrackError("SOURCE_CHANGED", "the object changed after it was listed; run the job again")
        path = store.fetch(key, folder / "source")
    except ObjectMissing as error:
        raise TrackError("SOURCE_MISSING", "it was listed, but there is no such object any more") from error
    except AccessDenied as error:
        raise TrackError("SOURCE_DENIED", f"{error.why}; check the read permission of the role") from error
    except (TransientError, StorageError, ConfigError) as error:
        raise TrackError("SOURCE_READ", f"{error}; run the job again") from error
    with path.open("rb") as file:
        return path, hashlib.file_digest(file, "sha256").hexdigest()


def _accept(source: AudioFormat, bench: Workbench, share: Share) -> int:
    """Wait for what a track of that header needs; the bytes that each of its spools may keep in memory."""
    choose_output(source, bench.output)
    need = need_of(source, bench)
    share.resize(need.n_bytes)
    return need.spool


def _render_settings(track: Track, source: AudioFormat, bench: Workbench) -> RenderSettings:
    return RenderSettings(
        recipes=bench.recipes,
        output=choose_output(source, bench.output),
        dither=bench.output.dither,
        track_id=track.track_id,
        sums_to_mix=bench.sums_to_mix,
    )


def _store(
    track: Track, rendered: Rendered, bench: Workbench, folder: Path, ext: str
) -> tuple[StemFile, ...]:
    """Put every stem whole; their paths become those in the destination."""
    stored = []
    for stem in rendered.stems:
        target = stem_path(track.target, stem.stem, ext, stem.sha256 if bench.is_immutable else None)
        bench.destination.write(target, folder / stem.path)
        stored.append(replace(stem, path=target))
    return tuple(stored)


def _scratch_trouble(error: OSError, scratch: Path | None) -> TrackError:
    found = disk_error(f"scratch folder {scratch or 'of the system'}", error)
    return TrackError("NO_SPACE" if isinstance(found, NoSpace) else "STORE_WRITE", str(found))


def _origin(error: Exception) -> str:
    """The line that raised, for a report: the actor's log, with the whole traceback, may be out of reach."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}, {frame.name}"


def _failed(row: TrackRow, error: TrackError) -> TrackRow:
    return replace(row, status="failed", code=error.code, message=f"{row.track.path}: {error.why}")
