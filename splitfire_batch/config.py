"""What an operator can set, in three classes by what it changes.

`SeparationConfig` changes the stems, `OutputConfig` their bytes: both are hashed into `settings_id`.
`RuntimeConfig` must change neither beyond rounding. A value checks itself when it is made; `configure`
turns foreign mappings (flags, TOML, flow parameters) into these classes and bad ones into ConfigError.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from splitfire_batch.errors import ConfigError
from splitfire_batch.observations import Measurements

LOSSY_FORMATS = frozenset({"ogg", "opus", "mp3"})
"""Values of `OutputConfig.format` that have a quality in place of a depth."""

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
"""Floating point in the networks; what is around them is float32 always."""
Overwrite = Literal["never", "changed", "always"]
"""Which tracks that have stems already are done again."""

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)
_SECRET_WORDS = ("key", "secret", "token", "password", "credential", "sas")


@dataclass(frozen=True, slots=True, config=_STRICT)
class SeparationConfig:
    """Everything that changes how the stems sound."""

    model: str = "spleeter-2stems"
    """A name from `splitfire models list`."""
    stems: tuple[str, ...] = ()
    """The stems to write, such as vocals,bass; empty for all. `instrumental` is the mix minus the vocals,
    `no_drums` the mix minus the drums, and so on."""
    residual: Literal["fold", "stem", "drop"] = "fold"
    """What the model leaves over: added to accompaniment/other, a stem of its own, or dropped. Of a model of
    vocals alone it is the instrumental."""
    short_clip: Literal["adaptive", "reference"] = "adaptive"
    """Clips shorter than a segment: padded as little as sounds best, or to full length like the original."""
    mask_extension: Literal["zeros", "average"] = "zeros"
    """Above the model's bandwidth: nothing, or the mean of the mask below it (Spleeter only)."""
    precision: Precision = "fp32"
    """Arithmetic of the networks; a device that lacks it refuses. bf16 is the fast one on recent CPUs."""
    tail: Literal["lean", "reference"] = "lean"
    """Segments at a track's end that only cover what is covered already: left out, or made. With `reference`
    Demucs ends a track exactly as the original does. RoFormers have no exact reference tail: they mirror a
    track that is at least one chunk long, and at its own end (the community's: longer than the overlap
    twice, and at the padded end)."""
    overlap: float | None = Field(default=None, ge=0, lt=1)
    """Part of a segment that it shares with the next; default: the model's own. More takes longer."""

    @field_validator("stems", mode="before")
    @classmethod
    def _split_at_commas(cls, stems: object) -> object:
        items = [stems] if isinstance(stems, str) else stems
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            return stems
        names = [name.strip() for item in items for name in item.split(",")]
        return tuple(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True, slots=True, config=_STRICT)
class OutputConfig:
    """How stems are written."""

    format: Literal["source", "wav", "flac", "aiff", "ogg", "opus", "mp3"] = "source"
    """File format; `source` keeps WAV, AIFF and FLAC, and writes FLAC for lossy sources."""
    depth: Literal["source", "16", "24", "32", "float"] = "source"
    """Bits per sample; `source` keeps the source's, 24 for lossy sources. Not for ogg, opus and mp3."""
    quality: float = Field(default=0.75, ge=0.1, le=1)
    """Of ogg, opus and mp3, which take about 210, 390 and 200 kbit/s for stereo at 0.75."""
    dither: bool = True
    """TPDF dither, seeded by the track, when a stem is reduced to 16 bit."""
    metadata: bool = True
    """Carry sampler chunks and tags of the source over to the stems."""
    names: Literal["auto", "plain", "immutable"] = "auto"
    """`immutable` ends each name in the hash of its bytes; `auto` does so on object stores only."""
    template: str = "{model}/{dir}/{name}_{stem}.{ext}"
    """Path of a stem below the destination; tokens: model dir name stem ext track_id, catalogue columns."""

    skip_silent_stems: float | None = Field(default=None, le=0)
    """Stems whose sample peak stays below this, such as -60 (dB relative to full scale), are not written."""
    skip_without_vocals: float | None = Field(default=None, le=0)
    """Tracks whose vocals hold less of the energy than this, such as -30 (dB), are skipped: no stems."""

    @field_validator("depth")
    @classmethod
    def _is_of_use(cls, depth: str, others: ValidationInfo) -> str:
        if depth != "source" and others.data.get("format") in LOSSY_FORMATS:
            raise ValueError(f"{others.data['format']} has no depth; leave it at source, or set quality")
        return depth

    @field_validator("template")
    @classmethod
    def _names_every_stem(cls, template: str) -> str:
        if "{stem}" not in template or not template.endswith(".{ext}"):
            raise ValueError("wanted a path with {stem} in it that ends in .{ext}")
        return template


