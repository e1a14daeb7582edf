"""`splitfire failures`: every track without stems, and why; also as a catalogue, to run them elsewhere."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any

import typer

from flows.options import Config, Destination
from flows.settings import load_settings
from splitfire_batch.errors import FAILURE_CODES, SKIP_CODES, ConfigError
from splitfire_batch.escapes import csv_cell, one_line, shell_word

OWN_COLUMNS: tuple[str, ...] = (
    "status",
    "code",
    "meaning",
    "message",
    "is_retryable",
    "attempts",
    "n_failed_runs",
    "path",
)
OWN_COLUMNS += ("track_id", "run_id", "settings_id", "model", "catalogue", "finished_at")
_PAGE = 10_000
PREFIX = "splitfire_"
"""Before our own columns of a CSV: a catalogue may well have a `code` or a `model` of its own."""

Codes = Annotated[list[str] | None, typer.Option("--code", help="Only failures of this code; repeatable.")]


def failures(
    destination: Destination,
    code: Codes = None,
    retryable: Annotated[
        bool, typer.Option("--retryable", help="Only those that the next run tries again by itself.")
    ] = False,
    run: Annotated[
        str | None, typer.Option("--run", help="Only those whose last try was in this run.")
    ] = None,
    skipped: Annotated[
        bool, typer.Option("--skipped", help="Also tracks without stems because the settings wish so.")
    ] = False,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, one object a line.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print a table that `splitfire run` takes as a catalogue.")
    ] = False,
) -> None:
    """List the tracks that have no stems, by reason. Ends with 0, however many there are."""
    if as_json and as_csv:
        raise ConfigError("found both --json and --csv, wanted one of them or none; leave one out")
    from splitfire_batch.failures import Query, read_failures
    from splitfire_batch.storage import open_store

    store = open_store(destination, load_settings({}, config).runtime.storage)
    store.check_readable()
    table = read_failures(store, Query(split_codes(code), retryable, run, skipped))
    if as_csv:
        for chunk in csv_chunks(meta_columns(table["meta"].to_pylist()), as_records(table)):
            typer.echo(chunk, nl=False)
        for line in run_hints(zip(table["uri"].to_pylist(), table["path"].to_pylist(), strict=True)):
            typer.echo(line, err=True)
    elif as_json:
        for record in as_records(table):
            typer.echo(json.dumps(record))
    else:
        rows = list(as_records(table))
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for line in table_lines(rows, width):
            typer.echo(line)
        if any(row["status"] == "failed" for row in rows):
            typer.echo(f"to run them again: splitfire retry {shell_word(store.url)}", err=True)


def split_codes(given: Sequence[str] | None) -> tuple[str, ...]:
    """Codes as they are spelled in rows; several may stand in one value, with commas."""
    return tuple(code.strip().upper() for text in given or () for code in text.split(",") if code.strip())


def as_records(table: Any) -> Iterator[dict[str, Any]]:
    """Rows of the manifest as plain values, a page at a time: what JSON shows, and a CSV in its own way."""
    for batch in table.to_batches(max_chunksize=_PAGE):
        yield from map(_as_record, batch.to_pylist())


def _as_record(row: dict[str, Any]) -> dict[str, Any]:
    code = row["code"] or ""
    meaning = FAILURE_CODES[code].meaning if code in FAILURE_CODES else SKIP_CODES.get(code)
    known = {**row, "meaning": meaning, "finished_at": row["finished_at"].isoformat()}
    return {"uri": row["uri"], **{name: known[name] for name in OWN_COLUMNS}, "meta": dict(row["meta"] or ())}


def meta_columns(metas: Iterable[Sequence[tuple[str, str]] | None]) -> list[str]:
    """The catalogue's own columns, in their order; those of an earlier export of ours are none."""
    own = {PREFIX + name for name in OWN_COLUMNS}
    return list(dict.fromkeys(key for meta in metas for key, _ in meta or () if key not in own))


def csv_chunks(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """A catalogue table (RFC 4180), a row at a time: `uri`, the catalogue's columns, then ours, prefixed.

    Cells that a spreadsheet would compute begin with `'`. A uri never does: it begins with `/` or a scheme,
    unless the catalogue had one that could not be read, which stays unreadable.
    """
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(["uri", *map(csv_cell, columns), *(PREFIX + name for name in OWN_COLUMNS)])
    for row in rows:
        yield _taken(sink)
        cells = [row["uri"], *map(row["meta"].get, columns), *(row[name] for name in OWN_COLUMNS)]
        writer.writerow(["" if cell is None else csv_cell(_text(cell)) for cell in cells])
    yield _taken(sink)


def _taken(sink: io.StringIO) -> bytes:
    data = sink.getvalue().encode()
    sink.seek(0)
    sink.truncate()
    return data


def run_hints(rows: Iterable[tuple[str, str]]) -> list[str]:
    """How to run the CSV as a catalogue: what its rows name must be allowed, wherever the file lies.

    Args:
        rows: uri and path.
    """
    roots = {uri.removesuffix(f"/{path}") or "/" for uri, path in rows if path != uri}
    allowed = "".join(f" --allow-root {shell_word(root)}" for root in sorted(roots))
    return [f"to run them elsewhere: splitfire run FILE.csv DESTINATION{allowed}"] if roots else []


def table_lines(rows: Sequence[dict[str, Any]], width: int | None) -> Iterator[str]:
    """The tracks below their codes; messages are broken at `width` columns, None for not at all."""
    has_many = len({row["settings_id"] for row in rows}) > 1
    for code, same in groupby(rows, key=lambda row: row["code"]):
        group = list(same)
        yield f"{one_line(code)}: {_counted(group)}; {one_line(group[0]['meaning'] or 'of another version')}"
        for row in group:
            model = f" ({one_line(row['model'])}, settings {row['settings_id']})" if has_many else ""
            yield f"  {one_line(row['path'])}{model}"
            yield from _wrapped(one_line((row["message"] or "").removeprefix(f"{row['path']}: ")), width)
    if not rows:
        yield "no failed tracks"


def _counted(group: Sequence[dict[str, Any]]) -> str:
    n_rows, n_again = len(group), sum(bool(row["is_retryable"]) for row in group)
    count = f"{n_rows} track{'s' if n_rows > 1 else ''}"
    if group[0]["status"] == "skipped":
        return f"{count}, skipped as the settings wish"
    if n_again in (0, n_rows):
        return f"{count}, {'tried again by the next run' if n_again else 'not tried again while unchanged'}"
    return f"{count}, {n_again} of them tried again by the next run"


def _wrapped(text: str, width: int | None) -> list[str]:
    indent = "    "
    if width is None or width <= 2 * len(indent):
        return [indent + text]
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _text(cell: object) -> str:
    return str(cell).lower() if isinstance(cell, bool) else str(cell)
