"""`splitfire status --watch`: a run as its destination shows it, again and again, until it ends.

Nothing but the destination is asked, so it may be watched from any machine that may read there. On a terminal
the lines move, elsewhere a line comes when there is news; `--json` gives an object a line for each look.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.console import PLAIN_S, progress_text, view
from flows.settings import Settings
from flows.status import sight_lines, sight_record, status_record, status_words
from splitfire_batch.figures import duration
from splitfire_batch.lease import TIMING
from splitfire_batch.onlooker import Onlooker, RunSeen, ShardSeen, Sight
from splitfire_batch.storage import open_store

LOOK_S = 3.0
"""Seconds between two looks."""
_REST = 9
"""Pauses are so many times as long as the look before: it takes a tenth of a core at most."""
MAX_SHARDS_SHOWN = 12


def watch(destination: str, settings: Settings, as_json: bool) -> None:
    """Show the run that holds a destination until it ends or gives no sign of life, then what is there.

    Raises:
        StorageError: the store refuses, or there is no such destination.
        TransientError: it does not answer.
    """
    store = open_store(destination, settings.runtime.storage)
    store.check_readable()
    onlooker = Onlooker(store, settings.runtime.scratch_dir)
    with _showing(store.url, as_json) as show:
        while True:
            begin = time.monotonic()
            sight = onlooker.look()
            if sight.lease.state == "free" or sight.lease.watched_s > TIMING.expire_s:
                break
            show(sight)
            time.sleep(max(LOOK_S, _REST * (time.monotonic() - begin)))
    status = status_record(store, sight)
    typer.echo(json.dumps(status) if as_json else status_words(status, sight))


@contextmanager
def _showing(url: str, as_json: bool) -> Iterator[Callable[[Sight], None]]:
    console = Console()
    if as_json:
        yield lambda sight: typer.echo(json.dumps({"destination": url, **sight_record(sight)}))
    elif console.is_terminal:
        with Live(Text(url), console=console, transient=True, refresh_per_second=4) as live:
            yield lambda sight: live.update(sight_view(url, sight))
    else:
        yield _plain_lines()


def sight_view(url: str, sight: Sight) -> RenderableType:
    """What one look shows, for a terminal."""
    shown: list[RenderableType] = [Text(line) for line in (url, *sight_lines(sight)[:1])]
    if run := sight.run:
        shown += [view(run.progress), Text(f"shards     {_shards_text(run)}"), _shards_table(run.shards)]
        shown += [Text(run.bottleneck)] if run.bottleneck else []
    return Group(*shown)


def _shards_text(run: RunSeen) -> str:
    n_whole = sum(shard.n_settled == shard.n_tracks for shard in run.shards)
    return f"{len(run.shards)} of {run.n_shards} begun, {n_whole} whole"


def _shards_table(shards: tuple[ShardSeen, ...]) -> Table:
    """Those that were heard of last."""
    table = Table.grid(padding=(0, 2), pad_edge=True)
    for justify in ("left", "right", "right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    for shard in shards[:MAX_SHARDS_SHOWN]:
        of = "" if shard.n_tracks is None else f"/{shard.n_tracks:,}"
        busy = "" if shard.busy is None else f"device {100 * shard.busy:.0f} % busy"
        at = f"{datetime.fromtimestamp(shard.settled_at, UTC):%H:%M:%S} UTC"
        tracks = f"{shard.n_settled:,}{of} tracks"
        table.add_row(shard.shard_id, tracks, duration(shard.audio_s), busy, at)
    return table


def _plain_lines() -> Callable[[Sight], None]:
    due_at, shown = 0.0, ""

    def show(sight: Sight) -> None:
        nonlocal due_at, shown
        text = _plain(sight)
        if text != shown and time.monotonic() >= due_at:
            due_at, shown = time.monotonic() + PLAIN_S, text
            typer.echo(text)

    return show


def _plain(sight: Sight) -> str:
    run = sight.run
    if run is None:
        return sight_lines(sight)[0].partition(";")[0]
    progress = run.progress
    head = f"separating {progress.n_settled}/{progress.n_planned} tracks, {progress_text(progress)}"
    silent = ["no sign of life"] if sight.lease.state == "silent" else []
    return "; ".join([head, _shards_text(run), *([run.bottleneck] if run.bottleneck else []), *silent])
