"""`splitfire vacuum`: what a destination holds and no row names, listed, and removed if asked to."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import Config, Destination, Json
from flows.settings import load_settings
from splitfire_batch.errors import ConfigError

if TYPE_CHECKING:
    from splitfire_batch.vacuum import Vacuumed

_SHOWN = 20
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def vacuum(
    destination: Destination,
    older_than: Annotated[
        str,
        typer.Option(help="Age by the store's own clock: 90m, 12h, 7d. 0 only if nothing else writes there."),
    ] = "7d",
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; else it is only listed.")] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List, or remove, stems that no row names any more, and what runs that were cut off left behind.

    Removed is only what is certainly ours: a path that a row of some run once named as its stem; an audio
    file whose name ends in the hash of its own bytes, as immutable names do; and our temporary files, probes
    and old snapshots, and uploads in parts of more than a day ago. Other files are counted and left alone. It
    holds the destination like a run, so none may be under way.
    """
    older_than_s = parse_age(older_than)
    from splitfire_batch.lease import BUDGET, hold
    from splitfire_batch.storage import open_store
    from splitfire_batch.vacuum import vacuum as clean

    options = load_settings({}, config).runtime.storage
    store = open_store(destination, options)
    store.check_readable()
    # where leases cannot be had, names are immutable, and a last look keeps what a run has just written
    with hold(open_store(destination, options, BUDGET), "vacuum", is_needed=False, tell=_say) as lease:
        found = clean(store, lease, older_than_s, is_dry=not delete)
    for line in [json.dumps(found.as_dict(), indent=1)] if as_json else lines(found):
        typer.echo(line)


def parse_age(text: str) -> float:
    """Seconds of 90m, 12h, 7d and the like; a bare number are days, so that 0 needs no unit.

    Raises:
        ConfigError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text.strip())
    if match is None:
        raise ConfigError(f"--older-than: found {text!r}, wanted an age such as 90m, 12h or 7d")
    return float(match[1]) * _UNITS_S[match[2] or "d"]


def lines(found: Vacuumed) -> list[str]:
    """The first of it, and how much there is."""
    shown = [f"{item.kind:10} {item.n_bytes:>12,}  {_plain(item.path)}" for item in found.garbage[:_SHOWN]]
    n_more = len(found.garbage) - len(shown)
    if n_more:
        shown.append(f"... and {n_more} more; --json lists all")
    done = "removed" if found.is_deleted else "would be removed; add --delete"
    size = f"{found.n_bytes / 2**20:,.1f} MiB"
    shown.append(f"{len(found.garbage)} objects, {size}: {done}" if found.garbage else "nothing to remove")
    shown.append(f"{found.n_named} stems are named by rows and stay")
    if found.n_young:
        shown.append(f"{found.n_young} others are younger than {found.older_than_s / 86_400:g} days")
    if found.n_foreign:
        shown.append(f"{found.n_foreign} others are not certainly ours; left alone")
    if found.remark:
        shown.append(_plain(found.remark))
    return shown


def _plain(text: str) -> str:
    """Text that stays on one line."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _say(text: str) -> None:
    print(f"splitfire: {text}", file=sys.stderr)  # noqa: T201
