"""The story of one track: fetch, decode, separate, render, store, and always a row.

Whatever goes wrong with a track ends here, as a failed row with a code from the closed list. Nothing in
this module knows of other tracks, shards or machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from splitfire_batch.audio import audio_id, choose_output, losses
from splitfire_batch.budget import Share
from splitfire_batch.errors import (
    SKIP_CODES,
    AccessDenied,
    ConfigError,
    CredentialsExpired,
    ObjectChanged,
    ObjectMissing,
    StorageError,
    TrackError,
    TransientError,
)
from splitfire_batch.masking import masked
from splitfire_batch.measuring import measure_source, vocals_share_db, with_energy_shares
from splitfire_batch.metadata import (
    SourceMetadata,
    describe,
    lost_warnings,
    make_inserts,
)
from splitfire_batch.mishaps import mishap
from splitfire_batch.naming import stem_path
from splitfire_batch.quality import qc_flags
from splitfire_batch.records import AudioFormat, StemFile, Track, TrackRow
from splitfire_batch.rendering import Rendered, render
from splitfire_batch.scratch import scratch_folder
from splitfire_batch.separation import Separated, separate_file
from splitfire_batch.stem_blocks import RenderSettings
from splitfire_batch.stems import whole_of
from splitfire_batch.stopwatch import Stopwatch
from splitfire_batch.stored import sha256_of
from splitfire_batch.transfer import DeviceLost
from splitfire_batch.workbench import Workbench, expected_need, need_of


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
        return _settle(track, bench.for_track(track), share, watch)


def _settle(track: Track, bench: Workbench, share: Share, watch: Stopwatch) -> TrackRow:
    row = TrackRow(track, "failed", started_at=time.time())
    try:
        row = _separate(row, bench, share, watch)
    except DeviceLost:
        raise
    except Exception as error:  # noqa: BLE001 - the one broad catch: whatever it is costs one track
        row = _failed(row, mishap(error, track.track_id, bench.limits.scratch))
    return replace(row, seconds=watch.seconds(), finished_at=time.time())


def _separate(row: TrackRow, bench: Workbench, share: Share, watch: Stopwatch) -> TrackRow:
    track = row.track
    if track.problem:
        code, _, why = track.problem.partition(": ")
        if code in SKIP_CODES:
            return replace(row, status="skipped", code=code, message=f"{track.path}: {why}")
        raise TrackError(code, why)
    if track.n_bytes > bench.max_bytes:
        raise TrackError(
            "TOO_LARGE",
            f"found {track.n_bytes} bytes, the limit is {bench.max_bytes}; raise max_bytes or leave it out",
        )
    with scratch_folder(bench.limits.scratch) as folder:
        with watch.measure("fetch"):
            path = _fetch(track, bench, folder)
            row = replace(row, content_id=sha256_of(path), audio_id=audio_id(path))
        accept = partial(_accept, bench=bench, share=share)
        limits = replace(bench.limits, scratch=folder)  # a decoder that is killed leaves its copies there
        with separate_file(path, bench.engine, bench.estimates, limits, watch, accept) as separated:
            share.resize(min(share.n_bytes, need_of(separated.source, bench).spools))
            row = replace(row, source=separated.source, warnings=bench.engine.warnings)
            with watch.measure("measure"):
                row = _measured(row, separated, bench)
                metadata = bench.limits.codecs.read_metadata(path)
            row = replace(row, description=describe(metadata, track.path, separated.n_frames))
            if row.status == "skipped":
                ext = choose_output(separated.source, bench.output).ext
                _remove_stale(track, [recipe.stem for recipe in bench.recipes], ext, bench)
                return row
            settings = _render_settings(track, separated.source, metadata, bench)
            rendered = render(separated, settings, folder, watch)
        share.resize(0)
        with watch.measure("store"):
            stems = _store(track, rendered, bench, folder, settings.output.ext)
    row = replace(
        row,
        status="done",
        warnings=row.warnings
        + losses(separated.source, settings.output)
        + _warnings(metadata, settings, rendered, bench),
        stems=with_energy_shares(stems, whole_of(bench.recipes, bench.sums_to_mix)),
        gain_db=rendered.gain_db,
        sum_residual_db=rendered.sum_residual_db,
    )
    return replace(row, qc_flags=qc_flags(row))


def _measured(row: TrackRow, separated: Separated, bench: Workbench) -> TrackRow:
    """The row with the source's levels; skipped if the operator does not want the stems of such a track."""
    levels, pcm_md5 = measure_source(separated, bench.measure)
    row = replace(row, levels=levels, pcm_md5=pcm_md5)
    wanted = bench.output.skip_without_vocals
    if wanted is None or (share_db := vocals_share_db(separated)) >= wanted:
        return row
    why = f"the vocals hold {share_db:.1f} dB of the energy, skip_without_vocals asks for {wanted:g} dB"
    row = replace(row, status="skipped", code="NO_VOCALS", message=f"{row.track.path}: {why}")
    return replace(row, qc_flags=qc_flags(row))


