"""What a destination holds against what its manifest says, from storage alone.

One listing is compared with the rows; then each track is audited as deep as is asked for. Of each track and
settings the row that counts is taken, as `manifest.current_rows` chooses it. Objects that no row names are
counted, not judged: a run that was cut off leaves such.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import compress, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.audit import Audit, Bench, Depth, Sums, audit
from splitfire_batch.config import SeparationConfig, configure
from splitfire_batch.errors import ConfigError
from splitfire_batch.findings import Claim, Finding, StemClaim
from splitfire_batch.identity import is_sampled
from splitfire_batch.manifest.holdings import Holding, read_holdings
from splitfire_batch.manifest.ledger import ROOT, current_rows
from splitfire_batch.models import find_card
from splitfire_batch.null_test import sums_of
from splitfire_batch.stems import is_complete, make_recipes, parts_of_mix
from splitfire_batch.storage import Options, Store, Stores, open_store
from splitfire_batch.stored import listed

_PAGE = 1_000
_STEM = tuple(field.name for field in fields(StemClaim))
_CLAIM = tuple(field.name for field in fields(Claim) if field.name not in ("stems", "left_out"))
_COLUMNS = ("track_id", "run_id", "status", "finished_at", "stems", *_CLAIM)


@dataclass(frozen=True, slots=True)
class Checks:
    """How far to look."""

    depth: Depth = "full"
    percent: float | None = None
    """Only this many percent of the tracks, always the same ones; None for all."""
    n_threads: int = 8
    """Tracks that are read at the same time."""
    scratch: Path | None = None
    """Where objects of buckets lie while they are read; default: the system's folder."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is."""

    n_checked: int
    n_tracks: int
    n_bytes: int
    n_findings: int


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and everything that differs."""

    destination: str
    depth: Depth
    n_tracks: int
    """Done tracks that were checked."""
    n_stems: int
    n_bytes: int
    """Of the stems that were read."""
    n_summed: int
    """Tracks whose stems were added up and compared with the source."""
    n_unreferenced: int
    """Objects beside the manifest's own that no row names."""
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def verify(
    destination: str, options: Options, checks: Checks, watch: Callable[[Progress], None]
) -> Verification:
    """Compare a destination with its manifest. Nothing is written there.

    Args:
        destination: folder or bucket prefix.
        options: of the stores, per URL prefix; sources may lie in others.
        checks: how far to look.
        watch: told after every track.

    Raises:
        ConfigError: no manifest, or a damaged part; an unknown model; a scratch folder that cannot be used.
        StorageError: there is no such folder or bucket, no access to it, or no space for copies.
        TransientError: a store does not answer.
    """
    store = open_store(destination, options)
    store.check_readable()
    holdings = read_holdings(store)
    if not holdings:
        found = f"{store.url} has no manifest: found nothing below {ROOT}/settings"
        raise ConfigError(f"{found}, wanted the records of a run; give the destination of one")
    every_row, (paths, sizes) = current_rows(store, _COLUMNS), _listing(store)
    rows = _taken(every_row, checks.percent)
    sums = {item.settings_id: _sums(item) for item in holdings} if checks.depth == "deep" else {}
    findings: list[Finding] = []
    n_bytes = n_summed = 0
    with _scratch(checks.scratch) as scratch:
        bench = Bench(store, Stores(options), checks.depth, sums, scratch)
        for number, result in enumerate(_audits(rows, paths, sizes, bench, checks.n_threads), 1):
            findings += result.findings
            n_bytes, n_summed = n_bytes + result.n_bytes, n_summed + result.is_summed
            watch(Progress(number, len(rows), n_bytes, len(findings)))
    return Verification(
        destination=store.url,
        depth=checks.depth,
        n_tracks=len(rows),
        n_stems=len(pc.unique(_stem_paths(rows).drop_null())),  # duplicates may share them
        n_bytes=n_bytes,
        n_summed=n_summed,
        n_unreferenced=_n_unreferenced(paths, _stem_paths(every_row)),
        findings=tuple(findings),
    )


