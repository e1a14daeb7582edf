"""READMEs of cluster/ and infra/: what they name is there, and nothing of their folder is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from typer.main import get_command

from flows import cli
from tests.validators.refusal import ROOT, files_below, refuse_if

_KINDS = r"\.(?:md|yaml|yml|sh|json|py|toml|txt|env|tf|dockerignore)"


def check_names(path: Path) -> None:
    """Every file and every command of ours that the text names exists."""
    refuse_if([*_missing_files(path.read_text(), _folder(path)), *_missing_commands(path.read_text())])


def check_files(path: Path) -> None:
    """Every file of the folder that is no Python has a line in the table that says what checked it."""
    rows = re.findall(r"^\| (.+?) \|", path.read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    folder = _folder(path)
    wanted = {str(file.relative_to(folder)) for file in files_below(folder)} - {"README.md"}
    refuse_if(f"the table says nothing of {name}" for name in sorted(wanted - named))


def _folder(path: Path) -> Path:
    """Of the README that `path` is, or is a copy of: it says so in its first line."""
    is_cluster = path.read_text().startswith("# Clusters")
    return ROOT / ("cluster" if is_cluster else "infra")


def _missing_files(text: str, folder: Path) -> Iterator[str]:
    for name in sorted(set(re.findall(rf"`([\w./-]+{_KINDS})`", text))):
        if not (folder / name).exists() and not (ROOT / name).exists():
            yield f"{name} does not exist"


def _missing_commands(text: str) -> Iterator[str]:
    known = set(get_command(cli.app).commands)  # type: ignore[attr-defined]
    for command in sorted(set(re.findall(r"(?:^ *|`|-- )splitfire ([a-z]+)\b", text, re.MULTILINE))):
        if command not in known:
            yield f"splitfire {command} is no command"
