"""The promises about a destination, checked from outside: with pyarrow, hashlib and soundfile alone.

Nothing of the library is used, so that it is not its own judge. The rules are those of the design: a part
is named by its bytes, a stem is as its row says, every track has one row that counts, views agree with it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq
import s3fs
import soundfile

Row = dict[str, Any]


class Objects(Protocol):
    """What a destination holds."""

    def paths(self) -> list[str]:
        """Every object, temporary ones included."""

    def read(self, path: str) -> bytes:
        """All bytes of one."""


@dataclass(frozen=True)
class FolderObjects:
    """A destination on this machine."""

    root: Path

    def paths(self) -> list[str]:
        return [str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()]

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()


class BucketObjects:
    """A destination on the S3 server that the environment names."""

    def __init__(self, url: str) -> None:
        self._fs = _filesystem(os.environ["AWS_ENDPOINT_URL"])
        self._root = url.removeprefix("s3://")

    def paths(self) -> list[str]:
        return [str(key).removeprefix(f"{self._root}/") for key in self._fs.find(self._root)]

    def read(self, path: str) -> bytes:
        data: bytes = self._fs.cat_file(f"{self._root}/{path}")
        return data


@functools.cache
def _filesystem(endpoint: str) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(endpoint_url=endpoint, use_listings_cache=False, skip_instance_cache=True)


def objects_at(url: str) -> Objects:
    """The destination at a folder or s3:// URL."""
    return BucketObjects(url) if url.startswith("s3://") else FolderObjects(Path(url))