@dataclass(frozen=True, slots=True, config=_STRICT)
class CatalogueConfig:
    """Which tracks of the source to take."""

    include: tuple[str, ...] = ()
    """Globs on the path below the source; empty for everything audible."""
    exclude: tuple[str, ...] = ()
    """Globs to leave out; they win over `include`."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many tracks, the first by path."""
    sample: float | None = Field(default=None, gt=0, le=100)
    """Only this many percent of the tracks, chosen by their track_id: always the same ones."""
    allow_root: tuple[str, ...] = ()
    """URLs below which a catalogue table may name objects; empty for the folder the table lies in."""
    overwrite: Overwrite = "changed"
    """Which tracks that have stems are done again: those whose object changed, none, or all of them. With
    `always` a run that was cut off begins anew."""
    checksum: bool = False
    """An object with another etag or time and the bytes it had is unchanged; its bytes are read to tell."""
    dedupe: bool = False
    """Separate tracks of the same audio once, whatever their tags; the others get the stems of the first."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class RuntimeConfig:
    """How the work is done; none of it may change a stem beyond rounding."""

    ray: str | None = None
    """Address of a Ray cluster to join; without one, a local Ray is started."""
    workers: int | None = Field(default=None, ge=1)
    """Ray actors; default: one per GPU, without GPUs one per two CPU cores."""
    threads: int | None = Field(default=None, ge=1)
    """Torch threads of a CPU worker; default: its share of the cores."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run; `auto` takes a GPU where Ray sees one."""
    batch: int | None = Field(default=None, ge=1)
    """Full segments that go through the network together; default: 1 on a CPU, 8 on a GPU."""
    compile: bool = False
    """Let torch.compile fuse the networks (fp32, tf32): minutes at the start, rarely worth it on a CPU."""
    audio_mb: int | None = Field(default=None, ge=1)
    """Megabytes of decoded audio a worker holds; default: 256 on a CPU, 2048 on a GPU. More goes to disk."""
    open_tracks: int | None = Field(default=None, ge=1)
    """Tracks a worker has in hand at most, if audio_mb has room; default: 16 on a CPU, 256 on a GPU. With 1,
    short clips do not share batches, which changes their stems by rounding."""
    lease: bool = True
    """Hold the destination, so that a second run refuses; only immutable names are safe without."""
    scratch_dir: str | None = None
    """Folder for temporary files; default: the system's."""
    shard_s: float = Field(default=300, gt=0)
    """Estimated device-seconds of a shard."""
    measure: Measurements = "all"
    """`basic` leaves out what costs most: loudness, true peak, the mix's pcm_md5; `none` all but peaks."""
    storage: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Options of the store per URL prefix, such as {"s3://": {"endpoint_url": "..."}}; never secrets."""
    weights_mirror: str | None = None
    """URL under which `<model>/<file>` is looked for before the registry's own sources. Workers ask
    nobody else; without one, those of a cluster take what the run stores in the destination."""
    registry: str | None = None
    """TOML file or URL that adds models of your own, a table for each; it is read where the run starts."""
    require_commercial: bool = False
    """Refuse models whose code or weights are not cleared for commercial use, members of bags included."""
    offline: bool = False
    """Open no connection for weights: they are in the cache, or in files of the machine that needs them."""
    codecs: Literal["children", "inline"] = "children"
    """Decode and encode in processes of their own, whose crashes cost one track; or in the worker's."""
    codec_mb: int = Field(default=1024, ge=64)
    """Megabytes that decoding, or encoding, one track may allocate."""
    codec_s: float = Field(default=120, gt=0)
    """Seconds a codec may be silent; and compute, besides one more for every 100,000 samples."""
    max_duration_s: float = Field(default=86_400, gt=0)
    """Longer tracks fail with TOO_LONG."""
    max_bytes: int = Field(default=64 * 2**30, gt=0)
    """Larger objects fail with TOO_LARGE."""
    max_failures: str | None = None
    """Stop the run when more tracks fail than this number, or than this part of the planned ones: 5%."""
    drain_s: float = Field(default=25, ge=0)
    """Seconds that tracks in flight have to finish in when a run is stopped; the rest is done next time."""
    gpu_hourly: float | None = Field(default=None, ge=0)
    """Price of one device for an hour, in any currency; plans and reports then say what a run costs."""
    stall_s: float = Field(default=120, ge=1)
    """A worker that neither tells anything nor gets on for so many seconds is killed and replaced."""

    @field_validator("storage")
    @classmethod
    def _holds_no_secret(cls, storage: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for root, options in storage.items():
            _refuse_userinfo(root, *options.values())
            for name in options:
                if any(word in name.lower() for word in _SECRET_WORDS):
                    raise ValueError(
                        f"the option {name!r} of {root!r} looks like a secret; credentials come from the "
                        "store's own chain (environment, profile, instance role)"
                    )
        return storage

    @field_validator("max_failures", mode="before")
    @classmethod
    def _is_number_or_percent(cls, limit: object) -> object:
        if limit is None:
            return None
        text = "" if isinstance(limit, bool) else str(limit).strip()
        if not re.fullmatch(r"\d+|(\d{1,2}|100)(\.\d+)?%", text) or text.startswith("100."):
            raise ValueError("wanted a number of tracks, such as 20, or a part of them, such as 5%")
        return text

    @field_validator("weights_mirror", "ray", "registry")
    @classmethod
    def _names_no_user(cls, url: str | None) -> str | None:
        _refuse_userinfo(url or "")
        return url


def _refuse_userinfo(*urls: str) -> None:
    """URLs travel into logs, parameters and databases."""
    if any("@" in urlsplit(url).netloc for url in urls):
        raise ValueError("a URL must not hold a user name or password; use the store's own chain")


Config = TypeVar("Config", SeparationConfig, OutputConfig, CatalogueConfig, RuntimeConfig)


def configure(cls: type[Config], values: dict[str, Any]) -> Config:
    """An object of `cls` from foreign values.

    Raises:
        ConfigError: an unknown key (the known ones are listed) or a value out of its range.
    """
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise ConfigError("; ".join(explain(cls, item) for item in error.errors())) from None


def explain(cls: type, item: Any) -> str:
    """One of pydantic's errors about `cls` in our words; the known keys for an unknown one."""
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = ", ".join(field.name for field in dataclasses.fields(cls))
        return f"{name!r} is no setting; known are {known}"
    found = item["input"]
    may_be_secret = isinstance(found, dict) or item["loc"][:1] == ("storage",) or "@" in str(found)
    shown = "" if may_be_secret else f"found {found!r}; "
    return f"{name}: {shown}{item['msg'].removeprefix('Value error, ')}"
