"""The command line, `splitfire`: data on stdout, talk on stderr, exit codes for scripts.

    0 done    1 a bug    2 usage    3 finished with failed tracks    4 stopped by --max-failures
    6 verification found a difference    75 try again later    130 interrupted

Everything heavy is imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.failures import failures
from flows.foreign_flags import refuses_foreign_flags
from flows.models import models_app
from flows.options import WEIGHTS, Config, Destination, Flags, Json, Quiet, takes_settings
from flows.retry import retry
from flows.settings import Settings, load_settings
from flows.signals import STOPPED_BY, ending
from flows.vacuum import vacuum
from flows.verify import verify
from splitfire_batch import __version__, errors
from splitfire_batch.escapes import one_line
from splitfire_batch.masking import mask_logs

EXIT_USAGE, EXIT_FAILED_TRACKS, EXIT_TEMPORARY, EXIT_INTERRUPTED = 2, 3, 75, 130

app = typer.Typer(
    name="splitfire",
    help="Separate whole music libraries into stems.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models_app, name="models")
app.command()(failures)
app.command()(retry)
app.command()(vacuum)
app.command()(verify)

Source = Annotated[str, typer.Argument(help="Folder, bucket prefix, audio file, or table with a uri column.")]
_HERE = (
    *("device", "threads", "batch", "compile", "audio_mb", "scratch_dir", *WEIGHTS),
    *("codecs", "codec_mb", "codec_s", "max_duration_s", "max_bytes"),
)
"""Of the runtime's settings, those that say something of a single process."""
Replace = Annotated[bool, typer.Option("--replace", help="Write over stems made with other settings.")]


def main() -> None:
    """Entry point: our own errors become one line and an exit code, never a traceback."""
    mask_logs()
    try:
        app()
    except errors.SplitfireError as error:
        sys.exit(_complain(error))


def _complain(error: errors.SplitfireError) -> int:
    # further lines are indented, so that no foreign text in them can pose as a message of its own
    first, *more = str(error).split("\n")
    for line in (f"splitfire: {first}", *(f"  {line.strip()}" for line in more)):
        print(one_line(line), file=sys.stderr)  # noqa: T201
    # credentials can be renewed and room be made, and then the same command goes on
    if isinstance(error, errors.TransientError | errors.CredentialsExpired | errors.NoSpace):
        return EXIT_TEMPORARY
    return EXIT_USAGE if isinstance(error, errors.ConfigError | errors.StorageError) else 1


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"splitfire {__version__}")
        raise typer.Exit


@app.command()
@refuses_foreign_flags
@takes_settings("separation", "output", "catalogue", "runtime")
@ending()  # from before what takes seconds to import
def run(
    source: Source,
    destination: Destination,
    flags: Flags,
    config: Config = None,
    replace: Replace = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Separate a whole catalogue: the Prefect flow, on Ray. Run it again to go on, or for what is new."""
    from flows.local_run import run_flow

    settings = load_settings(flags, config)
    with redirect_stdout(sys.stderr):  # Ray prints a line whenever a worker dies
        report = run_flow(source, destination, settings, replace, quiet)
    print_report(report, as_json)
    raise typer.Exit(run_exit_code(report.exit_code))


@app.command()
@refuses_foreign_flags
@takes_settings("separation", "output", "catalogue", "runtime")
def plan(
    source: Source,
    destination: Destination,
    flags: Flags,
    config: Config = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Show what `run` would do. Writes nothing."""
    from flows.preview import preview

    typer.echo(preview(source, destination, load_settings(flags, config), replace, as_json))


@app.command()
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
    from flows.downloading import showing_downloads
    from splitfire_batch.here import separate_files, stem_uri
    from splitfire_batch.storage.urls import refuse_secrets

    settings = load_settings(flags, config)
    refuse_secrets(out, settings.runtime.weights_mirror)
    runtime = dataclasses.replace(settings.runtime, measure="basic")  # nothing of it is shown
    n_failed = 0
    with showing_downloads(quiet):
        rows = separate_files(files, out, settings.separation, settings.output, runtime)
        first = next(rows, None)  # it comes once the weights are there
    for row in () if first is None else (first, *rows):
        n_failed += row.status == "failed"
        if as_json:
            paths = {stem.stem: stem_uri(out, stem) for stem in row.stems if stem.path}
            record = {"file": row.track.path, "status": row.status, "code": row.code, "message": row.message}
            typer.echo(json.dumps({**record, "gain_db": row.gain_db, "stems": paths}))
        elif row.status != "done":
            typer.echo(one_line(f"{row.status} {row.code}: {row.message}"), err=True)
        else:
            for stem in row.stems:
                if stem.path:
                    typer.echo(stem_uri(out, stem))
    raise typer.Exit(EXIT_FAILED_TRACKS if n_failed else 0)


@app.command()
def status(
    destination: Destination,
    watching: Annotated[
        bool, typer.Option("--watch", "-w", help="Show the run that is at work until it ends.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show what a destination holds, the run at work and the last one; needs no cluster and no server."""
    from flows.status import status_text
    from flows.watch import watch

    settings = load_settings({}, config)
    if not watching:
        typer.echo(status_text(destination, settings, as_json))
        return
    try:
        watch(destination, settings, as_json)
    except KeyboardInterrupt:  # it is the run's that tells how to go on, and it does go on
        raise typer.Exit(EXIT_INTERRUPTED) from None


@app.command()
@takes_settings("runtime")
def doctor(
    flags: Flags,
    config: Config = None,
    destination: Annotated[
        str | None, typer.Option(help="Also try what a destination promises, on objects of its own.")
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure batch, threads and precisions here, and keep the best.")
    ] = False,
    tune_on: Annotated[
        Path | None, typer.Option("--tune-on", help="As --tune; precisions are compared on this audio file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this installation: versions, codecs, devices, weights, stores. Or tune it to this machine."""
    settings = load_settings(flags, config)
    if tune or tune_on:
        _tune(settings, tune_on, as_json)
        return
    from flows.doctor import diagnose

    checks = diagnose(settings, destination)
    if as_json:
        typer.echo(json.dumps([check.as_dict() for check in checks], indent=1))
    else:
        for check in checks:
            typer.echo(f"{check.mark:4} {check.name}: {one_line(check.found)}")
    raise typer.Exit(1 if any(check.mark == "FAIL" for check in checks) else 0)


def _tune(settings: Settings, file: Path | None, as_json: bool) -> None:
    from flows.tune import tune_here, tune_lines

    found = tune_here(settings, file)
    for line in [json.dumps(found.as_dict(), indent=1)] if as_json else tune_lines(found):
        typer.echo(line)


def print_report(report: Any, as_json: bool) -> None:
    """A run's end on stdout."""
    from flows.summary import failure_lines, summary_lines

    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=1))
    else:
        for line in (*summary_lines(report), *failure_lines(report)):
            typer.echo(line)
    if report.stopped_by:
        typer.echo(f"splitfire: {report.stopped_by}", err=True)


def run_exit_code(code: int) -> int:
    """130 instead of 75 when it was Ctrl-C that stopped the run."""
    return EXIT_INTERRUPTED if code == EXIT_TEMPORARY and signal.SIGINT in STOPPED_BY else code
