"""The data that travel: what a track is, what a shard holds, what a worker reports, what a row says.

Everything here is frozen, small and picklable: no audio, no open files, no credentials. Functions that
make or read these records live in the modules named after their work (catalogue, plan, worker, manifest).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from splitfire_batch.observations import Description, Levels
from splitfire_batch.staff import Staff

Status = Literal["done", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Track:
    """One entry of the plan: a recording, and where its stems will go.

    `path` is relative to the catalogue's root and names the track to people. `target` is the path of the
    stems below the destination with `{stem}` and `{ext}` still open. `cost` is the expected number of
    full model segments. `meta` are the catalogue's own columns, echoed into the manifest. A `problem`
    ("CODE: why") was found while listing: the track fails without being fetched. `n_failed_runs` counts
    earlier runs in which the object failed with a code that may stand after some (`FailureCode`).
    """

    track_id: str
    source_id: str
    uri: str
    path: str
    n_bytes: int
    etag: str
    target: str
    cost: float = 1.0
    attempts: int = 0
    problem: str | None = None
    meta: tuple[tuple[str, str], ...] = ()
    n_failed_runs: int = 0


@dataclass(frozen=True, slots=True)
class Shard:
    """Tracks that are processed, retried and recorded together."""

    shard_id: str
    tracks: tuple[Track, ...]

    @property
    def cost(self) -> float:
        """Expected number of full model segments."""
        return sum(track.cost for track in self.tracks)


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How samples lie in a file. `container` and `subtype` are libsndfile's names (WAV, PCM_24)."""

    container: str
    subtype: str
    sample_rate: int
    n_channels: int
    n_frames: int
    """Frames per channel as the header claims them; of a decoded track, as they were counted."""
    channel_mask: int = 0
    """The speakers, as in WAVEFORMATEXTENSIBLE; 0 where the file does not say."""


@dataclass(frozen=True, slots=True)
class StemFile:
    """One stem. `path` is relative to the destination; it and the hashes are None if it was not written."""

    stem: str
    path: str | None
    container: str
    subtype: str
    sample_rate: int
    n_channels: int
    n_frames: int
    n_bytes: int
    sha256: str | None
    pcm_md5: str | None
    """MD5 of the PCM data, little-endian and interleaved: FLAC's own STREAMINFO MD5 for integer formats. For
    lossy ones of the floats that the codec was given. Except for FLAC, None where `measure` is "none"."""
    levels: Levels = field(default_factory=Levels)
    energy_share_db: float | None = None
    """Its part of the energy of the stems that make up the mix; None for silence, or if one is missing or not
    measured."""
    is_silent: bool = False
    """Its sample peak lies below -60 dB, or below `skip_silent_stems`."""
    preserved_chunks: tuple[str, ...] = ()
    """Chunks (WAV, AIFF) or blocks (FLAC) before its samples that hold what the source says of itself."""
    etag: str | None = field(default=None, compare=False)
    """Of the object, as the store gave it when it was put under a plain name; None under an immutable one."""


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Seconds of one track in each stage, waiting excluded; `device` is its share of the batches."""

    fetch: float = 0.0
    decode: float = 0.0
    device: float = 0.0
    encode: float = 0.0
    store: float = 0.0
    blend: float = 0.0
    """Cutting segments, and blending their estimates."""
    wait_memory: float = 0.0
    """Until it might hold audio."""
    wait_device: float = 0.0
    """Of all its segments together, between being sent and computed."""
    measure: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceSeconds:
    """A device's time: busy, or idle while tracks were open, by what these were busy with instead."""

    busy: float = 0.0
    fetch: float = 0.0
    decode: float = 0.0
    blend: float = 0.0
    encode: float = 0.0
    store: float = 0.0
    memory: float = 0.0
    """Tracks waited for memory, and cores for tracks."""
    measure: float = 0.0


@dataclass(frozen=True, slots=True)
class TrackRow:
    """What happened to one planned track: exactly one per track and run."""

    track: Track
    status: Status
    code: str | None = None
    message: str | None = None
    warnings: tuple[str, ...] = ()
    content_id: str | None = None
    """SHA-256 of the source's bytes."""
    audio_id: str | None = None
    """SHA-256 of the source's audio, without its tags: see `audio.audio_id`."""
    source: AudioFormat | None = None
    description: Description = field(default_factory=Description)
    levels: Levels | None = None
    """The source's, as decoded."""
    pcm_md5: str | None = None
    """The source's, as decoded: see StemFile; of 32-bit floats for float and lossy sources."""
    qc_flags: tuple[str, ...] = ()
    """Keys of quality.FLAGS."""
    gain_db: float | None = None
    """The one gain applied to every stem of the track; 0.0 unless a stem would have clipped."""
    sum_residual_db: float | None = None
    """Level of sum(stems) - mix * gain, relative to full scale; None when it is exactly zero."""
    stems: tuple[StemFile, ...] = ()
    seconds: StageSeconds = field(default_factory=StageSeconds)
    started_at: float = 0.0
    """Seconds since 1970-01-01 UTC."""
    finished_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Started:
    """A worker begins a track; from here to its Committed an accident is charged to it."""

    shard_id: str
    track_id: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """One committed track as the driver needs to know it."""

    track_id: str
    path: str
    status: Status
    code: str | None
    message: str | None
    audio_s: float
    """Duration of the source, seconds; 0 where it is unknown."""
    n_bytes_out: int


@dataclass(frozen=True, slots=True)
class Committed:
    """A manifest part is in the store: these tracks are settled for good."""

    shard_id: str
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Draining:
    """A worker has admitted the last track of a shard and could take another shard."""

    shard_id: str


@dataclass(frozen=True, slots=True)
class Returned:
    """A worker was asked for work that another could do, and has not begun these tracks, nor will it."""

    shard_id: str
    track_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker has nothing to tell and gets on with its tracks; without either it is taken to hang."""

    shard_id: str


@dataclass(frozen=True, slots=True)
class ShardDone:
    """A worker has settled every track of a shard; `seconds` are sums over its tracks.

    `device` is of the worker's device in the same `wall_s`, in which another shard may have begun or ended.
    """

    shard_id: str
    wall_s: float
    seconds: StageSeconds
    device: DeviceSeconds = field(default_factory=DeviceSeconds)


@dataclass(frozen=True, slots=True)
class Suspected:
    """Tracks in flight when a worker was lost: any of them may be why. `attempts` is what each is charged."""

    tracks: tuple[Track, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A track was in flight, alone, when its worker died again: it is given up."""

    track: Track
    why: str
    code: str = "WORKER_CRASH"
    """A key of errors.FAILURE_CODES."""


ShardEvent = Started | Committed | Draining | Returned | Beat | ShardDone
"""What a worker tells while it runs a shard."""
PoolEvent = ShardEvent | Suspected | Quarantined | Staff
"""What a pool of workers tells while it has a job's shards done."""
