"""A library cannot bring settings of Prefect, of which one runs code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.prefect_files import refuse_settings_in
from splitfire_batch.errors import ConfigError
from tests.small_library import COMMAND, environment, write_bad_track, write_tracks

ROOT = Path(__file__).parents[1]
HOSTILE = """\
version: 1
disable_existing_loggers: false
formatters:
  trap: {"()": "os.system", "command": "touch trapped"}
handlers:
  trap: {class: logging.StreamHandler, formatter: trap}
loggers:
  prefect: {handlers: [trap]}
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a deeper one; we stand in it."""
    folder = tmp_path / "library"
    (folder / "deeper").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def run(library: Path, *places: str) -> subprocess.CompletedProcess[str]:
    """`splitfire run` of a shell that stands in the library."""
    return subprocess.run(
        [sys.executable, "-P", *COMMAND[1:], "run", *places, "--model", "passthrough"],
        env={**environment(library.parent / "prefect"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )


def bring_settings(library: Path) -> None:
    (library / ".env").write_text("PREFECT_LOGGING_SETTINGS_PATH=logging.yml\n")
    (library / "logging.yml").write_text(HOSTILE)


@pytest.mark.parametrize("source", [".", "..", "file://{library}", "{library}/../library"])
def test_a_run_in_a_library_with_settings_of_prefect_is_refused(library: Path, source: str) -> None:
    bring_settings(library)
    done = run(library, source.format(library=library), str(library.parent / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"splitfire: {library}/.env has settings of Prefect and lies in the source")
    assert not (library / "trapped").exists()
    assert not (library.parent / "out").exists()


@pytest.mark.slow
def test_without_that_it_would_run_code(library: Path) -> None:
    """Prefect does so from a folder that is none of the library's; there it is the operator's own."""
    bring_settings(library)
    write_tracks(library.parent / "tracks", 1)
    assert run(library, "../tracks", "../out").returncode != 2
    assert (library / "trapped").exists()


@pytest.mark.slow
def test_standing_in_a_library_is_no_fault(library: Path) -> None:
    (library / ".env").write_text("KEY=value\n")
    write_bad_track(write_tracks(library, 2))
    done = run(library, ".", "../out")
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("2 done, 1 failed")


@pytest.mark.parametrize(
    ("name", "content", "is_refused"),
    [
        (".env", b"prefect_api_url=http://127.0.0.1:1/api", True),
        (".env", b"KEY=value", False),
        (".env", b"x" * (2**20 + 1), True),
        ("prefect.toml", b"", True),
        ("pyproject.toml", b"[tool.prefect]\nhome = '.'", True),
        ("pyproject.toml", b"[project]\nname = 'mine'", False),
        ("deeper/.env", b"PREFECT_HOME=.", False),
    ],
)
def test_only_what_prefect_would_read_is_refused(
    library: Path, name: str, content: bytes, is_refused: bool
) -> None:
    (library / name).write_bytes(content)
    if is_refused:
        with pytest.raises(ConfigError, match="run the command from another folder"):
            refuse_settings_in(str(library))
    else:
        refuse_settings_in(str(library))


@pytest.mark.parametrize("source", ["deeper", "s3://library", "deeper/catalogue.csv"])
def test_settings_beside_a_library_are_ones_own(library: Path, source: str) -> None:
    (library / "prefect.toml").touch()
    refuse_settings_in(source)