@dataclass
class Findings:
    """What is not as promised, each in words; all empty when every promise holds."""

    lost: list[str] = field(default_factory=list)
    """Tracks of the catalogue without a row that counts, or with another status than they deserve."""
    wrong: list[str] = field(default_factory=list)
    """Parts, rows, stems and views that contradict each other."""
    duplicate: list[str] = field(default_factory=list)
    """Tracks with more than one row that counts."""
    redone: list[str] = field(default_factory=list)
    """Tracks that were committed more than once from the same bytes."""
    unreferenced: list[str] = field(default_factory=list)
    """Stems that no row names."""
    temporary: list[str] = field(default_factory=list)
    """What writes that were cut off left."""

    def __str__(self) -> str:
        return "; ".join(f"{f.name}: {getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name))


def inspect(
    objects: Objects,
    wanted: Mapping[str, int | str],
    is_immutable: bool,
    is_complete: bool = True,
    is_vacuumed: bool = False,
) -> Findings:
    """What is not as promised in a destination.

    Args:
        objects: what it holds.
        wanted: by path in the catalogue, the frames that each track's stems have, or the code of its failure.
        is_immutable: names end in the hash of their bytes, so rows of older runs must hold too.
        is_complete: the job has been run to its end; else tracks may be without rows, and views be old.
        is_vacuumed: stems that only rows of the past name have been removed.
    """
    found = Findings()
    paths = objects.paths()
    rows = _rows(objects, paths, found)
    current = resolve(rows)
    holding = rows if is_immutable and not is_vacuumed else current
    for row in holding:
        _check_row(objects, set(paths), row, wanted, found)
    done = [
        (row["track_id"], row["source_id"], row["settings_id"]) for row in rows if row["status"] != "failed"
    ]
    found.redone += sorted({key[0] for key in done if done.count(key) > 1})
    referenced = {stem["path"] for row in (current if is_vacuumed else rows) for stem in row["stems"]}
    for path in paths:
        if re.search(r"(^|/)\.splitfire-\w+\.tmp$", path):
            found.temporary.append(path)
        elif not path.startswith("_splitfire/") and path not in referenced:
            found.unreferenced.append(path)
    if is_complete:
        _check_complete(current, wanted, found)
        _check_views(objects, paths, current, found)
    return found


def settled(objects: Objects, by: str = "track_id") -> set[str]:
    """The track_id, or another column, of every track that no later run needs to try again."""
    rows = _rows(objects, objects.paths(), Findings())
    return {row[by] for row in rows if row["status"] != "failed" or not row["is_retryable"]}


def recorded(objects: Objects) -> set[str]:
    """The track_id of every track that has a row."""
    return {row["track_id"] for row in _rows(objects, objects.paths(), Findings())}


def _rows(objects: Objects, paths: Iterable[str], found: Findings) -> list[Row]:
    """Every row of every part whose bytes hash to its name."""
    rows: list[Row] = []
    for path in sorted(paths):
        if not re.fullmatch(r"_splitfire/parts/\w+/[^/]+/[^/]+\.parquet", path):
            continue
        data = objects.read(path)
        if not path.endswith(f"-{hashlib.sha256(data).hexdigest()[:16]}.parquet"):
            found.wrong.append(f"{path} has bytes of another name")
            continue
        rows += pq.read_table(io.BytesIO(data)).to_pylist()
    return rows


def resolve(rows: Iterable[Row]) -> list[Row]:
    """Per track and settings the newest run's row; in a run the earliest done one, else the latest failed."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["track_id"], row["settings_id"]].append(row)
    chosen = []
    for group in groups.values():
        newest = max(row["run_id"] for row in group)
        of_run = [row for row in group if row["run_id"] == newest]
        settled = [row for row in of_run if row["status"] != "failed"]
        chosen.append(
            min(settled, key=lambda row: row["finished_at"])
            if settled
            else max(of_run, key=lambda row: row["finished_at"])
        )
    return chosen


def _check_row(
    objects: Objects, paths: set[str], row: Row, wanted: Mapping[str, int | str], found: Findings
) -> None:
    """A done row has stems, and each is there, byte for byte and frame for frame as the row says."""
    what = f"{row['path']} of {row['run_id']}"
    if row["status"] == "done" and not row["stems"]:
        found.wrong.append(f"{what} is done without stems")
    for stem in row["stems"]:
        if stem["path"] not in paths:
            found.wrong.append(f"{what}: {stem['path']} is missing")
            continue
        data = objects.read(stem["path"])
        if hashlib.sha256(data).hexdigest() != stem["sha256"] or len(data) != stem["n_bytes"]:
            found.wrong.append(f"{what}: {stem['path']} has other bytes than its row says")
            continue
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            n_frames = len(file.read(dtype="int16"))
        if not n_frames == stem["n_frames"] == wanted.get(row["path"]):
            found.wrong.append(f"{what}: {stem['path']} has {n_frames} frames")


def _check_complete(current: Iterable[Row], wanted: Mapping[str, int | str], found: Findings) -> None:
    by_path: dict[str, list[Row]] = defaultdict(list)
    for row in current:
        by_path[row["path"]].append(row)
    for path, expected in wanted.items():
        rows = by_path.pop(path, [])
        if not rows:
            found.lost.append(f"{path} has no row")
        elif len(rows) > 1:
            found.duplicate.append(path)
        elif (rows[0]["code"] if isinstance(expected, str) else rows[0]["status"]) != (
            expected if isinstance(expected, str) else "done"
        ):
            found.lost.append(f"{path} is {rows[0]['status']} {rows[0]['code']}: {rows[0]['message']}")
    found.wrong += [f"{path} is no track of the catalogue" for path in by_path]


def _check_views(objects: Objects, paths: list[str], current: list[Row], found: Findings) -> None:
    """The views hold the rows that count and their stems, and are the pair that view.json names."""
    names = [f"_splitfire/views/{name}" for name in ("tracks.parquet", "stems.parquet", "view.json")]
    if missing := [name for name in names if name not in paths]:
        found.wrong.append(f"views are missing: {missing}")
        return
    tracks, stems, view = (objects.read(name) for name in names)
    told = json.loads(view)["sha256"]
    held = {
        "tracks.parquet": hashlib.sha256(tracks).hexdigest(),
        "stems.parquet": hashlib.sha256(stems).hexdigest(),
    }
    if told != held:
        found.wrong.append("view.json names other views than there are")
    key = ("track_id", "settings_id", "run_id", "source_id", "status")
    shown = sorted(tuple(row[name] for name in key) for row in pq.read_table(io.BytesIO(tracks)).to_pylist())
    if shown != sorted(tuple(row[name] for name in key) for row in current):
        found.wrong.append("the view of tracks has other rows than those that count")
    shown_stems = sorted(row["sha256"] for row in pq.read_table(io.BytesIO(stems)).to_pylist())
    if shown_stems != sorted(stem["sha256"] for row in current for stem in row["stems"]):
        found.wrong.append("the view of stems has other stems than the rows that count")
