"""Makes the forecast of a plan: from its tracks, what is known of their lengths, and how fast devices are.

Stems' bytes are estimates: PCM is counted, FLAC is taken to need FLAC_PART of it, or STEM_PART of a source
that is FLAC itself, and lossy codecs what they need on average. Scratch bytes are an upper bound: the largest
tracks are taken to be open all together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.audio import choose_output, spool_frame_bytes
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import TrackError
from splitfire_batch.forecast import Forecast, in_classes
from splitfire_batch.models import find_card
from splitfire_batch.models.strides import segment_s
from splitfire_batch.packing import FLAC, extensions
from splitfire_batch.plan import Plan
from splitfire_batch.records import AudioFormat
from splitfire_batch.stems import make_recipes, needed_estimates
from splitfire_batch.throughput import Throughput, find_throughput

FLAC_PART = 0.45
"""Of PCM: stems of MP3 in 24 bit needed 0.42 (`make demo`)."""
STEM_PART = 0.7
"""Of a FLAC source: sonic-pi's samples needed 0.67 a stem."""
_KBITS = {"VORBIS": 210, "OPUS": 390, "MPEG_LAYER_III": 200}
"""Of stereo at the default quality, as `OutputConfig.quality` says."""
_DEFAULT_QUALITY = 0.75
_OPEN = {True: (16, 256), False: (256, 2048)}
"""Tracks and megabytes of audio that a worker on a CPU, or on a GPU, has in hand: see RuntimeConfig."""
_SPOOLS_PART = 8
_ASSUMED = {0: ("WAV", "PCM_16"), FLAC: ("FLAC", "PCM_16")}
"""Formats by number of the extension; others are lossy."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a forecast depends on besides the plan."""

    separation: SeparationConfig
    output: OutputConfig
    runtime: RuntimeConfig
    n_workers: int
    """How many there may be, where neither the settings nor an earlier run say it."""
    is_local: bool = True
    """Whether the source lies on this machine's own file system, and is read where it is."""


def forecast(plan: Plan, terms: Terms) -> Forecast:
    """What the plan will take; the speed of devices is what `throughput` knows."""
    runtime, card = terms.runtime, find_card(terms.separation.model)
    speed = find_throughput(terms.separation, runtime, terms.n_workers)
    durations_s, n_bytes, flac_rate = _readable(plan)
    device_s = _device_s(durations_s, speed, segment_s(card, terms.separation))
    longest_s = _device_s(
        durations_s.max(initial=0.0, keepdims=True), speed, segment_s(card, terms.separation)
    )
    n_workers = runtime.workers or speed.n_workers or terms.n_workers
    n_workers = max(1, min(n_workers, plan.n_shards))
    formats = plan.sample.formats or _assumed(plan)
    known_s = sum(seconds for seconds, _ in formats) or 1.0
    stem_rate = sum(s * stem_bytes_per_s(form, terms.output, flac_rate) for s, form in formats) / known_s
    recipes = make_recipes(terms.separation, card.stems)
    n_estimates = len(needed_estimates(recipes))
    spools = (s * form.sample_rate * spool_frame_bytes(form, n_estimates) for s, form in formats)
    audio_s = float(durations_s.sum())
    work_s = max(device_s / n_workers / speed.utilisation, longest_s)
    return Forecast(
        n_tracks=len(durations_s),
        audio_s=audio_s,
        audio_error_s=plan.sample.error_s,
        durations=_durations(plan),
        n_bytes_in=int(n_bytes.sum()),
        n_bytes_out=round(audio_s * stem_rate * len(recipes)),
        device_s=device_s,
        wall_s=speed.start_s + work_s if len(durations_s) else 0.0,
        n_workers=n_workers,
        scratch_bytes=_scratch(
            n_bytes * (not terms.is_local),
            sum(spools) / known_s * durations_s,
            stem_rate * len(recipes) * durations_s,
            terms,
            on_cpu=runtime.device != "cuda" and speed.devices in ((), ("cpu",)),
        ),
        throughput=speed.source,
        is_measured=speed.is_measured,
        gpu_hourly=runtime.gpu_hourly,
    )


