"""Where each track's stems go: a path below the destination for every track, all different.

The source tree is mirrored and names survive, except for what would break a file system, mislead a reader or
leave the destination (`spelling`). Collisions are resolved here, over the whole listing and what the
destination holds, for every stem there may be: first by the source's extension (`x.wav` beside `x.flac`),
then by the track_id. The same listing always gives the same names, and a name once given stays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from splitfire_batch.errors import ConfigError
from splitfire_batch.spelling import OPEN_TOKENS, folded, safe_folder, safe_part, shortened

MAX_NAME_BYTES = 200  # of 255: room for the stem, a hash and the extension
MAX_FOLDER_BYTES = 640  # of the 1,024 of a key: room for the name, and for the destination's own prefix
_MAX_EXTENSION_BYTES = 16
_MIN_VALUE_BYTES = 16
_OWN_FOLDER = "_splitfire"
BUILT_IN_TOKENS = frozenset({"model", "dir", "name", "track_id"})
OPEN_NAMES = frozenset({"stem", "ext"})
_TOKEN = re.compile(r"\{([^{}]*)\}")
NO_NAMES: Mapping[str, str | None] = {}


@dataclass(frozen=True, slots=True)
class NamedTrack:
    """What names are made of: the path below the source, the id, the catalogue's columns."""

    path: str
    track_id: str
    meta: Mapping[str, str]


def make_targets(
    tracks: Sequence[NamedTrack],
    template: str,
    model: str,
    held: Mapping[str, str | None] = NO_NAMES,
    stems: Sequence[str] = (),
) -> list[str]:
    """The path of each track's stems below the destination, `{stem}` and `{ext}` still open.

    No two are equal, nor are any of their stems' paths, also where case or Unicode normal form does not
    count; none leaves the destination.

    Args:
        tracks: the whole listing.
        template: as in `OutputConfig`.
        model: value of its token.
        held: targets by track_id that the destination holds. A track keeps its own if it fits the template;
            nobody gets another's.
        stems: every stem that may ever be written, for the paths that only they make equal (`{name}_{stem}`:
            the lead_vocals of `a` and the vocals of `a_lead`).

    Raises:
        ConfigError: the template has a token that is neither known nor a column of the catalogue, or two
            tracks have the same track_id.
    """
    if tracks:
        check_tokens(template, set.intersection(*(set(track.meta) for track in tracks)))
    owners = {folded(target): track_id for track_id, target in held.items() if target}
    targets, kept = _first_choice(tracks, template, model, held)
    keys = [folded(target) for target in targets]
    # the last suffix three times: a file's own name may end in what another track only just got, and stems'
    # paths are compared only once the targets differ
    for suffix in (_extension, _extension_and_id, _extension_and_id, _extension_and_id):
        clashing = _clashing(keys, tracks, owners, stems)
        for i in set(clashing) - kept:
            targets[i] = _fill(template, model, tracks[i], suffix(tracks[i]))
            keys[i] = folded(targets[i])
        if not clashing:
            return targets
    twice = set(_clashing(keys, tracks, owners, stems)) - kept
    if twice:
        first = targets[min(twice)]
        raise ConfigError(f"several tracks would be {first!r}; put {{track_id}} into the template")
    return targets


def _first_choice(
    tracks: Sequence[NamedTrack], template: str, model: str, held: Mapping[str, str | None]
) -> tuple[list[str], set[int]]:
    """What each track holds, or else its plain name, and which ones hold it."""
    targets = [_fill(template, model, track, "") for track in tracks]
    kept = set()
    for i, track in enumerate(tracks):
        own = held.get(track.track_id)
        if own and own in spellings(track, template, model):
            targets[i] = own
            kept.add(i)
    return targets, kept


def _clashing(
    keys: Sequence[str], tracks: Sequence[NamedTrack], owners: Mapping[str, str], stems: Sequence[str]
) -> list[int]:
    """The tracks whose target is another's; if there are none, those with a stem whose path is another's."""
    taken = Counter(keys)
    ids = [track.track_id for track in tracks]
    same = [i for i, key in enumerate(keys) if taken[key] > 1 or owners.get(key, ids[i]) != ids[i]]
    return same or [
        i for i in _same_stems([*keys, *owners], [*ids, *owners.values()], stems) if i < len(keys)
    ]


