"""Who comes from demucs, spleeter or audio-separator and writes a flag of theirs is told what it is here."""

from __future__ import annotations

import re
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import app
from flows.foreign_flags import FOREIGN, Foreign, refuses_foreign_flags
from flows.options import Flags, takes_settings
from splitfire_batch.errors import ConfigError
from tests.small_library import run_main

COMMANDS = ("run", "plan", "separate")
FLAGS = [(flag, foreign) for foreign in FOREIGN for flag in foreign.flags]


def options_of(command: str) -> set[str]:
    """What it shows in its help, and so offers."""
    params = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {flag for param in params if not getattr(param, "hidden", False) for flag in param.opts}


@pytest.mark.parametrize(("flag", "foreign"), FLAGS, ids=[flag for flag, _ in FLAGS])
def test_a_flag_of_another_program_names_ours(flag: str, foreign: Foreign, monkeypatch, capsys) -> None:
    command = ("plan", "a", "b") if "-o" in foreign.flags else ("separate", "a.wav")
    value = () if foreign.kind is bool else ("2",)
    code, told, said = run_main(monkeypatch, capsys, *command, flag, *value)
    assert (code, told) == (2, "")
    assert said == f"splitfire: {'/'.join(foreign.flags)} is no option here: {foreign.here}\n"


def test_what_is_named_in_their_place_is_offered() -> None:
    offered = set.union(*map(options_of, COMMANDS))
    named = {word for foreign in FOREIGN for word in re.findall(r"(?<!\w)--?[a-z][a-z-]*", foreign.here)}
    assert named
    assert named <= offered


@pytest.mark.parametrize("command", COMMANDS)
def test_help_does_not_show_them(command: str) -> None:
    assert "--two-stems" not in CliRunner().invoke(app, [command, "--help"]).output


def test_a_flag_that_a_command_has_itself_stays_its_own() -> None:
    heard: list[str] = []
    probe = typer.Typer()

    @probe.command()
    @refuses_foreign_flags
    @takes_settings("output")
    def command(flags: Flags, name: Annotated[str, typer.Option("--name")] = "x") -> None:
        heard.append(name + flags["output"]["format"])

    assert CliRunner().invoke(probe, ["--name", "a", "--format", "wav"]).exit_code == 0
    assert heard == ["awav"]
    assert isinstance(CliRunner().invoke(probe, ["--two-stems", "vocals"]).exception, ConfigError)
