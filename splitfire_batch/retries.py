"""Failed tracks to be run again: as they were planned, of objects as they are now.

A track keeps its id, its catalogue's columns and its stems' names; only its size and etag are asked for
again. It is run under the settings under which it failed. An object is fetched only if it lies in its
catalogue's root or where the operator allows it: whoever can write into a destination must not choose what
a machine reads.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from splitfire_batch.catalogue import OPEN, Catalogue, check_source, complete
from splitfire_batch.config import OutputConfig, SeparationConfig, configure
from splitfire_batch.errors import ConfigError, ObjectMissing
from splitfire_batch.failures import Query, read_failures
from splitfire_batch.identity import differences, settings
from splitfire_batch.manifest.holdings import Holding, read_holdings
from splitfire_batch.manifest.ledger import ROOT
from splitfire_batch.models import find_card, weights_id
from splitfire_batch.plan import Ledger
from splitfire_batch.spelling import folded
from splitfire_batch.storage import Options, Store, Stores
from splitfire_batch.tables import locate, plain_url

OUTSIDE = "outside the source and allow_root"
"""Why a failed track is not run again."""

_PAGE = 10_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retry:
    """Failed tracks that one run can do: of one catalogue, failed under the same settings."""

    source: str
    """The catalogue, or its name, which is the URL of its root."""
    separation: SeparationConfig
    output: OutputConfig
    codes: tuple[str, ...] = ()
    """Only failures of these codes; empty for all."""
    allow_root: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundRetry:
    """A retry, and what it is about."""

    retry: Retry
    settings_id: str
    codes: dict[str, int]
    """How many tracks failed with which code."""
    n_outside: int
    """Failed tracks that are not run again, because of OUTSIDE."""


def find_retries(
    store: Store,
    codes: Sequence[str],
    given: OutputConfig,
    allow_root: Sequence[str],
    tell: Callable[[str], None] = _log.warning,
) -> list[FoundRetry]:
    """What there is to run again, by catalogue and settings, in their order.

    Args:
        store: the destination.
        codes: only failures of these codes; empty for all.
        given: its names and template are taken where the failed run left no record of its own.
        allow_root: URLs below which a track may lie besides its catalogue's root.
        tell: gets a line for each catalogue and settings that cannot be repeated, beside others that can.

    Raises:
        ConfigError: an unknown code, no manifest, or nothing but settings that this version cannot repeat.
    """
    columns = ["uri", "path", "code", "catalogue", "settings_id", "run_id"]
    rows = read_failures(store, Query(tuple(codes))).select(columns).to_pylist()
    holdings = {item.settings_id: item for item in read_holdings(store)}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["catalogue"], row["settings_id"]), []).append(row)
    found, refused = [], []
    for (source, settings_id), group in sorted(groups.items()):
        try:
            names = _names_of(store, max(row["run_id"] for row in group), given)
            retry = Retry(source, *made_by(holdings[settings_id], names), tuple(codes), tuple(allow_root))
        except ConfigError as error:
            refused.append(f"{len(group)} failed tracks of {source} are left alone: {error}")
            continue
        inside = Counter(row["code"] for row in group if _place(row, source, allow_root))
        found.append(FoundRetry(retry, settings_id, dict(inside), len(group) - inside.total()))
    if refused and not found:
        raise ConfigError("; ".join(refused))
    for line in refused:
        tell(line)
    return found


def made_by(holding: Holding, names: OutputConfig) -> tuple[SeparationConfig, OutputConfig]:
    """The configuration that gives a holding's settings, with the `names` and `template` of another.

    Raises:
        ConfigError: this version cannot repeat them: it has other weights, or writes other bytes.
    """
    held = holding.settings
    separation = configure(SeparationConfig, _fields_of(SeparationConfig, held))
    spelled = {"names": names.names, "template": names.template}
    output = configure(OutputConfig, {**spelled, **_fields_of(OutputConfig, held)})
    now = settings(separation, output, weights_id(find_card(separation.model)))
    if what := differences(held, now):
        raise ConfigError(
            f"tracks that failed under the settings {holding.settings_id} cannot be run again as they were: "
            f"{what}; `splitfire run` their catalogue with settings of now"
        )
    return separation, output


def list_failed(store: Store, retry: Retry, options: Options, scratch: str | None = None) -> Catalogue:
    """The failed tracks as a listing like any other, with sizes and etags of now, and the names they had.

    Args:
        store: the destination.
        retry: which tracks.
        options: of the stores, per URL prefix.
        scratch: folder for what is listed; the system's own for temporary files if None.

    Raises:
        ConfigError: an unknown code, no manifest, or a source that is not there.
    """
    name = check_source(retry.source, options)
    wanted = settings(retry.separation, retry.output, weights_id(find_card(retry.separation.model)))
    ids = [item.settings_id for item in read_holdings(store) if item.settings == wanted]
    rows = read_failures(store, Query(retry.codes))
    is_mine = pc.is_in(rows["settings_id"], value_set=pa.array(ids, pa.string()))
    rows = rows.filter(pc.and_(is_mine, pc.equal(rows["catalogue"], name)))
    columns = ["track_id", "uri", "path", "meta", "code"]
    placed = [_place(row, name, retry.allow_root) for row in rows.select(columns).to_pylist()]
    tracks = pa.Table.from_pylist([track for track in placed if track], OPEN)
    n_outside = placed.count(None)
    return Catalogue(
        name,
        complete(tracks.to_batches(_PAGE), Stores(options), scratch),
        {OUTSIDE: n_outside} if n_outside else {},
        rows.select(["track_id", "target"]),
    )


def ledger_for(ledger: Ledger, held: pa.Table) -> Ledger:
    """The ledger of a run that does failed tracks again: nothing is settled, and they own their names.

    But a name that went to another track since is that one's: its stems lie there.

    Args:
        ledger: what the destination holds.
        held: `Catalogue.held`.
    """
    done = zip(ledger.targets["track_id"].to_pylist(), ledger.targets["target"].to_pylist(), strict=True)
    owners = {folded(target): track_id for track_id, target in done}
    failed = zip(held["track_id"].to_pylist(), held["target"].to_pylist(), strict=True)
    own = [
        {"track_id": track_id, "target": target}
        for track_id, target in failed
        if owners.setdefault(folded(target), track_id) == track_id
    ]
    targets = pa.concat_tables([pa.Table.from_pylist(own, ledger.targets.schema), ledger.targets])
    return Ledger(targets=targets, failed_runs=ledger.failed_runs)


def names_record(names: str, output: OutputConfig) -> bytes:
    """What `job.json` beside a run's plan keeps: how stems were named, which no settings_id tells."""
    return json.dumps({"names": names, "template": output.template}, indent=1).encode()


def _names_of(store: Store, run_id: str, given: OutputConfig) -> OutputConfig:
    try:
        record: dict[str, str] = json.loads(store.read(f"{ROOT}/runs/{run_id}/job.json"))
    except ObjectMissing:  # of an older version
        return given
    return configure(OutputConfig, record)


def _fields_of(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: values[field.name] for field in fields(cls) if field.name in values}


def _place(row: Mapping[str, Any], source: str, allow_root: Sequence[str]) -> dict[str, Any] | None:
    """A failed track for a listing; None if its object may not be fetched."""
    uri, path, _, problem = locate(row["uri"], [source, *map(plain_url, allow_root)])
    if problem is not None:
        return None
    if row["code"] != "BAD_URI":  # such a one had no path yet
        path = row["path"]
    return {**row, "uri": uri, "path": path}