def _same_stems(keys: Sequence[str], ids: Sequence[str], stems: Sequence[str]) -> list[int]:
    """The targets with a stem whose path is that of another track's stem."""
    # by hash first: the paths of a million tracks would fill the memory
    paths = (key.replace("{stem}", stem) for key in keys for stem in stems)
    hashes = np.fromiter(map(hash, paths), np.int64, len(keys) * len(stems))
    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    users: dict[str, dict[int, str]] = {}
    for place in np.flatnonzero(np.isin(hashes, twice)).tolist() if len(twice) else []:
        i, stem = divmod(place, len(stems))
        users.setdefault(keys[i].replace("{stem}", stems[stem]), {})[i] = ids[i]
    return sorted({i for found in users.values() if len(set(found.values())) > 1 for i in found})


def stem_path(target: str, stem: str, ext: str, digest: str | None) -> str:
    """The path of one stem; with `digest`, its first 16 hex digits end the name."""
    path = target.replace("{stem}", stem)
    return path.replace(".{ext}", f"-{digest[:16]}.{ext}" if digest else f".{ext}")


def check_tokens(template: str, columns: AbstractSet[str]) -> None:
    """Refuse tokens that are neither known nor among the `columns` that every track has.

    Raises:
        ConfigError: the first such token; the message lists the known ones.
    """
    known = {*BUILT_IN_TOKENS, *OPEN_NAMES, *columns}
    unknown = sorted(tokens_of(template) - known)
    if unknown:
        raise ConfigError(
            f"template {template!r} has the token {{{unknown[0]}}}; known here are {', '.join(sorted(known))}"
        )


def tokens_of(template: str) -> set[str]:
    """The names in braces."""
    return set(_TOKEN.findall(template))


def spellings(track: NamedTrack, template: str, model: str) -> tuple[str, ...]:
    """Every target that the track may get, by preference."""
    return tuple(_fill(template, model, track, suffix(track)) for suffix in _SUFFIXES)


def _fill(template: str, model: str, track: NamedTrack, suffix: str) -> str:
    folder, _, file_name = track.path.rpartition("/")
    name = file_name.rpartition(".")[0] or file_name
    has_name = "{name}" in template
    room = room_of(template, "" if has_name else suffix)
    parts = [shortened(safe_part(part), room) for part in folder.split("/") if part]
    values = {
        **{
            column: shortened(safe_part(value.replace("/", "_")), room)
            for column, value in track.meta.items()
        },
        "model": model,
        "dir": shortened("/".join(parts), MAX_FOLDER_BYTES),
        "name": shortened(safe_part(name), room, suffix),
        "track_id": track.track_id,
    }
    path = _TOKEN.sub(lambda token: token[0] if token[0] in OPEN_TOKENS else values[token[1]], template)
    if not has_name:
        path = path.removesuffix(".{ext}") + suffix + ".{ext}"
    head, _, tail = path.rpartition("/")
    folders = [_folder(part) for part in head.split("/") if part]
    if folders and folded(folders[0]) == _OWN_FOLDER:
        folders[0] += "_"
    return "/".join([*folders, tail])


def _folder(part: str) -> str:
    """One folder of a filled template; cut around open tokens, which must stay."""
    texts = re.split(r"(\{stem\}|\{ext\})", part)
    room = MAX_NAME_BYTES // (len(texts) // 2 + 1)
    return safe_folder("".join(text if text in OPEN_TOKENS else shortened(text, room) for text in texts))


def room_of(template: str, suffix: str = "") -> int:
    """Bytes for each value, so that all values and the template's own text fit into the file's name."""
    file_template = template.rpartition("/")[2]
    n_values = sum(token not in OPEN_TOKENS for token in re.findall(r"\{[^{}]*\}", file_template))
    text = _TOKEN.sub("", file_template) + suffix
    return max(_MIN_VALUE_BYTES, (MAX_NAME_BYTES - len(text.encode())) // max(1, n_values))


def _extension(track: NamedTrack) -> str:
    name = track.path.rpartition("/")[2]
    return "." + shortened(safe_part(name.rpartition(".")[2]), _MAX_EXTENSION_BYTES) if "." in name else ""


def _extension_and_id(track: NamedTrack) -> str:
    return f"{_extension(track)}~{track.track_id}"


_SUFFIXES: tuple[Callable[[NamedTrack], str], ...] = (lambda _: "", _extension, _extension_and_id)
"""What may stand behind a name, by preference."""
