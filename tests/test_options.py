"""The options of a command are the fields of the settings classes."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import app
from flows.options import Flags, takes_settings
from flows.settings import SECTIONS
from splitfire_batch import config

FILE_ONLY = {"storage"}  # a mapping of mappings has no sensible flag


def docstrings(cls: type) -> dict[str, str]:
    """The string below each field, read from the source: independent of what pydantic makes of it."""
    tree = ast.parse(textwrap.dedent(Path(config.__file__).read_text()))
    (body,) = (
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    )
    found = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = inspect.cleandoc(ast.literal_eval(text.value))
    return found


FIELDS = [
    (section, field.name)
    for section, cls in SECTIONS.items()
    for field in dataclasses.fields(cls)
    if field.name not in FILE_ONLY
]


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_every_field_has_an_option_with_its_docstring_as_help(command: str, section: str, field: str) -> None:
    option = next(
        param
        for param in typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
        if param.name == field
    )
    assert f"--{field.replace('_', '-')}" in option.opts
    assert option.help.startswith(docstrings(SECTIONS[section])[field])


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (("separate",), "[default: spleeter-2stems]"),
        (("separate",), "[default: no-compile]"),
        (("separate",), "[default: dither]"),
        (("models", "list"), "[default: splitfire.toml]"),
        (("models", "pull"), "[default: no-offline]"),
    ],
)
def test_help_shows_the_defaults(args: tuple[str, ...], shown: str) -> None:
    """Rich takes what is in brackets for markup, and leaves it out, unless it is escaped."""
    result = CliRunner().invoke(app, [*args, "--help"], env={"COLUMNS": "300"})
    assert shown in result.output


OF_ONE_PROCESS = {"device", "threads", "batch", "compile", "audio_mb"}
OF_WEIGHTS = {"registry", "weights_mirror", "offline", "require_commercial"}


@pytest.mark.parametrize(
    ("path", "has", "lacks"),
    [
        (("separate",), OF_ONE_PROCESS | OF_WEIGHTS, {"ray", "workers", "lease", "shard_s"}),
        (("models", "list"), {"registry", "require_commercial"}, {"ray", "weights_mirror", "device"}),
        (("models", "show"), {"registry"}, {"ray", "require_commercial"}),
        (("models", "pull"), OF_WEIGHTS, {"ray"}),
        (("models", "verify"), {"registry"}, {"ray", "weights_mirror"}),
    ],
)
def test_a_command_has_the_settings_that_change_something_there(
    path: tuple[str, ...], has: set[str], lacks: set[str]
) -> None:
    command: object = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    names = {param.name for param in command.params}  # type: ignore[attr-defined]
    assert has <= names
    assert not lacks & names


def flags_of(args: list[str]) -> Flags:
    """What a command with all sections is handed for these arguments."""
    heard: list[Flags] = []
    probe = typer.Typer()

    @probe.command()
    @takes_settings(*SECTIONS)
    def command(flags: Flags) -> None:
        heard.append(flags)

    result = CliRunner().invoke(probe, args)
    assert result.exit_code == 0, result.output
    return heard[0]


def test_only_what_was_given_is_passed_on() -> None:
    assert flags_of(["--format", "wav"]) == {**{s: {} for s in SECTIONS}, "output": {"format": "wav"}}


def test_of_a_section_only_the_named_fields_may_be_taken() -> None:
    heard: list[Flags] = []
    probe = typer.Typer()

    @probe.command()
    @takes_settings("output", runtime=("batch",))
    def command(flags: Flags) -> None:
        heard.append(flags)

    assert CliRunner().invoke(probe, ["--batch", "2"]).exit_code == 0
    assert heard == [{"output": {}, "runtime": {"batch": 2}}]
    assert CliRunner().invoke(probe, ["--workers", "2"]).exit_code == 2


def test_a_truth_can_be_switched_off() -> None:
    assert flags_of(["--no-dither"])["output"] == {"dither": False}


def test_an_option_for_many_values_may_be_repeated() -> None:
    flags = flags_of(["--stems", "vocals", "--stems", "instrumental", "--exclude", "*.mp3"])
    assert list(flags["separation"]["stems"]) == ["vocals", "instrumental"]
    assert list(flags["catalogue"]["exclude"]) == ["*.mp3"]


def test_numbers_arrive_as_numbers() -> None:
    flags = flags_of(["--workers", "3", "--sample", "2.5"])
    assert flags["runtime"] == {"workers": 3}
    assert flags["catalogue"] == {"sample": 2.5}


def test_a_level_below_zero_is_a_value_and_no_flag() -> None:
    flags = flags_of(["--skip-silent-stems", "-60", "--skip-without-vocals=-30"])
    assert flags["output"] == {"skip_silent_stems": -60.0, "skip_without_vocals": -30.0}


def test_a_value_outside_the_closed_set_lists_the_set() -> None:
    result = CliRunner().invoke(app, ["plan", "a", "b", "--format", "mp2"])
    assert result.exit_code == 2
    assert all(word in result.output for word in ("source", "wav", "flac", "aiff"))
