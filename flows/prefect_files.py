"""Prefect's settings in the folder that one stands in are not taken where that folder belongs to the library.

Prefect reads `.env`, `prefect.toml` and `pyproject.toml` there as it is imported. One of its settings names a
file that sets up logging, and that file may name anything that Python is to call. In a folder of one's own
this is a feature; in a library, whoever packed it would run code here.
"""

from __future__ import annotations

from pathlib import Path

from splitfire_batch.errors import ConfigError

_FILES = (".env", "prefect.toml", "pyproject.toml")
_MAX_BYTES = 2**20


def refuse_settings_in(source: str) -> None:
    """To be called before Prefect is imported.

    Args:
        source: of a run. Where it is a folder, no folder in it may hold settings of Prefect for us.

    Raises:
        ConfigError: we stand in it, beside such a file.
    """
    from splitfire_batch.storage import parse_url  # it brings pyarrow, which `--help` does not need

    scheme, root = parse_url(source)
    here = Path.cwd()
    if scheme != "file" or not here.resolve().is_relative_to(Path(root).resolve()):
        return
    for name in _FILES:
        if _is_for_prefect(here / name):
            raise ConfigError(
                f"{here / name} has settings of Prefect and lies in the source {source}, whose files are not "
                "trusted: run the command from another folder, and set in the environment what it should have"
            )


def _is_for_prefect(path: Path) -> bool:
    """Whether Prefect may find settings there; in doubt it may."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError:
        return True
    return path.name == "prefect.toml" or len(text) > _MAX_BYTES or b"prefect" in text.lower()
