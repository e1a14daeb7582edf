"""infra/Dockerfile and what its builds may see: hadolint, and what we promise of the images."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.validators.refusal import ROOT, Refused, refuse_if, tool

_USER = "10001:10001"


def check_hadolint(path: Path) -> None:
    """No finding of hadolint, not even of style."""
    command = [tool("hadolint"), "--no-color", "--format=gnu", path]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"hadolint: {done.stdout or done.stderr}")


def check_promises(path: Path) -> None:
    """Stages, user, pins, sources: what infra/README.md says of the images."""
    text = path.read_text()
    refuse_if([*_stages(text), *_installs(text), *_sources(text)])


def check_ignore(path: Path) -> None:
    """Builds see nothing but what they copy: everything is left out, and that is let in again."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    wanted = {f"!{name}" for name in _copied((ROOT / "infra" / "Dockerfile").read_text())}
    let_in = {line for line in lines if line.startswith("!")}
    problems = ["* comes first: secrets and .git would travel"] if lines[:1] != ["*"] else []
    refuse_if(
        problems + [f"{line}: let in and not copied, or the other way round" for line in wanted ^ let_in]
    )


def _stages(text: str) -> Iterator[str]:
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, re.MULTILINE)
    names = [name for _, name in stages]
    if names[-2:] != ["cpu", "cuda"]:
        yield "wanted the targets cpu and cuda"
    if {base for base, _ in stages} - {"${BASE}", *names}:
        yield "a base that ARG BASE does not name"
    base = re.search(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    if not base or not re.fullmatch(r"\S+(:\d+\.\d+\.\d+[\w.-]*|@sha256:[0-9a-f]{64})", base[1]):
        yield "the base is not pinned by an exact tag or a digest"
    runtime = text.partition(" AS runtime")[2]
    if re.findall(r"^USER (\S+)$", runtime, re.MULTILINE) != [_USER]:
        yield f"wanted USER {_USER}, and no other: it is the one of cluster/rayjob.yaml"
    if "pip install" in runtime or "gcc" in runtime:
        yield "what builds the package is not to be in the image"


def _installs(text: str) -> Iterator[str]:
    for line in re.findall(r"^RUN .*pip install.*$", text, re.MULTILINE):
        if "--constraint constraints.txt" not in line:
            yield f"without exact versions: {line}"
    if re.search(r"\b(curl|ADD https?:|git clone)\b", text):
        yield "something is fetched that no package manager checks"
    if found := re.search(r"(?i)(password|secret|token)=", text):
        yield f"a secret in a layer: {found[0]}"


def _sources(text: str) -> Iterator[str]:
    for name in _copied(text):
        if not (ROOT / name).exists():
            yield f"{name} is copied and does not exist"


def _copied(text: str) -> set[str]:
    """What COPY takes from the repository: top-level names."""
    lines = [line for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) if "--from=" not in line]
    words = (word for line in lines for word in line.split()[:-1] if not word.startswith("--"))
    return {word.partition("/")[0] for word in words}
