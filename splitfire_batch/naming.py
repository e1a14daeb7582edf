"""Where each track's stems go: a path below the destination for every track, all different.

The source tree is mirrored and names survive, except for what would break a file system or leave the
destination. Collisions are resolved here, once, over the whole listing: first by the source's extension
(`x.wav` beside `x.flac`), then by the track_id. The same listing always gives the same names.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from splitfire_batch.errors import ConfigError

OPEN_TOKENS = ("{stem}", "{ext}")
_MAX_NAME_BYTES = 200  # of 255: room for the stem, a hash and the extension
_DEVICE_NAMES = {"con", "prn", "aux", "nul", *(f"{p}{n}" for p in ("com", "lpt") for n in range(1, 10))}
_TOKEN = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class NamedTrack:
    """What names are made of: the path below the source, the id, the catalogue's columns."""

    path: str
    track_id: str
    meta: Mapping[str, str]


def make_targets(tracks: Sequence[NamedTrack], template: str, model: str) -> list[str]:
    """The path of each track's stems below the destination, `{stem}` and `{ext}` still open.

    No two are equal, also where case or Unicode normal form does not count; none leaves the destination.

    Raises:
        ConfigError: the template has a token that is neither known nor a column of the catalogue.
    """
    _check_tokens(template, tracks)
    targets = [_fill(template, model, track, "") for track in tracks]
    for suffix in (_extension, _extension_and_id):
        taken = Counter(map(_folded, targets))
        targets = [
            target if taken[_folded(target)] == 1 else _fill(template, model, track, suffix(track))
            for target, track in zip(targets, tracks, strict=True)
        ]
    return targets


def stem_path(target: str, stem: str, ext: str, digest: str | None) -> str:
    """The path of one stem; with `digest`, its first 16 hex digits end the name."""
    path = target.replace("{stem}", stem)
    return path.replace(".{ext}", f"-{digest[:16]}.{ext}" if digest else f".{ext}")


def _check_tokens(template: str, tracks: Sequence[NamedTrack]) -> None:
    known = {"model", "dir", "name", "stem", "ext", "track_id"}
    known |= set.intersection(*(set(track.meta) for track in tracks)) if tracks else set()
    unknown = sorted(set(_TOKEN.findall(template)) - known)
    if unknown:
        raise ConfigError(
            f"template {template!r} has the token {{{unknown[0]}}}; known here are {', '.join(sorted(known))}"
        )


def _fill(template: str, model: str, track: NamedTrack, suffix: str) -> str:
    folder, _, file_name = track.path.rpartition("/")
    name = file_name.rpartition(".")[0] or file_name
    values = {
        **{column: _safe(value.replace("/", "_")) for column, value in track.meta.items()},
        "model": model,
        "dir": "/".join(_safe(part) for part in folder.split("/") if part),
        "name": _shortened(_safe(name), suffix),
        "track_id": track.track_id,
    }
    if "{name}" not in template:
        template = template.removesuffix(".{ext}") + suffix + ".{ext}"
    path = _TOKEN.sub(lambda token: token[0] if token[0] in OPEN_TOKENS else values[token[1]], template)
    head, _, tail = path.rpartition("/")
    parts = [_safe(part, is_template=True) for part in head.split("/") if part]
    return "/".join([*map(_shortened, parts), tail])


def _safe(part: str, is_template: bool = False) -> str:
    """One path component without control characters, and never empty, dots only or a device's name."""
    part = "".join("_" if unicodedata.category(char) in ("Cc", "Cs") else char for char in part)
    if not is_template and any(token in part for token in OPEN_TOKENS):
        part = part.replace("{", "(").replace("}", ")")
    if not part.strip(" ."):
        return "_" * max(1, len(part))
    return f"{part}_" if part.partition(".")[0].lower() in _DEVICE_NAMES else part


def _shortened(name: str, suffix: str = "") -> str:
    """The name with its suffix, cut so that a file system takes it and what is cut still counts."""
    room = _MAX_NAME_BYTES - len(suffix.encode())
    data = name.encode()
    if len(data) <= room:
        return name + suffix
    digest = blake2b(data, digest_size=4).hexdigest()
    return data[: room - 9].decode(errors="ignore") + "~" + digest + suffix


def _extension(track: NamedTrack) -> str:
    name = track.path.rpartition("/")[2]
    return "." + _safe(name.rpartition(".")[2]) if "." in name else ""


def _extension_and_id(track: NamedTrack) -> str:
    return f"{_extension(track)}~{track.track_id}"


def _folded(target: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", target).casefold())
