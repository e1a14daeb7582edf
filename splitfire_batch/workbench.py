"""What the tracks of a worker share: its engine, stores, settings, and memory for audio.

A workbench is made once by whoever settles tracks. It also says how much audio a track will hold, from
what is known of its file.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from splitfire_batch.audio import channel_groups, spool_frame_bytes
from splitfire_batch.budget import AudioBudget
from splitfire_batch.children import CodecLimits, InChildren, Inline
from splitfire_batch.children.limits import allow_many_files
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.ensembles import AnyEngine, open_engine
from splitfire_batch.errors import ConfigError
from splitfire_batch.lease import GUARD_S, Guard
from splitfire_batch.models import Loaded, find_card
from splitfire_batch.observations import Measurements
from splitfire_batch.records import AudioFormat, Track
from splitfire_batch.scratch import sweep
from splitfire_batch.separation import Limits
from splitfire_batch.stems import Recipe, check_skips, is_complete, make_recipes, needed_estimates
from splitfire_batch.storage import RetryBudget, Store, Stores, open_store

CPU_AUDIO_MB, GPU_AUDIO_MB = 256, 2048
"""Defaults of RuntimeConfig.audio_mb."""
OUTAGE_S = 180.0
"""A store may be away for so long: each track waits, and none fails."""


@dataclass(frozen=True, slots=True)
class Workbench:
    """What the tracks of a worker share."""

    engine: AnyEngine
    sources: Stores
    destination: Store
    recipes: tuple[Recipe, ...]
    sums_to_mix: bool
    """Whether the recipes' stems are meant to add up to the mix."""
    output: OutputConfig
    limits: Limits
    budget: AudioBudget
    max_bytes: int
    is_immutable: bool
    measure: Measurements = "all"
    """What is measured of the source and its stems."""
    guard: Guard = field(default_factory=Guard)
    """Asked before a stem is written under a plain name, and before every part."""

    @property
    def estimates(self) -> tuple[str, ...]:
        """The model's stems that a track needs."""
        judged = () if self.output.skip_without_vocals is None else ("vocals",)
        return tuple(dict.fromkeys((*needed_estimates(self.recipes), *judged)))

    def put_stem(self, path: str, file: Path) -> str | None:
        """Put a stem whole; its etag, if it has a name that another could write over."""
        if not self.is_immutable:
            self.guard.check(GUARD_S)
        self.destination.write(path, file)
        return None if self.is_immutable else self.destination.stat(path).etag

    def remove_stem(self, path: str) -> None:
        """Remove a stem of a plain name."""
        self.guard.check(GUARD_S)
        self.destination.delete(path)

    def for_track(self, track: Track) -> Workbench:
        """The same, and what codecs have to say of that track comes with its name."""
        return replace(self, limits=replace(self.limits, codecs=self.limits.codecs.named(track.path)))

    def close(self) -> None:
        """Free the model, and end the codecs' processes."""
        self.engine.close()
        self.limits.codecs.close()


def open_bench(
    model: Loaded,
    destination: str,
    separation: SeparationConfig,
    output: OutputConfig,
    runtime: RuntimeConfig,
    is_immutable: bool,
) -> Workbench:
    """A workbench for as many tracks at a time as `runtime.audio_mb` holds.

    Raises:
        ConfigError: an unknown stem, a destination of no known kind, a scratch folder that cannot be used.
    """
    scratch = Path(runtime.scratch_dir) if runtime.scratch_dir else None
    check_scratch(scratch)
    sweep(scratch)
    allow_many_files()
    engine = open_engine(model, runtime.batch, packs_short=False if runtime.open_tracks == 1 else None)
    audio_mb = runtime.audio_mb or (CPU_AUDIO_MB if model.device.type == "cpu" else GPU_AUDIO_MB)
    stems = find_card(separation.model).stems
    recipes = make_recipes(separation, stems)
    check_skips(output, stems)
    codecs = Inline() if runtime.codecs == "inline" else InChildren(_codec_limits(runtime))
    known = RetryBudget(patience_s=OUTAGE_S, is_known=True)  # the job has listed the one and made the other
    return Workbench(
        recipes=recipes,
        sums_to_mix=is_complete(recipes, stems),
        sources=Stores(runtime.storage, known),
        destination=open_store(destination, runtime.storage, known),
        output=output,
        limits=Limits(runtime.max_duration_s, scratch, codecs),
        budget=AudioBudget(max(audio_mb * 2**20 - engine.queue_bytes, audio_mb * 2**19)),
        max_bytes=runtime.max_bytes,
        is_immutable=is_immutable,
        measure=runtime.measure,
        engine=engine,
    )


def _codec_limits(runtime: RuntimeConfig) -> CodecLimits:
    return CodecLimits(runtime.codec_mb, runtime.codec_s)


def check_scratch(scratch: Path | None) -> None:
    """Make and remove a folder where the tracks' own will be; None for the system's.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        tempfile.TemporaryDirectory(prefix="splitfire-", dir=scratch).cleanup()
    except OSError as error:
        where = scratch or "the system's folder"
        raise ConfigError(f"scratch_dir: no file can be made in {where}: {error}; set another one") from error


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of audio that a track holds at most."""

    engine: int
    """Until its estimates are complete."""
    spool: int
    """In the largest spool (the mix, or one estimate) until its stems are; 0 when they go to disk."""
    spools: int
    """In all spools."""

    @property
    def n_bytes(self) -> int:
        """In all."""
        return self.engine + self.spools


def expected_need(track: Track, bench: Workbench) -> Need:
    """What a track will probably hold, from its planned cost."""
    n_frames = round(track.cost * bench.engine.full_frames)
    return need_of(AudioFormat("", "", bench.engine.model.sample_rate, 2, n_frames), bench)


def need_of(source: AudioFormat, bench: Workbench) -> Need:
    """What a track will hold, from its header: no more for a long one than for one of unknown length."""
    engine = bench.engine
    n_frames = math.ceil(source.n_frames * engine.model.sample_rate / source.sample_rate)
    n_lanes = len(channel_groups(source.n_channels, source.channel_mask))
    in_engine = engine.track_bytes(n_frames, n_lanes)
    spools = source.n_frames * spool_frame_bytes(source, len(bench.estimates))
    if not bench.budget.fits_spools(spools):
        return Need(in_engine, 0, 0)
    return Need(in_engine, 4 * source.n_frames * source.n_channels, spools)
