"""The command line, `splitfire`: data on stdout, talk on stderr, exit codes for scripts.

    0 done    1 a bug    2 usage    3 finished with failed tracks    4 stopped by --max-failures
    6 verification found a difference    75 try again later    130 interrupted

Everything heavy is imported inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.deploy import deploy
from flows.failures import failures
from flows.foreign_flags import refuses_foreign_flags
from flows.models import models_app
from flows.options import Config, Destination, Flags, Json, Quiet, Source, takes_settings
from flows.prefect_files import refuse_settings_in
from flows.retry import retry
from flows.separate import separate
from flows.settings import Settings, load_settings
from flows.signals import EXIT_INTERRUPTED, STOPPED_BY, ending
from flows.vacuum import vacuum
from flows.verify import verify
from splitfire_batch import __version__, errors
from splitfire_batch.escapes import one_line
from splitfire_batch.importing import uncollected
from splitfire_batch.masking import mask_logs

EXIT_USAGE, EXIT_TEMPORARY = 2, 75

app = typer.Typer(
    name="splitfire",
    help="Separate whole music libraries into stems.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
    saved_plan: Annotated[
        str | None, typer.Option("--plan", metavar="FILE", help="Do what `plan --save FILE` listed, no more.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Separate a whole catalogue: the Prefect flow, on Ray. Run it again to go on, or for what is new."""
    refuse_settings_in(source)
    with uncollected():
        from flows.local_run import run_flow

    settings = load_settings(flags, config)
    with redirect_stdout(sys.stderr):  # Ray prints a line whenever a worker dies
        report = run_flow(source, destination, settings, replace, quiet, saved_plan=saved_plan)
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
    save: Annotated[
        str | None, typer.Option(metavar="FILE", help="Keep what was listed, for `run --plan FILE`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what `run` would do. Writes nothing but the file of --save."""
    from flows.preview import preview

    typer.echo(preview(source, destination, load_settings(flags, config), replace, as_json, save))


app.command()(separate)


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


for _command in (failures, retry, verify, vacuum, deploy):
    app.command()(_command)
app.add_typer(models_app, name="models")


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
    from flows.summary import failure_lines, figure_lines, summary_lines

    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=1))
    else:
        for line in (*summary_lines(report), *figure_lines(report), *failure_lines(report)):
            typer.echo(line)
    if report.stopped_by:
        typer.echo(f"splitfire: {report.stopped_by}", err=True)


def run_exit_code(code: int) -> int:
    """130 instead of 75 when it was Ctrl-C that stopped the run."""
    return EXIT_INTERRUPTED if code == EXIT_TEMPORARY and signal.SIGINT in STOPPED_BY else code
