"""Where tracks come from: what is audible in a folder or prefix, one object, a table; pages of `tables.TOLD`.

What is left out is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import compress, islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.spelling import is_text
from splitfire_batch.storage import Store, StoredObject, check_path, parse_url
from splitfire_batch.tables import TOLD, metas

AUDIO_EXTENSIONS = frozenset(
    {"aac", "aif", "aifc", "aiff", "caf", "flac", "m4a", "m4b", "mka", "mkv", "mov", "mp3", "mp4", "oga"}
    | {"ogg", "opus", "rf64", "w64", "wav", "wave", "webm", "wma"}
)
"""Objects of a folder that are tracks; those that nothing here decodes fail later, and say so."""
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS"})
"""Storage classes and tiers that are not read at once; GLACIER_IR is."""
_ODD_KEY = r"^/|\x00|(?:^|/)\.\.(?:/|$)"
"""What `check_path` refuses."""
_REASONS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "own records": lambda paths: pc.match_substring_regex(paths, "(?:^|/)_splitfire/"),
    "hidden": lambda paths: pc.match_substring_regex(paths, r"(?:^|/)\.(?:$|/|[^./]|\.[^/])"),
    "not audio": lambda paths: pc.invert(
        pc.match_substring_regex(pc.utf8_lower(paths), rf"\.(?:{'|'.join(sorted(AUDIO_EXTENSIONS))})$")
    ),
}
"""What `why_ignored` says of a path that is text, in its order, by whether it is so."""
_PAGE = 10_000
Listed = tuple[str, str, int, str, str | None]
"""uri, path, n_bytes, etag and problem of an object as a listing shows it."""


def folder_pages(store: Store, destination: str | None, ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
    """Everything audible below a root, without the stems that a link there may lead to."""
    scheme, folder = parse_url(destination) if destination else ("", "")
    objects = store.list(folder if scheme == "file" else None, ignored)
    while page := list(islice(objects, _PAGE)):
        yield _audible(store, page, ignored)


def _audible(store: Store, page: list[StoredObject], ignored: Counter[str]) -> pa.RecordBatch:
    """The tracks among some objects: `why_ignored` says what is none, here of all of them at once."""
    try:
        paths = pa.array([found.path for found in page], pa.string())
    except UnicodeEncodeError:
        ignored.update(str(why_ignored(found.path)) for found in page if not is_text(found.path))
        return _audible(store, [found for found in page if is_text(found.path)], ignored)
    is_track = pa.array(np.ones(len(page), bool))
    for reason, is_so in _REASONS.items():
        is_left_out = pc.and_(is_track, is_so(paths))
        count(ignored, reason, is_left_out)
        is_track = pc.and_not(is_track, is_left_out)
    tracks = list(compress(page, is_track.to_pylist()))
    paths = paths.filter(is_track)
    odd = pc.match_substring_regex(paths, _ODD_KEY).to_numpy(zero_copy_only=False)
    archived = np.array([found.storage_class in _ARCHIVES for found in tracks], bool)
    problems: list[str | None] = [None] * len(tracks)
    for index in np.flatnonzero(odd | archived).tolist():
        problems[index] = problem_of(tracks[index].path, tracks[index].storage_class)
    return _batch(
        pc.binary_join_element_wise(store.url.rstrip("/"), paths, "/"),
        paths,
        pa.array([found.n_bytes for found in tracks], pa.int64()),
        pa.array([found.etag for found in tracks], pa.string()),
        pa.array(problems, pa.string()),
    )


def problem_of(path: str, storage_class: str | None, access_tier: str | None = None) -> str | None:
    """Why an object that a bucket lists cannot be read: its key, or it must be restored first; else None.

    Args:
        path: below the root.
        storage_class: as S3 names it.
        access_tier: of the class INTELLIGENT_TIERING, where it is told.
    """
    try:
        check_path(path)
    except ValueError as error:  # a bucket may hold such keys
        return f"BAD_URI: {error}"
    if storage_class in _ARCHIVES or access_tier in _ARCHIVES:
        where = storage_class if storage_class in _ARCHIVES else access_tier
        return f"ARCHIVED: it lies in {where}; restore it to a class that can be read, and run the job again"
    return None


def why_ignored(path: str) -> str | None:
    """The reason why an object of a folder is no track; None for a track."""
    *folders, name = path.split("/")
    if "_splitfire" in folders:
        return "own records"
    if any(part.startswith(".") and part != ".." for part in (*folders, name)):
        return "hidden"
    if "." not in name or name.rpartition(".")[2].lower() not in AUDIO_EXTENSIONS:
        return "not audio"
    if not is_text(path):
        return "name is not UTF-8"
    return None


def object_pages(store: Store, path: str) -> Iterator[pa.RecordBatch]:
    """One object, whatever its name."""
    found = store.stat(path)
    yield page_of([(store.uri_of(path), path, found.n_bytes, found.etag, None)])


def page_of(rows: list[Listed]) -> pa.RecordBatch:
    """Objects as TOLD."""
    names = ("uri", "path", "n_bytes", "etag", "problem")
    return _batch(
        *(pa.array([row[index] for row in rows], TOLD.field(name).type) for index, name in enumerate(names))
    )


def _batch(*columns: pa.Array) -> pa.RecordBatch:
    """TOLD, from the columns of Listed."""
    uri, path, n_bytes, etag, problem = columns
    made = {"uri": uri, "path": path, "name": path, "n_bytes": n_bytes, "etag": etag, "problem": problem}
    made |= {"duration_s": pa.nulls(len(path), pa.float64()), "meta": metas([], len(path))}
    return pa.RecordBatch.from_arrays([made[name] for name in TOLD.names], schema=TOLD)


def named_pages(pages: Iterable[pa.RecordBatch], ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
    """Of the rows of a table those that name something, and none of our own records."""
    for page in pages:
        has_uri = pc.is_valid(page["uri"])
        is_own = pc.fill_null(pc.match_substring_regex(page["path"], "(?:^|/)_splitfire(?:/|$)"), False)
        count(ignored, "no uri", pc.invert(has_uri))
        count(ignored, "own records", is_own)
        yield page.filter(pc.and_not(has_uri, is_own))


def count(ignored: Counter[str], reason: str, is_so: pa.Array) -> None:
    """Add the number of truths to what is ignored for that reason."""
    n = pc.sum(is_so).as_py()
    if n:
        ignored[reason] += n
