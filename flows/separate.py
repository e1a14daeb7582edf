"""`splitfire separate`: a few files in this process, without Ray, Prefect or a manifest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from flows.foreign_flags import refuses_foreign_flags
from flows.options import WEIGHTS, Config, Flags, Json, Quiet, takes_settings
from flows.settings import load_settings
from splitfire_batch.escapes import one_line
from splitfire_batch.importing import uncollected
from splitfire_batch.records import TrackRow

EXIT_FAILED_TRACKS = 3
_HERE = (
    *("device", "threads", "batch", "compile", "audio_mb", "scratch_dir", *WEIGHTS),
    *("codecs", "codec_mb", "codec_s", "max_duration_s", "max_bytes"),
)
"""Of the runtime's settings, those that say something of a single process."""


@refuses_foreign_flags
@takes_settings("separation", "output", runtime=_HERE)
def separate(
    files: Annotated[list[Path], typer.Argument(help="Audio files.")],
    flags: Flags,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder or URL for the stems.")] = "separated",
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Separate a few files in this process, without Ray, Prefect or manifest. Replaces existing stems."""
    with uncollected():
        from flows.downloading import showing_downloads
        from flows.separating import showing_files
        from flows.signals import ending_at_once
        from splitfire_batch.headway import Headway
        from splitfire_batch.here import separate_files
        from splitfire_batch.storage.urls import refuse_secrets

    settings = load_settings(flags, config)
    refuse_secrets(out, settings.runtime.weights_mirror)
    runtime = dataclasses.replace(settings.runtime, measure="none")  # nothing of it is shown
    n_failed = 0
    headway = Headway()
    with showing_downloads(quiet):
        rows = separate_files(files, out, settings.separation, settings.output, runtime, headway)
    with showing_files(headway, quiet) as aside, ending_at_once(aside):
        for row in rows:
            n_failed += row.status == "failed"
            with aside():
                _print_row(row, out, as_json)
    raise typer.Exit(EXIT_FAILED_TRACKS if n_failed else 0)


def _print_row(row: TrackRow, out: str, as_json: bool) -> None:
    """What became of a file: the stems' paths on stdout, or on stderr why there are none."""
    from splitfire_batch.here import stem_uri

    paths = {stem.stem: stem_uri(out, stem) for stem in row.stems if stem.path}
    if as_json:
        record = {"file": row.track.path, "status": row.status, "code": row.code, "message": row.message}
        typer.echo(json.dumps({**record, "gain_db": row.gain_db, "stems": paths}))
    elif row.status != "done":
        typer.echo(one_line(f"{row.status} {row.code}: {row.message}"), err=True)
    else:
        for path in paths.values():
            typer.echo(path)
