"""Where tracks come from: what is audible in a folder or prefix, one object, a table; pages of `tables.TOLD`.

What is left out is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

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


def folder_pages(store: Store, destination: str | None, ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
    """Everything audible below a root, without the stems that a link there may lead to."""
    scheme, folder = parse_url(destination) if destination else ("", "")
    objects = store.list(folder if scheme == "file" else None, ignored)
    while page := list(islice(objects, _PAGE)):
        yield _audible(store, page, ignored)


def _audible(store: Store, page: list[StoredObject], ignored: Counter[str]) -> pa.RecordBatch:
    """The tracks among some objects."""
    try:
        paths = pa.array([found.path for found in page], pa.string())
    except UnicodeEncodeError:
        ignored.update(str(why_ignored(found.path)) for found in page if not is_text(found.path))
        return _audible(store, [found for found in page if is_text(found.path)], ignored)
    columns = {
        "path": paths,
        "n_bytes": pa.array([found.n_bytes for found in page], pa.int64()),
        "etag": pa.array([found.etag for found in page], pa.string()),
        "storage_class": pa.array([found.storage_class for found in page], pa.string()),
        "access_tier": pa.nulls(len(page), pa.string()),
    }
    return tracks_of(store.url, pa.RecordBatch.from_pydict(columns), ignored)


def tracks_of(root: str, objects: pa.RecordBatch, ignored: Counter[str]) -> pa.RecordBatch:
    """The tracks among some objects as TOLD: `why_ignored` and `problem_of` of all of them at once.

    Args:
        root: URL of the folder or prefix.
        objects: path below it, n_bytes, etag, and storage_class and access_tier as S3 names them, or null.
        ignored: counts those that are no tracks, by reason.
    """
    for reason, is_so in _REASONS.items():
        objects = left(objects, is_so(objects["path"]), reason, ignored)
    paths, where = objects["path"], [objects["storage_class"], objects["access_tier"]]
    is_odd = pc.match_substring_regex(paths, _ODD_KEY)
    for column in where:
        is_odd = pc.or_(is_odd, pc.is_in(column, value_set=pa.array(_ARCHIVES)))
    problems: list[str | None] = [None] * len(paths)
    for index in np.flatnonzero(is_odd.to_numpy(zero_copy_only=False)):
        problems[index] = problem_of(paths[index].as_py(), *(column[index].as_py() for column in where))
    return _batch(
        pc.binary_join_element_wise(root.rstrip("/"), paths, "/"),
        paths,
        objects["n_bytes"],
        objects["etag"],
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
    values = (store.uri_of(path), path, found.n_bytes, found.etag, None)
    names = ("uri", "path", "n_bytes", "etag", "problem")
    yield _batch(
        *(pa.array([value], TOLD.field(name).type) for name, value in zip(names, values, strict=True))
    )


def _batch(
    uri: pa.Array, path: pa.Array, n_bytes: pa.Array, etag: pa.Array, problem: pa.Array
) -> pa.RecordBatch:
    """TOLD, where nothing else is known."""
    made = {"uri": uri, "path": path, "name": path, "n_bytes": n_bytes, "etag": etag, "problem": problem}
    made |= {"duration_s": pa.nulls(len(path), pa.float64()), "meta": metas([], len(path))}
    return pa.RecordBatch.from_arrays([made[name] for name in TOLD.names], schema=TOLD)


def named_pages(pages: Iterable[pa.RecordBatch], ignored: Counter[str]) -> Iterator[pa.RecordBatch]:
    """Of the rows of a table those that name something, and none of our own records."""
    for page in pages:
        named = left(page, pc.is_null(page["uri"]), "no uri", ignored)
        is_own = pc.fill_null(pc.match_substring_regex(named["path"], "(?:^|/)_splitfire(?:/|$)"), False)
        yield left(named, is_own, "own records", ignored)


def left(rows: pa.RecordBatch, is_out: pa.Array, reason: str, ignored: Counter[str]) -> pa.RecordBatch:
    """The rows that are not out; those that are, are counted."""
    n_out = pc.sum(is_out).as_py()
    if not n_out:
        return rows
    ignored[reason] += n_out
    return rows.filter(pc.invert(is_out))
