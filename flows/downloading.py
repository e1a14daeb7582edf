"""What a person at a terminal sees while weights are fetched: a bar, or plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from splitfire_batch.models.downloads import WATCH, Watch

PLAIN_S = 10.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def showing_downloads(is_quiet: bool = False, has_bar: bool = True) -> Iterator[None]:
    """Show on stderr what is fetched while the block lasts; where another bar moves, in plain lines."""
    console = Console(stderr=True)
    if is_quiet:
        yield
    elif console.is_terminal and has_bar:
        bars = _Bars(console)
        with _watched(bars.watch):
            try:
                yield
            finally:
                bars.stop()
    else:
        with _watched(plain_lines(console)):
            yield


@contextmanager
def _watched(watch: Watch) -> Iterator[None]:
    token = WATCH.set(watch)
    try:
        yield
    finally:
        WATCH.reset(token)


class _Bars:
    """A bar for each file, on the screen only while one is on its way."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        # what commands print goes to stdout, as without bars
        self._bars = Progress(
            *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._tasks: dict[str, TaskID] = {}

    def watch(self, name: str, n_bytes: int, n_total: int | None) -> None:
        """Show how far a file is; called in another thread."""
        if not self._tasks:
            self._bars.start()
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=n_total)
        self._bars.update(self._tasks[name], completed=n_bytes, total=n_total)
        if n_bytes == n_total:
            self._bars.remove_task(self._tasks.pop(name))
            if not self._tasks:
                self._bars.stop()

    def stop(self) -> None:
        """Nothing is on its way any more."""
        self._bars.stop()


def plain_lines(console: Console) -> Watch:
    """A line as a file begins to arrive, every ten seconds, and when it is whole."""
    due_at: dict[str, float] = {}

    def watch(name: str, n_bytes: int, n_total: int | None) -> None:
        is_over = n_bytes == n_total
        if name in due_at and not is_over and time.monotonic() < due_at[name]:
            return
        due_at[name] = time.monotonic() + PLAIN_S
        scale, unit = (1e3, "kB") if n_total is not None and n_total < 1e6 else (1e6, "MB")
        of = "" if n_total is None else f" of {n_total / scale:,.1f}"
        console.print(f"fetching {name}: {n_bytes / scale:,.1f}{of} {unit}", highlight=False, markup=False)

    return watch
