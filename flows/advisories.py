"""Versions that must not be used, for `doctor`: a short list by hand, where no service can be asked.

`make audit` asks one for every package; this is for machines that reach none, and for what no index of Python
packages knows, such as libraries inside of wheels.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from splitfire_batch.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Advisory:
    """What is wrong with versions of a library before `fixed_in`; None while no release is better."""

    name: str
    fixed_in: str | None
    ids: str
    what: str


ADVISORIES = (
    Advisory("ray", "2.54", "CVE-2026-27482", "its dashboard deletes jobs for anybody"),
    Advisory(
        "prefect", "3.6.25", "CVE-2026-7723, CVE-2026-3514", "its server can be used without a password"
    ),
    Advisory("torch", "2.10", "CVE-2025-32434, CVE-2026-24747", "weights_only does not keep code out"),
    Advisory("pyarrow", "14.0.1", "CVE-2023-47248", "a table can run code"),
    Advisory("fsspec", "2026.9", "", "paths lead out of their root"),
    Advisory("libsndfile", None, "CVE-2025-56226 and unreleased fixes", "crashes; decode in children"),
)


def advice() -> str:
    """What stands against the versions installed here, where nothing better exists yet.

    Raises:
        ConfigError: a fixed version exists.
    """
    found = list(standing(installed()))
    lines = [f"{each.name} {version}: {each.what} ({each.ids or 'no number'})" for each, version in found]
    fixed = [f"{each.name} {each.fixed_in}" for each, _ in found if each.fixed_in]
    if fixed:
        raise ConfigError(f"{'; '.join(lines)}; install at least {', '.join(fixed)}")
    return f"no release is better than {'; '.join(lines)}" if lines else "none"


def standing(found: Mapping[str, str]) -> Iterator[tuple[Advisory, str]]:
    """The advisories that hold, with the version found.

    Args:
        found: version by name; what is missing is not installed.
    """
    for advisory in ADVISORIES:
        version = found.get(advisory.name)
        if version and (advisory.fixed_in is None or _order(version) < _order(advisory.fixed_in)):
            yield advisory, version


def installed() -> dict[str, str]:
    """Versions of what the list names, here."""
    from splitfire_batch.audio import codec_versions

    said = re.search(r"libsndfile ([\d.]+)", codec_versions())
    found = {"libsndfile": said[1] if said else ""}
    for advisory in ADVISORIES:
        if advisory.name not in found:
            found[advisory.name] = importlib.metadata.version(advisory.name)
    return found


def _order(version: str) -> tuple[int, ...]:
    """The numbers at its beginning: 2.13.0+cpu is 2, 13, 0."""
    return tuple(int(number) for number in re.findall(r"\d+", re.split(r"[+a-z]", version)[0]))
