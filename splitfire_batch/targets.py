"""Targets of a whole listing, a batch of Arrow columns at a time: what `naming` says track by track.

Most paths need no care: nothing in them is replaced, shortened or escaped, so a target is a few columns put
together. Regular expressions find the others, some of them needlessly, and `naming` itself spells those.
Clashes are for it to resolve as well; `clashes` finds the few tracks that have part in one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.naming import (
    BUILT_IN_TOKENS,
    MAX_FOLDER_BYTES,
    MAX_NAME_BYTES,
    OPEN_NAMES,
    NamedTrack,
    check_tokens,
    room_of,
    spellings,
    tokens_of,
)
from splitfire_batch.spelling import DEVICE_PATTERN, FILE_ENDINGS, OPEN_TOKENS, UNSAFE_PATTERN, folded

NAMED = ("path", "track_id", "meta")
"""Columns of a listing that names are made of."""
_ODD_VALUE = rf"(?i)[{UNSAFE_PATTERN}{{}}/]|\?versionId=|^[. ]*$|^(?:{DEVICE_PATTERN}) *(?:\.|$)"
_ODD_PATH = (
    rf"(?i)[{UNSAFE_PATTERN}{{}}]|\?versionId=|(?:^|/)[. /]|[. ]/|/$|^$"
    rf"|(?:^|/)(?:{DEVICE_PATTERN}) *(?:[./]|$)"
)
_ODD_TARGET = (
    rf"(?i)\?versionId=|[. ]/|(?:^|/)(?:{DEVICE_PATTERN}) *[./]"
    rf"|(?:^|[./])(?:{'|'.join(sorted(FILE_ENDINGS))})/|^_splitfire/|^_[^/]*[^\x00-\x7f][^/]*/"
)


def check_columns(metas: Iterable[pa.MapArray], n_tracks: int, template: str) -> None:
    """Refuse a template with a token that is no column of every track.

    Args:
        metas: the listing's `meta`, in any number of arrays.
        n_tracks: how many tracks there are.
        template: as in `OutputConfig`.

    Raises:
        ConfigError: such a token; the message lists the known ones.
    """
    if not n_tracks or tokens_of(template) <= BUILT_IN_TOKENS | OPEN_NAMES:
        return
    counts: Counter[str] = Counter()
    for meta in metas:
        found = pc.value_counts(meta.keys)
        counts.update(dict(zip(*(found.field(n).to_pylist() for n in (0, 1)), strict=True)))
    check_tokens(template, {name for name, n in counts.items() if n >= n_tracks})


def first_targets(batch: pa.RecordBatch, template: str, model: str) -> pa.Array:
    """Each track's target as it is when nobody else wants it: the first of `naming.spellings`.

    Args:
        batch: with the columns NAMED.
        template: as in `OutputConfig`; its tokens were checked.
        model: value of its token.
    """
    path, room = batch["path"], room_of(template)
    values: dict[str, pa.Array | str] = {
        "model": model,
        "dir": pc.replace_substring_regex(path, r"/?[^/]*$", ""),
        "name": pc.replace_substring_regex(path, r"^.*/|\.[^./]*$", ""),
        "track_id": batch["track_id"],
    }
    is_odd = pc.or_(_is_match(path, _ODD_PATH, room), pc.greater(pc.binary_length(path), MAX_FOLDER_BYTES))
    for column in sorted(tokens_of(template) - BUILT_IN_TOKENS - OPEN_NAMES):
        values[column] = pc.map_lookup(batch["meta"], pa.scalar(column), "last")
        is_odd = pc.or_(is_odd, _is_match(values[column], _ODD_VALUE, room))
    parts = [values.get(part, f"{{{part}}}") if n % 2 else part for n, part in enumerate(_parts(template))]
    parts[0] = pa.repeat(pa.scalar(parts[0]), len(batch))  # a template may have no column in it
    made = pc.binary_join_element_wise(*parts, "")
    made = pc.replace_substring_regex(pc.replace_substring_regex(made, "/{2,}", "/"), "^/", "")
    n_open = sum(template.rpartition("/")[0].count(token) for token in OPEN_TOKENS)
    is_odd = pc.fill_null(pc.or_(is_odd, _is_match(made, _ODD_TARGET, MAX_NAME_BYTES // (1 + n_open))), True)
    if not pc.any(is_odd).as_py():
        return made
    exact = [spellings(track, template, model)[0] for track in named_tracks(batch.filter(is_odd))]
    return pc.replace_with_mask(made, is_odd, pa.array(exact, pa.string()))


def _is_match(column: pa.Array, pattern: str, room: int) -> pa.Array:
    """Whether the pattern is found, or a part between slashes that may have more than `room` bytes."""
    is_ascii = pc.string_is_ascii(column)
    is_long = pc.if_else(is_ascii, _has_part_of(column, room + 1), _has_part_of(column, room // 4 + 1))
    return pc.or_(pc.match_substring_regex(column, pattern), is_long)


def _has_part_of(column: pa.Array, letters: int) -> pa.Array:
    return pc.match_substring_regex(column, f"[^/]{{{letters}}}")


def _parts(template: str) -> list[str]:
    """Its texts, and between them the names of its tokens."""
    return re.split(r"\{([^{}]*)\}", template)


def named_tracks(rows: pa.RecordBatch | pa.Table) -> list[NamedTrack]:
    """Some of a listing's rows for `naming`."""
    columns = zip(*(rows[name].to_pylist() for name in NAMED), strict=True)
    return [NamedTrack(path, track_id, dict(meta or ())) for path, track_id, meta in columns]


def folded_all(targets: pa.Array) -> pa.Array:
    """`spelling.folded` of each."""
    is_other = pc.invert(pc.string_is_ascii(targets))
    low = pc.ascii_lower(targets)
    if not pc.any(is_other).as_py():
        return low
    exact = [folded(target) for target in targets.filter(is_other).to_pylist()]
    return pc.replace_with_mask(low, is_other, pa.array(exact, pa.string()))
