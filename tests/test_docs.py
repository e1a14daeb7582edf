"""README and CONTRIBUTING against the code: commands, options, files, settings and exit codes exist."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from flows import cli
from flows.foreign_flags import FOREIGN
from flows.separate import EXIT_FAILED_TRACKS
from flows.settings import SECTIONS
from flows.signals import EXIT_INTERRUPTED
from flows.verify import EXIT_MISMATCH
from splitfire_batch.config import configure
from splitfire_batch.errors import FAILURE_CODES, FailureCode
from splitfire_batch.models import registry
from splitfire_batch.models.user_registry import read_registry
from splitfire_batch.report import EXIT_TOO_MANY_FAILED

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def _lines() -> list[str]:
    """Shell lines of the README, comments cut off."""
    lines = "\n".join(_blocks(README, "sh")).splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.strip()]


SPLITFIRE_LINES = [line for line in _lines() if line.startswith("splitfire ")]
MAKE_LINES = [line for line in _lines() if line.startswith("make ")]


def _find(words: list[str]) -> tuple[object, list[str]]:
    """The command that the words name, and the words behind its name."""
    command: object = get_command(cli.app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words[0]]  # type: ignore[attr-defined]
        words = words[1:]
    return command, words


@pytest.mark.parametrize("line", SPLITFIRE_LINES)
def test_every_command_of_the_readme_exists_with_its_options(line: str) -> None:
    command, rest = _find(shlex.split(line)[1:])
    assert not getattr(command, "commands", None), f"{line}: no such command"
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    known |= {"--help", "-h"}
    assert {word for word in rest if word.startswith("-")} <= known


def test_every_command_is_in_the_readme() -> None:
    shown = {_find(shlex.split(line)[1:])[0].name for line in SPLITFIRE_LINES}
    root = get_command(cli.app)
    commands = set(root.commands) | set(root.commands["models"].commands)
    assert commands - {"models"} == shown


def test_every_make_target_of_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in MAKE_LINES}
    named |= {
        line.split()[1] for line in "\n".join(_blocks(CONTRIBUTING, "")).splitlines() if "make " in line
    }
    assert named <= targets
    assert {"demo", "test"} <= {line.split()[1] for line in MAKE_LINES}


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_file_that_the_documents_name_exists(text: str) -> None:
    named = set(re.findall(r"[`\s]((?:flows|cluster|splitfire_batch|tests|infra)/[\w/.]+\.\w+)", text))
    assert named
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_settings_of_the_readme_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_added", {})
    settings, registries = [], []
    for block in _blocks(README, "toml"):
        (settings if tomllib.loads(block).keys() & SECTIONS.keys() else registries).append(block)
    for block in settings:
        for section, values in tomllib.loads(block).items():
            configure(SECTIONS[section], values)
    for block in registries:
        cards = read_registry(re.sub(r'sha256 = ".*"', f'sha256 = "{"0" * 64}"', block), "README")
        registry.add_cards(cards, "README")
        assert cards
    assert settings
    assert registries


def test_the_exit_codes_of_the_readme_are_those_of_the_command_line() -> None:
    documented = set(re.findall(r"^\| (\d+) \|", README, re.MULTILINE))
    used = {cli.EXIT_USAGE, EXIT_FAILED_TRACKS, cli.EXIT_TEMPORARY, EXIT_INTERRUPTED}
    used |= {EXIT_MISMATCH, EXIT_TOO_MANY_FAILED}
    assert documented == {"0", "1", *map(str, used)}


def test_the_python_of_the_readme_uses_what_there_is() -> None:
    import splitfire_batch

    for block in _blocks(README, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "splitfire_batch":
                assert hasattr(splitfire_batch, node.attr)


def test_no_document_holds_a_placeholder() -> None:
    assert not set(re.findall(r"[A-Z]+_OUTPUT", README)) - set(FAILURE_CODES)


def test_the_readme_has_a_row_for_every_failure_code_and_no_other() -> None:
    def told(code: FailureCode) -> str:
        return "no" if not code.is_retryable else f"{code.stands_after} runs" if code.stands_after else "yes"

    wanted = [f"| `{name}` | {code.meaning} | {told(code)} |" for name, code in FAILURE_CODES.items()]
    found = re.findall(r"^\| `[A-Z_]+` \|.*\|$", README, re.MULTILINE)
    assert sorted(found) == sorted(wanted), "the table of README should be:\n" + "\n".join(wanted)


def test_what_the_readme_offers_for_the_flags_of_demucs_is_what_the_command_line_says() -> None:
    """Of each flag on the left: it is ours, or ends with a text that names the same options of ours."""
    table = README.partition("| demucs | here |\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`-.*?) \| (.*) \|$", table, re.MULTILINE)
    known = {flag: foreign.here for foreign in FOREIGN for flag in foreign.flags}
    assert len(rows) > 8
    for left, right in rows:
        flags = [flag for flag in re.findall(r"(?<![\w-])--?[a-z][\w-]*", left) if flag != "--overlap"]
        texts = " ".join(known[flag] for flag in flags)
        assert set(re.findall(r"--[a-z]+", right)) <= set(re.findall(r"--[a-z]+", texts)), left
