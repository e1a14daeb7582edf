"""Shell scripts: shellcheck, and for the one of Slurm the options that sbatch reads."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from splitfire_batch.config import RuntimeConfig
from tests.validators.refusal import ROOT, Refused, refuse_if, tool

_SBATCH = {
    "job-name": r"[\w-]+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": "1",
    "gpus-per-node": r"([\w.-]+:)?\d+",
    "cpus-per-task": r"\d+",
    "mem": r"\d+[KMGT]?",
    "time": r"(\d+-)?\d+(:\d+){0,2}",
    "requeue": "",
    "open-mode": "append|truncate",
    "output": r"\S+",
    "signal": r"B:TERM@\d+",
}
"""Long options of sbatch that we use (slurm.schedmd.com/sbatch.html), and what they take."""


def check_shellcheck(path: Path) -> None:
    """No finding of shellcheck, not even of style."""
    done = subprocess.run(
        [tool("shellcheck"), "--external-sources", "--source-path", ROOT, "--format=gcc", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Refused(f"shellcheck: {done.stdout or done.stderr}")


def check_strictness(path: Path) -> None:
    """A script that goes on after a failed command does something that nobody wrote."""
    text = path.read_text()
    if text.startswith("#!") and not re.search(r"^set -(e?)uo pipefail$", text, re.MULTILINE):
        raise Refused("wanted `set -euo pipefail`, or -uo where exit codes are looked at")


def check_sbatch(path: Path) -> None:
    """sbatch's options are known ones with sound values, and say what cluster/README.md says."""
    refuse_if(_sbatch_problems(path.read_text()))


def _sbatch_problems(text: str) -> Iterator[str]:
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))
    n_lines = len(re.findall(r"^#SBATCH", text, re.MULTILINE))
    if n_lines != len(options):
        yield "an #SBATCH line that is no long option, or one said twice"
    for name, value in options.items():
        if name not in _SBATCH or not re.fullmatch(_SBATCH[name], value.strip()):
            yield f"sbatch: --{name}={value} is none that we know"
    if not {"requeue", "signal", "ntasks-per-node"} <= set(options):
        yield "sbatch: a job that is preempted is to be told, and queued again"
    first_command = re.search(r"^[^#\n]", text, re.MULTILINE)
    if first_command and "#SBATCH" in text[first_command.start() :]:
        yield "sbatch reads no option behind the first command"
    if "RAY_AUTH_MODE=token" not in text or "RAY_AUTH_TOKEN_PATH=" not in text:
        yield "Ray is started without a token"
    if "--include-dashboard=false" not in text:
        yield "the dashboard would be there for everybody on the machine"


def check_version(path: Path) -> None:
    """The wheel that machines install is the one of this commit."""
    wanted = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    found = re.search(r"^readonly VERSION=(\S+)", path.read_text(), re.MULTILINE)
    if not wanted or not found or found[1] != wanted[1]:
        raise Refused("VERSION is not that of pyproject.toml")


def check_environment(path: Path) -> None:
    """Sourcing it leaves what Ray and our package read, and nothing that looks like a secret."""
    script = f'set -eu; . "{path}"; env -0'
    clean = {"PATH": "/usr/bin:/bin", "HOME": "/home/ubuntu"}
    done = subprocess.run(["bash", "-c", script], env=clean, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"bash: {done.stderr}")
    found = dict(line.split("=", 1) for line in done.stdout.rstrip("\0").split("\0"))
    refuse_if(_environment_problems(found))


def _environment_problems(found: dict[str, str]) -> Iterator[str]:
    if found.get("RAY_AUTH_MODE") != "token":
        yield "RAY_AUTH_MODE: wanted token"
    if not found["PATH"].startswith("/home/ubuntu/venv/bin:"):
        yield "PATH: `ray down` would not find ray"
    if float(found.get("RAY_JOB_STOP_WAIT_TIME_S", 3)) <= RuntimeConfig().drain_s:
        yield "RAY_JOB_STOP_WAIT_TIME_S: a run that is stopped could not finish what is in flight"
    for name in ("SPLITFIRE_CACHE", "SPLITFIRE_RUNTIME__SCRATCH_DIR"):
        if not found.get(name, "").startswith("/"):
            yield f"{name}: wanted a folder"
    secrets = [name for name in found if re.search(r"SECRET|PASSWORD|ACCESS_KEY|AUTH_TOKEN", name)]
    if secrets:
        yield f"secrets: {secrets}"