def stem_bytes_per_s(source: AudioFormat, config: OutputConfig, flac_rate: float = 0.0) -> float:
    """Estimated bytes of a second of one stem; 0 where the format cannot carry the source.

    Args:
        source: its format.
        config: what is asked for.
        flac_rate: bytes of a second of the FLAC sources; 0 if that is not known.
    """
    try:
        output = choose_output(source, config)
    except TrackError:
        return 0.0
    if output.quality is not None:
        kbits = _KBITS[output.subtype] * output.n_channels / 2 * output.quality / _DEFAULT_QUALITY
        return kbits * 125
    is_kept = output.container == source.container == "FLAC" and output.subtype == source.subtype
    if is_kept and flac_rate:
        return STEM_PART * flac_rate
    part = FLAC_PART if output.container == "FLAC" else 1.0
    return part * output.sample_rate * output.frame_bytes


def _readable(plan: Plan) -> tuple[np.ndarray, np.ndarray, float]:
    """Seconds and bytes of the tracks to separate; and bytes of a second of FLAC, or 0."""
    durations_s, n_bytes, is_flac = [np.empty(0)], [np.empty(0, np.int64)], [np.empty(0, bool)]
    for mine in _to_separate(plan):
        durations_s.append(mine["duration_s"].to_numpy())
        n_bytes.append(mine["n_bytes"].to_numpy())
        is_flac.append(extensions(mine).to_numpy() == FLAC)
    seconds, sizes, mask = (np.concatenate(parts) for parts in (durations_s, n_bytes, is_flac))
    flac_s = float(seconds[mask].sum())
    return seconds, sizes, float(sizes[mask].sum()) / flac_s if flac_s else 0.0


def _to_separate(plan: Plan) -> Iterator[pa.RecordBatch]:
    """The plan's rows that are no duplicates of others and have no problem."""
    for batch in plan.rows.batches(["path", "duration_s", "n_bytes", "problem", "duplicate"]):
        yield batch.filter(pc.and_(pc.is_null(batch["problem"]), pc.is_null(batch["duplicate"])))


def _device_s(durations_s: np.ndarray, speed: Throughput, full_s: float) -> float:
    return sum(speed.device_s(tracks, full_s) for tracks in in_classes(durations_s))


def _durations(plan: Plan) -> dict[str, int]:
    sample = plan.sample
    return {
        "catalogue": sample.n_told,
        "header": sample.n_read,
        "sample": sample.n_scaled,
        "size": sample.n_guessed,
    }


def _assumed(plan: Plan) -> Sequence[tuple[float, AudioFormat]]:
    """Seconds of audio by format where no header was read: 44.1 kHz, stereo; of PCM as much as there is."""
    formats = []
    for mine in _to_separate(plan):
        kinds = extensions(mine).to_numpy()
        durations_s, n_bytes = mine["duration_s"].to_numpy(), mine["n_bytes"].to_numpy()
        for kind in np.unique(kinds).tolist():
            seconds = float(durations_s[kinds == kind].sum())
            if not seconds:
                continue
            rate = 44_100
            if kind == 0:
                rate = max(1, round(int(n_bytes[kinds == kind].sum()) / seconds / 4))
            names = (
                ("WAV", "PCM_16") if kind == 0 else ("FLAC", "PCM_16") if kind == FLAC else ("MP3", "LOSSY")
            )
            formats.append((seconds, AudioFormat(*names, rate, 2, round(seconds * rate))))
    return formats


def _scratch(fetched: np.ndarray, spools: np.ndarray, stems: np.ndarray, terms: Terms, on_cpu: bool) -> int:
    """Bytes that the largest tracks need, as many as the workers of one machine may have open.

    Args:
        fetched: bytes of each track's source that are copied.
        spools: bytes of each track's mix and estimates, which may stay in memory if they are few.
        stems: bytes of each track's stems, until they are stored.
        terms: where, and with how many workers.
        on_cpu: whether these have no GPU.
    """
    runtime = terms.runtime
    n_open, audio_mb = _OPEN[on_cpu]
    in_memory = (runtime.audio_mb or audio_mb) * 2**20 / _SPOOLS_PART
    each = fetched + stems + np.where(spools > in_memory, spools, 0.0)
    n_here = 1 if runtime.ray else terms.n_workers
    largest = np.sort(each)[-(runtime.open_tracks or n_open) * n_here :]
    return round(float(largest.sum()))
