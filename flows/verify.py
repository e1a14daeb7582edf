"""`splitfire verify`: whether a destination still holds what its manifest says, from storage alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.options import Config, Destination, Json, Quiet
from flows.settings import load_settings
from splitfire_batch.errors import ConfigError
from splitfire_batch.escapes import one_line

if TYPE_CHECKING:
    from splitfire_batch.verify import Progress, Verification

EXIT_MISMATCH = 6
_PLAIN_S = 10.0
_COLUMNS = ("kind", "path", "stem", "found", "wanted", "what to do")


def verify(
    destination: Destination,
    fast: Annotated[bool, typer.Option("--fast", help="Only existence and size, from one listing.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also decode every stem, and compare the sum with the source.")
    ] = False,
    sample: Annotated[
        float | None, typer.Option(help="Only this many percent of the tracks, always the same ones.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Tracks read at the same time.")] = 8,
    registry: Annotated[
        str | None, typer.Option(help="TOML file or URL with models of your own, as in `run`.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare stems with the manifest: by size, sha256 (the default), or decoded and summed."""
    if fast and deep:
        raise ConfigError("found both --fast and --deep, wanted one of them or none; leave one out")
    if sample is not None and not 0 < sample <= 100:
        raise ConfigError(
            f"--sample: found {sample:g}, wanted more than 0 and at most 100 percent; change it"
        )
    from splitfire_batch.verify import Checks
    from splitfire_batch.verify import verify as look

    flags = {"runtime": {"registry": registry}} if registry else {}
    runtime = load_settings(flags, config).runtime
    scratch = Path(runtime.scratch_dir) if runtime.scratch_dir else None
    checks = Checks("fast" if fast else "deep" if deep else "full", sample, threads, scratch)
    found = look(destination, runtime.storage, checks, _watch(quiet))
    for line in [json.dumps(found.as_dict(), indent=1)] if as_json else lines(found):
        typer.echo(line)
    raise typer.Exit(EXIT_MISMATCH if found.findings else 0)


def lines(found: Verification) -> list[str]:
    """A table of what differs, and what was looked at."""
    rows = [
        (item.kind, item.path, item.stem or "source", item.found, item.wanted, item.remedy)
        for item in found.findings
    ]
    cells = [[one_line(cell) for cell in row] for row in ([_COLUMNS, *rows] if rows else [])]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    read = {"fast": "sizes only", "full": f"{found.n_bytes / 2**20:,.1f} MiB hashed"}
    deep = f"{found.n_bytes / 2**20:,.1f} MiB hashed and decoded, {found.n_summed} tracks summed"
    summary = (
        f"{found.n_stems} stems of {found.n_tracks} tracks checked ({read.get(found.depth, deep)}): "
        f"{len(found.findings) or 'nothing'} {'differ' if len(found.findings) > 1 else 'differs'}"
    )
    return [*table, summary, *_unreferenced(found.n_unreferenced)]


def _unreferenced(n_objects: int) -> list[str]:
    return [f"{n_objects} other objects lie there that no row names"] if n_objects else []


def _watch(is_quiet: bool) -> Callable[[Progress], None]:
    """Progress on stderr: one line that moves, or one every ten seconds where there is no terminal."""
    console = Console(stderr=True)
    due_at = time.monotonic() + (0 if console.is_terminal else _PLAIN_S)

    def show(now: Progress) -> None:
        nonlocal due_at
        is_over = now.n_checked == now.n_tracks
        if is_quiet or (time.monotonic() < due_at and not is_over):
            return
        due_at = time.monotonic() + (0.2 if console.is_terminal else _PLAIN_S)
        text = f"verifying {now.n_checked}/{now.n_tracks} tracks, {now.n_bytes / 2**20:,.1f} MiB"
        differ = f", {now.n_findings} differ" if now.n_findings else ""
        moves = console.is_terminal and not is_over
        console.print(text + differ, highlight=False, end="\r" if moves else "\n")

    return show
