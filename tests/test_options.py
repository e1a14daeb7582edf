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
