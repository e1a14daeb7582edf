"""A few generated tracks, and the command line to run on them, for tests of `flows`."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file

from tests.assets import one_shots

COMMAND = [sys.executable, "-c", "from flows.cli import main; main()"]


def write_tracks(folder: Path, n_tracks: int, seconds: float = 0.5) -> Path:
    """Stereo WAVs, each a tone of its own; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(int(44_100 * seconds)) / 44_100
    for number in range(n_tracks):
        tone = 0.2 * np.sin(2 * np.pi * 110 * (number + 1) * time_s)
        soundfile.write(folder / f"tone {number:02}.wav", np.stack([tone, -tone], axis=1), 44_100)
    return folder


def write_bad_track(folder: Path) -> Path:
    """A file that only its name makes audio."""
    bad = folder / "bad.wav"
    bad.write_bytes(b"this is no audio at all")
    return bad


@dataclass(frozen=True)
class Library:
    """A folder of tracks, and what must become of each."""

    folder: Path
    wanted: dict[str, int | str]
    """By path: the frames that its stems have, or the code of its failure."""


def write_one_shots(folder: Path, n_good: int) -> Library:
    """The shortest of the real one-shots, and a file that is no audio."""
    wanted: dict[str, int | str] = {}
    for file in sorted(one_shots(), key=lambda path: path.stat().st_size)[:n_good]:
        shutil.copy(file, folder / file.name)
        wanted[file.name] = soundfile.info(file).frames
    bad = write_bad_track(folder)
    return Library(folder, {**wanted, bad.name: "NOT_AUDIO"})


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content; {} when there is no folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_registry(folder: Path) -> Path:
    """A registry with a model that is `passthrough` but for a file of weights, of which nothing is used."""
    weights = folder / "a.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32)}, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    registry = folder / "my.toml"
    registry.write_text(
        f'[weighed]\nlike = "passthrough"\n[[weighed.files]]\nname = "a.safetensors"\n'
        f'sha256 = "{digest}"\nsources = ["{weights}"]\n'
    )
    return registry


def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line in this process."""
    from flows.cli import main

    monkeypatch.setattr(sys, "argv", ["splitfire", *map(str, args)])
    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def environment(home: Path, api_url: str | None = None) -> dict[str, str]:
    """Of a child process: nothing of Prefect is shared with the machine, or only the API at `api_url`."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    variables |= {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    return variables | ({"PREFECT_API_URL": api_url} if api_url else {})
