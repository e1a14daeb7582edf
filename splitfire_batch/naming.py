"""Where each track's stems go: a path below the destination for every track, all different.

The source tree is mirrored and names survive, except for what would break a file system or leave the
destination. Collisions are resolved here, over the whole listing and what the destination holds: first by
the source's extension (`x.wav` beside `x.flac`), then by the track_id. The same listing always gives the same
names, and a name once given stays.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from splitfire_batch.errors import ConfigError

OPEN_TOKENS = ("{stem}", "{ext}")
_MAX_NAME_BYTES = 200  # of 255: room for the stem, a hash and the extension
_MAX_EXTENSION_BYTES = 16
_DEVICE_NAMES = {"con", "prn", "aux", "nul", *(f"{p}{n}" for p in ("com", "lpt") for n in range(1, 10))}
_TOKEN = re.compile(r"\{([^{}]*)\}")
NO_NAMES: Mapping[str, str | None] = {}


@dataclass(frozen=True, slots=True)
class NamedTrack:
    """What names are made of: the path below the source, the id, the catalogue's columns."""

    path: str
    track_id: str
    meta: Mapping[str, str]


def make_targets(
    tracks: Sequence[NamedTrack], template: str, model: str, held: Mapping[str, str | None] = NO_NAMES
) -> list[str]:
    """The path of each track's stems below the destination, `{stem}` and `{ext}` still open.

    No two are equal, also where case or Unicode normal form does not count; none leaves the destination.

    Args:
        tracks: the whole listing.
        template: as in `OutputConfig`.
        model: value of its token.
        held: targets by track_id that the destination holds. A track keeps its own if it fits the template;
            nobody gets another's.

    Raises:
        ConfigError: the template has a token that is neither known nor a column of the catalogue, or two
            tracks have the same track_id.
    """
    _check_tokens(template, tracks)
    owners = {_folded(target): track_id for track_id, target in held.items() if target}
    targets = [_fill(template, model, track, "") for track in tracks]
    kept = set()
    for i, track in enumerate(tracks):
        own = held.get(track.track_id)
        if own and own in {_fill(template, model, track, suffix(track)) for suffix in _SUFFIXES}:
            targets[i] = own
            kept.add(i)
    folded = [_folded(target) for target in targets]
    # the last suffix twice: a file's own name may end in what another track only just got
    for suffix in (_extension, _extension_and_id, _extension_and_id):
        taken = Counter(folded)
        for i, key in enumerate(folded):
            is_free = taken[key] == 1 and owners.get(key, tracks[i].track_id) == tracks[i].track_id
            if not is_free and i not in kept:
                targets[i] = _fill(template, model, tracks[i], suffix(tracks[i]))
                folded[i] = _folded(targets[i])
    twice = [key for key, n in Counter(folded).items() if n > 1]
    if twice:
        raise ConfigError(f"several tracks would be {twice[0]!r}; put {{track_id}} into the template")
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
    has_name = "{name}" in template
    room = _room(template.rpartition("/")[2], "" if has_name else suffix)
    values = {
        **{column: _shortened(_safe(value.replace("/", "_")), room) for column, value in track.meta.items()},
        "model": model,
        "dir": "/".join(_shortened(_safe(part), room) for part in folder.split("/") if part),
        "name": _shortened(_safe(name), room, suffix),
        "track_id": track.track_id,
    }
    path = _TOKEN.sub(lambda token: token[0] if token[0] in OPEN_TOKENS else values[token[1]], template)
    if not has_name:
        path = path.removesuffix(".{ext}") + suffix + ".{ext}"
    head, _, tail = path.rpartition("/")
    parts = [_safe(part, is_template=True) for part in head.split("/") if part]
    return "/".join([*(_shortened(part, _MAX_NAME_BYTES) for part in parts), tail])


def _room(file_template: str, suffix: str) -> int:
    """Bytes for each value, so that all values in the file's name fit together."""
    n_values = sum(token not in OPEN_TOKENS for token in re.findall(r"\{[^{}]*\}", file_template))
    return (_MAX_NAME_BYTES - len(suffix.encode())) // max(1, n_values)


def _safe(part: str, is_template: bool = False) -> str:
    """One path component without control characters, and never empty, dots only or a device's name."""
    if not (part.isascii() and part.isprintable()):
        part = "".join("_" if unicodedata.category(char) in ("Cc", "Cs") else char for char in part)
    if not is_template and any(token in part for token in OPEN_TOKENS):
        part = part.replace("{", "(").replace("}", ")")
    if not part.strip(" ."):
        return "_" * max(1, len(part))
    return f"{part}_" if part.partition(".")[0].lower() in _DEVICE_NAMES else part


def _shortened(name: str, room: int, suffix: str = "") -> str:
    """The name with its suffix, cut to `room` bytes in such a way that what is cut still counts."""
    data = name.encode()
    if len(data) + len(suffix.encode()) <= room:
        return name + suffix
    digest = blake2b(data, digest_size=4).hexdigest()
    kept = max(0, room - len(suffix.encode()) - 9)
    return data[:kept].decode(errors="ignore") + "~" + digest + suffix


def _extension(track: NamedTrack) -> str:
    name = track.path.rpartition("/")[2]
    return "." + _shortened(_safe(name.rpartition(".")[2]), _MAX_EXTENSION_BYTES) if "." in name else ""


def _extension_and_id(track: NamedTrack) -> str:
    return f"{_extension(track)}~{track.track_id}"


_SUFFIXES: tuple[Callable[[NamedTrack], str], ...] = (lambda _: "", _extension, _extension_and_id)
"""What may stand behind a name, by preference."""


def _folded(target: str) -> str:
    """Equal for what some file system takes for equal (Unicode's definition D145)."""
    if target.isascii():
        return target.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", target).casefold())
