"""`splitfire retry`: the failed tracks of a destination once more, also those that no run takes up by itself.

Each run does the tracks of one catalogue that failed under the same settings: nearly always that is one run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.failures import Codes, split_codes
from flows.options import Config, Destination, Flags, Json, Quiet, takes_settings
from flows.prefect_files import refuse_settings_in
from flows.settings import Settings, load_settings
from flows.signals import ending
from splitfire_batch.escapes import one_line, shell_word
from splitfire_batch.importing import uncollected

if TYPE_CHECKING:
    from splitfire_batch.retries import FoundRetry

_FINISHED = (0, 3)
"""Exit codes of runs that came to their end; after any other the next one is not begun."""


@takes_settings("runtime")
@ending()
def retry(
    destination: Destination,
    flags: Flags,
    code: Codes = None,
    allow_root: Annotated[
        list[str] | None, typer.Option("--allow-root", help="Also tracks below this URL; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be run again.")] = False,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run failed tracks again, with the settings under which they failed; all of them, or those of a code."""
    from splitfire_batch.retries import find_retries
    from splitfire_batch.storage import open_store

    catalogue = {"catalogue": {"allow_root": tuple(allow_root)}} if allow_root else {}
    settings = load_settings({**flags, **catalogue}, config)
    store = open_store(destination, settings.runtime.storage)
    store.check_readable()
    allowed = settings.catalogue.allow_root
    found = find_retries(store, split_codes(code), settings.output, allowed, _say)
    for line in outside_lines(found):
        typer.echo(line, err=True)
    todo = [item for item in found if item.codes]
    if dry_run or not todo:
        typer.echo(
            json.dumps([_record(item) for item in todo], indent=1) if as_json else dry_text(todo, dry_run)
        )
        return
    raise typer.Exit(_run_all(destination, todo, settings, as_json, quiet))


def _run_all(
    destination: str, todo: Sequence[FoundRetry], settings: Settings, as_json: bool, is_quiet: bool
) -> int:
    """Run after run; the worst of their exit codes."""
    for item in todo:
        refuse_settings_in(item.retry.source)
    from flows import cli

    with uncollected():
        from flows.local_run import run_flow

    worst = 0
    for item in todo:
        asked = settings.model_copy(update={"separation": item.retry.separation, "output": item.retry.output})
        with redirect_stdout(sys.stderr):  # Ray prints a line whenever a worker dies
            report = run_flow(item.retry.source, destination, asked, False, is_quiet, item.retry.codes)
        cli.print_report(report, as_json)
        worst = max(worst, cli.run_exit_code(report.exit_code))
        if report.exit_code not in _FINISHED:
            break
    return worst


def dry_text(todo: Sequence[FoundRetry], is_dry: bool) -> str:
    """What would be run again, a line for each run."""
    if not todo:
        return "nothing to retry: no such track has failed"
    return "\n".join(
        f"{'would run' if is_dry else 'running'} {sum(item.codes.values())} tracks of "
        f"{one_line(item.retry.source)} again ({item.retry.separation.model}, settings {item.settings_id}): "
        + ", ".join(f"{n} {code}" for code, n in sorted(item.codes.items()))
        for item in todo
    )


def outside_lines(found: Sequence[FoundRetry]) -> list[str]:
    """What is left out because nobody here said that it may be read."""
    return [
        f"{item.n_outside} failed tracks lie outside {shell_word(item.retry.source)} and are left alone; "
        "pass --allow-root URL for the root they lie in"
        for item in found
        if item.n_outside
    ]


def _say(line: str) -> None:
    typer.echo(one_line(line), err=True)


def _record(item: FoundRetry) -> dict[str, Any]:
    return {
        "source": item.retry.source,
        "model": item.retry.separation.model,
        "settings_id": item.settings_id,
        "codes": item.codes,
        "n_outside": item.n_outside,
    }
