"""`splitfire doctor`: what is installed and whether it works, one check a line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from flows.advisories import advice
from flows.settings import Settings
from splitfire_batch.errors import ConfigError, SplitfireError
from splitfire_batch.masking import masked
from splitfire_batch.storage import Store, open_store
from splitfire_batch.storage.contract import try_promises
from splitfire_batch.storage.promises import PROMISES

_PACKAGES = (
    "splitfire-batch",
    "torch",
    "ray",
    "prefect",
    "fastapi",
    "pyarrow",
    "fsspec",
    "s3fs",
    "soundfile",
    "soxr",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    is_ok: bool
    found: str
    is_needed: bool = True
    """Whether no run can do without."""

    @property
    def mark(self) -> str:
        """The word for the first column."""
        if self.is_ok:
            return "ok"
        return "FAIL" if self.is_needed else "warn"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def diagnose(settings: Settings, destination: str | None) -> list[Check]:
    """Every check, failed ones included; a local destination keeps the folder that was made for it."""
    checks = [
        Check("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(_check(package, partial(importlib.metadata.version, package)) for package in _PACKAGES),
        _check("advisories", advice),
        _check("ray access", lambda: _ray_access(settings)),
        _check("prefect access", _prefect_access),
        _check("codecs", _codecs),
        _check("devices", _devices),
        _check("scratch", lambda: _scratch(settings)),
        _check("weights", lambda: _weights(settings)),
    ]
    if destination is not None:
        checks += _destination(destination, settings)
    return checks


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except (SplitfireError, OSError, ImportError, RuntimeError) as error:
        return Check(name, False, f"{type(error).__name__}: {error}")


def _codecs() -> str:
    from splitfire_batch.audio import codec_versions

    return codec_versions()


def _ray_access(settings: Settings) -> str:
    """What keeps strangers from the Ray that a run would use."""
    if settings.runtime.ray is None:
        return "a Ray of its own for each run: token authentication, this machine and this user only"
    from cluster.access import check_cluster
    from cluster.session import find_cluster, knock

    address = find_cluster(settings.runtime.ray)
    knock(address)
    return f"{address}: {check_cluster(address)}"


def _prefect_access() -> str:
    """What keeps strangers from Prefect's API; asked without a password."""
    import httpx

    from flows.own_server import api_url

    url = api_url()
    if url is None:
        return "a server of its own for each run: a random password, this machine and this user only"
    try:
        status = httpx.get(f"{url}/admin/version", timeout=10).status_code
    except httpx.HTTPError as error:
        raise ConnectionError(masked(f"{url} does not answer: {error}")) from error
    if status in (401, 403):
        return masked(f"{url} asks for a password")
    remedy = "set PREFECT_SERVER_API_AUTH_STRING, and see infra/README.md"
    raise ConfigError(masked(f"{url} answers {status} to somebody without a password: {remedy}"))


def _devices() -> str:
    import torch

    n_gpus = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(index) for index in range(n_gpus)]
    return f"{os.cpu_count()} CPU cores, {', '.join(names) or 'no GPU'}"


def _scratch(settings: Settings) -> str:
    folder = settings.runtime.scratch_dir or tempfile.gettempdir()
    return f"{folder}, {shutil.disk_usage(folder).free / 2**30:.1f} GiB free"


def _weights(settings: Settings) -> str:
    from splitfire_batch.models import fetch_weights, supply_of
    from splitfire_batch.stems import with_judged

    separation = with_judged(settings.separation, settings.output)
    paths = fetch_weights(separation, supply_of(settings.runtime))
    return ", ".join(map(str, paths)) or f"{separation.model} needs none"


def _destination(url: str, settings: Settings) -> list[Check]:
    """Whether it can be written to, and if so, which promises of a store it keeps."""
    stores: list[Store] = []

    def reach() -> str:
        store = open_store(url, settings.runtime.storage)
        store.check_writable()
        stores.append(store)
        return f"{store.url} answers"

    checks = [_check("destination", reach)]
    for store in stores:
        names = settings.output.names
        is_plain = names == "plain" or (names == "auto" and store.is_local)
        for verdict in try_promises(store, PROMISES, needs_lease=is_plain):
            name = f"destination {verdict.name}"
            checks.append(Check(name, verdict.holds, verdict.found, verdict.is_needed))
    return checks
