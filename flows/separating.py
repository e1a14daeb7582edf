"""What a person at a terminal sees while `separate` works: how far the files are, below what it printed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from splitfire_batch.escapes import one_line
from splitfire_batch.figures import duration
from splitfire_batch.headway import FilesProgress, Headway, OpenFile

LOOK_S = 0.25
"""Seconds between two looks; rows that come faster are news enough, and nothing is drawn for them."""
MAX_FILES_SHOWN = 12

Aside = Callable[[], AbstractContextManager[None]]
"""Clears the screen for what is printed inside the block."""


@contextmanager
def showing_files(headway: Headway, is_quiet: bool) -> Iterator[Aside]:
    """Show on stderr how far the files are, while the block lasts; nothing where there is no terminal."""
    console = Console(stderr=True)
    if is_quiet or not console.is_terminal:
        yield nullcontext
        return
    live = _begun(console, headway)

    @contextmanager
    def aside() -> Iterator[None]:
        # a display that goes on after it was stopped would erase the lines that were printed meanwhile
        nonlocal live
        live.stop()
        yield
        live = _begun(console, headway)

    try:
        yield aside
    finally:
        live.stop()


def _begun(console: Console, headway: Headway) -> Live:
    """A display that looks by itself."""
    begin = time.monotonic()

    def look() -> RenderableType:
        is_new = time.monotonic() - begin < LOOK_S / 2  # it is only drawn because it is taken away again
        return "" if is_new else view(headway.now())

    live = Live(
        console=console,
        transient=True,
        refresh_per_second=1 / LOOK_S,
        redirect_stdout=False,  # its text belongs to whoever reads stdout
        get_renderable=look,
    )
    live.start()
    return live


def view(now: FilesProgress) -> RenderableType:
    """All files in a line, and one for each that is at work."""
    head = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(now.n_files, 1), completed=now.n_settled, width=24)
    speed = f"{duration(now.audio_s)} of audio, {now.real_time_factor:.1f} x real time"
    head.add_row("separating", bar, f"{now.n_settled:,}/{now.n_files:,} files, {speed}")
    shown: list[RenderableType] = [head]
    if now.open:
        shown.append(_files_table(now.open[:MAX_FILES_SHOWN]))
    if len(now.open) > MAX_FILES_SHOWN:
        shown.append(Text(f"  ... and {len(now.open) - MAX_FILES_SHOWN} more"))
    return Group(*shown)


def _files_table(files: tuple[OpenFile, ...]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=10)
    table.add_column(width=24)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for file in files:
        bar = ProgressBar(total=file.duration_s, completed=file.audio_s) if file.duration_s else ""
        table.add_row("", bar, _text(file), Text(one_line(file.path)))
    return table


def _text(file: OpenFile) -> str:
    of = f" of {duration(file.duration_s)}" if file.duration_s else ""
    parts = [f"{duration(file.audio_s)}{of}", f"{file.real_time_factor:.1f} x real time"]
    if file.is_separated:
        parts[1] = "writing stems"
    elif file.eta_s is not None:
        parts.append(f"{duration(file.eta_s)} to go")
    return ", ".join(parts)