@contextmanager
def _scratch(parent: Path | None) -> Iterator[Path]:
    """A folder for copies, gone afterwards."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="splitfire-", dir=parent)
    except OSError as error:
        where = parent or "the system's folder"
        raise ConfigError(f"scratch_dir: no file can be made in {where}: {error}; set another one") from error
    with folder as name:
        yield Path(name)


def _taken(rows: pa.Table, percent: float | None) -> pa.Table:
    """The done rows among that many percent of the tracks, by path."""
    taken = [is_sampled(track_id, percent) for track_id in rows["track_id"].to_pylist()]
    is_wanted = pc.and_(pc.equal(rows["status"], "done"), pa.chunked_array([pa.array(taken, pa.bool_())]))
    return rows.filter(is_wanted).sort_by([("path", "ascending"), ("settings_id", "ascending")])


def _listing(store: Store) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Paths and sizes of everything below the destination but the manifest's own, no object kept of each."""
    found = (item for item in store.list() if not item.path.startswith(f"{ROOT}/"))
    table = listed(found, ("path", "n_bytes"))
    return table["path"], table["n_bytes"]


def _sums(holding: Holding) -> Sums:
    """What stems made with these settings must add up to."""
    settings = holding.settings
    names = {"model", "stems", "residual"}
    known = {name: value for name, value in settings.items() if name in names}
    separation = configure(SeparationConfig, known)
    model_stems = find_card(separation.model).stems
    recipes = make_recipes(separation, model_stems)
    return Sums(
        to_mix=sums_of(recipes),
        measured=parts_of_mix(recipes) if is_complete(recipes, model_stems) else (),
        is_dithered=bool(settings.get("dither", True)),
    )


def _audits(
    rows: pa.Table, paths: pa.ChunkedArray, sizes: pa.ChunkedArray, bench: Bench, n_threads: int
) -> Iterator[Audit]:
    """The audit of every row, in order, some ahead of the caller in threads of their own."""
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="verify")
    claims = _claims(rows, paths, sizes)
    try:
        ready = deque(pool.submit(audit, *claim, bench) for claim in islice(claims, 2 * n_threads))
        while ready:
            yield ready.popleft().result()
            ready.extend(pool.submit(audit, *claim, bench) for claim in islice(claims, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def _claims(
    rows: pa.Table, paths: pa.ChunkedArray, sizes: pa.ChunkedArray
) -> Iterator[tuple[Claim, list[int | None]]]:
    """Each row with the sizes of its stems as they were listed."""
    for page in rows.to_batches(max_chunksize=_PAGE):
        at = pc.index_in(_stem_paths(pa.table(page)), value_set=paths)
        found = iter(sizes.take(at).to_pylist() if len(sizes) else [None] * len(at))
        for row in page.to_pylist():
            listed = list(islice(found, len(row["stems"])))
            is_written = [stem["path"] is not None for stem in row["stems"]]
            yield _claim(row), list(compress(listed, is_written))


def _claim(row: dict[str, Any]) -> Claim:
    written = [stem for stem in row["stems"] if stem["path"] is not None]
    return Claim(
        **{name: row[name] for name in _CLAIM},
        stems=tuple(StemClaim(**{name: stem[name] for name in _STEM}) for stem in written),
        left_out=frozenset(stem["stem"] for stem in row["stems"] if stem["path"] is None),
    )


def _stem_paths(rows: pa.Table) -> pa.Array:
    """The stems' paths, row by row; null for one that was left out."""
    return rows["stems"].combine_chunks().flatten().field("path")


def _n_unreferenced(listed: pa.ChunkedArray, named: pa.Array) -> int:
    return len(listed) - (pc.sum(pc.is_in(listed, value_set=named.drop_null())).as_py() or 0)
