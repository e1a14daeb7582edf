"""What a person at a terminal sees while a run goes on: lines that move, or plain lines in a log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from splitfire_batch.escapes import one_line
from splitfire_batch.figures import duration
from splitfire_batch.report import Progress
from splitfire_batch.staff import WorkerState

PLAIN_S = 10.0
"""Seconds between two lines where there is no terminal."""
MAX_WORKERS_SHOWN = 12


@contextmanager
def showing(is_quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A function that shows progress on stderr, while the block lasts."""
    console = Console(stderr=True)
    if is_quiet:
        yield lambda _: None
    elif console.is_terminal:
        with Live(Text("starting workers"), console=console, transient=True, refresh_per_second=4) as live:
            yield lambda now: live.update(view(now))
    else:
        yield _plain_lines(console)


def view(now: Progress) -> RenderableType:
    """The whole run on a terminal: how far, what failed, and each worker, those that work first."""
    head = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(now.n_planned, 1), completed=now.n_settled, width=24)
    head.add_row("separating", bar, f"{now.n_settled:,}/{now.n_planned:,} tracks, {progress_text(now)}")
    shown: list[RenderableType] = [head]
    if now.failures_by_code:
        codes = ", ".join(f"{n} {code}" for code, n in sorted(now.failures_by_code.items()))
        shown.append(Text(f"failed     {codes}"))
    workers = sorted(now.workers, key=lambda worker: worker.phase != "working")
    if workers:
        shown += [_workers_line(workers), _workers_table(workers[:MAX_WORKERS_SHOWN])]
    if len(workers) > MAX_WORKERS_SHOWN:
        shown.append(Text(f"  ... and {len(workers) - MAX_WORKERS_SHOWN} more"))
    return Group(*shown)


def _workers_line(workers: list[WorkerState]) -> Text:
    phases = ", ".join(f"{n} {phase}" for phase, n in Counter(worker.phase for worker in workers).items())
    return Text(f"workers    {phases}; {sum(worker.n_in_flight for worker in workers)} tracks in flight")


def _workers_table(workers: list[WorkerState]) -> Table:
    table = Table.grid(padding=(0, 2), pad_edge=True)
    for column in ("right", "left", "right", "right"):
        table.add_column(justify=column, no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for worker in workers:
        place = f"{worker.node}/{worker.pid}" if worker.pid else "-"
        counts = f"{worker.n_settled:,} settled", f"{worker.n_in_flight} in flight"
        table.add_row(place, worker.phase, *counts, Text(one_line(worker.path)))
    return table


def _plain_lines(console: Console) -> Callable[[Progress], None]:
    due_at = 0.0
    n_shown = -1

    def show(now: Progress) -> None:
        nonlocal due_at, n_shown
        is_over = now.n_settled == now.n_planned
        if now.n_settled != n_shown and (is_over or time.monotonic() >= due_at):
            due_at, n_shown = time.monotonic() + PLAIN_S, now.n_settled
            console.print(
                f"separating {now.n_settled}/{now.n_planned} tracks, {progress_text(now)}",
                highlight=False,
                soft_wrap=True,
            )

    return show


def progress_text(now: Progress) -> str:
    """How much audio, how fast, what failed, and how long it will take."""
    parts = [f"{duration(now.audio_s)} of audio", f"{now.real_time_factor:.1f} x real time"]
    parts += [f"{now.n_skipped} skipped"] if now.n_skipped else []
    parts += [f"{now.n_failed} failed"] if now.n_failed else []
    if now.eta_s and now.n_settled < now.n_planned:
        parts.append(f"{duration(now.eta_s)} to go")
    return ", ".join(parts)