def _fetch(track: Track, bench: Workbench, folder: Path) -> Path:
    """The whole object as a local file."""
    try:
        store, key = bench.sources.locate(track.uri)
        return store.fetch(key, folder / "source", etag=track.etag)  # a table's size may be wrong
    except ObjectChanged as error:
        why = f"the object changed after it was listed: {error.why}; run the job again"
        raise TrackError("SOURCE_CHANGED", why) from error
    except ObjectMissing as error:
        raise TrackError(
            "SOURCE_MISSING", "it is listed, and not there; bring it back, or run the job again"
        ) from error
    except AccessDenied as error:  # expired credentials are no fault of the object: the next run tries again
        code = "SOURCE_READ" if isinstance(error, CredentialsExpired) else "SOURCE_DENIED"
        raise TrackError(code, f"{error.why}; check the read permission of the role") from error
    except (TransientError, StorageError, ConfigError) as error:
        raise TrackError("SOURCE_READ", f"{error}; run the job again") from error


def _accept(source: AudioFormat, bench: Workbench, share: Share) -> int:
    """Wait for what a track of that header needs; the bytes that each of its spools may keep in memory."""
    choose_output(source, bench.output)
    need = need_of(source, bench)
    share.resize(need.n_bytes)
    return need.spool


def _render_settings(
    track: Track, source: AudioFormat, metadata: SourceMetadata, bench: Workbench
) -> RenderSettings:
    output, stems = choose_output(source, bench.output), [recipe.stem for recipe in bench.recipes]
    told = metadata if bench.output.metadata else SourceMetadata()
    inserts = {stem: make_inserts(told, output, stem, source.sample_rate) for stem in stems}
    return RenderSettings(
        recipes=bench.recipes,
        output=output,
        dither=bench.output.dither,
        track_id=track.track_id,
        sums_to_mix=bench.sums_to_mix,
        inserts=inserts,
        measure=bench.measure,
        codecs=bench.limits.codecs,
        skip_below_db=bench.output.skip_silent_stems,
    )


def _warnings(
    metadata: SourceMetadata, settings: RenderSettings, rendered: Rendered, bench: Workbench
) -> tuple[str, ...]:
    """What of the source's metadata the stems lack, unless they were meant to lack all."""
    if not bench.output.metadata:
        return ()
    told = [stem for stem in rendered.stems if stem.path and settings.inserts[stem.stem]]
    refused = [stem.stem for stem in told if not stem.preserved_chunks]
    why = "; with the source's chunks its samples could not be read back"
    unread = (f"not carried over: all metadata of {', '.join(refused)}{why}",) if refused else ()
    return metadata.warnings + lost_warnings(metadata, settings.output) + unread


def _store(
    track: Track, rendered: Rendered, bench: Workbench, folder: Path, ext: str
) -> tuple[StemFile, ...]:
    """Put every stem that was written, whole; their paths become those in the destination."""
    stored = []
    for stem in rendered.stems:
        if not stem.path:  # silent, and not wanted
            _remove_stale(track, [stem.stem], ext, bench)
            stored.append(stem)
            continue
        target = stem_path(track.target, stem.stem, ext, stem.sha256 if bench.is_immutable else None)
        etag = bench.put_stem(target, folder / stem.path)
        stored.append(replace(stem, path=target, etag=etag))
    return tuple(stored)


def _remove_stale(track: Track, stems: Iterable[str], ext: str, bench: Workbench) -> None:
    """Under a plain name there may be a stem of what the object was before; no row would speak of it."""
    if not bench.is_immutable:
        with suppress(AccessDenied):  # nothing that was asked for fails for want of the right to delete
            for stem in stems:
                bench.remove_stem(stem_path(track.target, stem, ext, None))


def _failed(row: TrackRow, error: TrackError) -> TrackRow:
    return replace(row, status="failed", code=error.code, message=f"{row.track.path}: {masked(error.why)}")
