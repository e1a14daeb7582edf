"""How a validator says no, and what several of them need."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
THIRD_PARTY = ROOT / "tests" / "third_party"


class Refused(ValueError):
    """The file must not be used as it is; says why."""


def refuse_if(problems: Iterable[str]) -> None:
    """Raise `Refused` with all of them, if there are any."""
    found = list(problems)
    if found:
        raise Refused("; ".join(found))


def files_below(folder: Path) -> Iterator[Path]:
    """Every file that needs a validator: all but Python, which ruff reads, and what tools leave behind."""
    for path in sorted(folder.rglob("*")):
        is_left_behind = ".tfstate" in path.name or any(part.startswith(".terraform") for part in path.parts)
        if path.is_file() and path.suffix not in (".py", ".pyc") and not is_left_behind:
            yield path


def tool(name: str) -> str:
    """A command of the environment that runs this, as pip put it there."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise FileNotFoundError(
            f"no {name} beside {sys.executable}; pip install -c constraints.txt -e '.[dev]'"
        )
    return found


def read_yaml(path: Path) -> Any:
    """The one document of a YAML file; `Refused` if it is none, or says a key twice."""
    try:
        return yaml.load(path.read_text(), Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise Refused(f"no YAML: {error}") from error


class _UniqueKeys(yaml.CSafeLoader):
    """Refuses what PyYAML lets pass: of two equal keys it would silently take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"keys said twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def pins() -> dict[str, str]:
    """The exact versions of constraints.txt, by name in lower case."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.lower(): version for name, version in pairs}
