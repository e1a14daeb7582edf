"""What a person at a terminal sees while a run goes on: a line that moves, or plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from splitfire_batch.report import Progress as RunProgress

PLAIN_S = 10.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def showing(is_quiet: bool) -> Iterator[Callable[[RunProgress], None]]:
    """A function that shows progress on stderr, while the block lasts."""
    console = Console(stderr=True)
    if is_quiet:
        yield lambda _: None
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bars:
            bar = bars.add_task("separating", total=None, text="starting workers")
            yield lambda now: bars.update(bar, completed=now.n_settled, total=now.n_planned, text=_text(now))
    else:
        yield _plain_lines(console)


def _plain_lines(console: Console) -> Callable[[RunProgress], None]:
    due_at = 0.0
    n_shown = -1

    def show(now: RunProgress) -> None:
        nonlocal due_at, n_shown
        is_over = now.n_settled == now.n_planned
        if now.n_settled != n_shown and (is_over or time.monotonic() >= due_at):
            due_at, n_shown = time.monotonic() + PLAIN_S, now.n_settled
            console.print(f"separating {now.n_settled}/{now.n_planned} tracks, {_text(now)}", highlight=False)

    return show


def _text(now: RunProgress) -> str:
    skipped = f", {now.n_skipped} skipped" if now.n_skipped else ""
    failed = f", {now.n_failed} failed" if now.n_failed else ""
    return f"{now.audio_s / 60:,.1f} min of audio, {now.real_time_factor:.1f} x real time{skipped}{failed}"
