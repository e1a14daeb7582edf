"""Makes one safetensors file of a model's published files, whatever their format.

    .index and a data file      a TensorFlow checkpoint; both may lie in one .tar.gz
    .th .pt .pth .ckpt .bin     a torch pickle: see `checkpoints`, nothing of it is run
    .safetensors                as it is
    .yaml .yml .json            texts, kept beside the tensors

The files have been verified. What the tensors mean is known to the architectures.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.tensor_bundle import read_bundle

CONVERSION = 1
"""Raised whenever the same files come out as other bytes: cached files of another number are not used."""
TEXTS = "texts"
"""Of the safetensors file's metadata: JSON of the texts by name."""
PACKAGE = "package.json"
"""The text that says of what class a torch package is, with which arguments."""

_TEXT = (".yaml", ".yml", ".json")
_PICKLED = (".th", ".pt", ".pth", ".ckpt", ".bin")
_ARCHIVE = (".tar.gz", ".tgz")
_MAX_TEXT = 2**20
_MAX_MEMBER = 2**30
_KNOWN = "one .index and one data file, a .tar.gz of these, a .safetensors, .th, .pt, .pth, .ckpt or .bin"


def convert(model: str, files: Mapping[str, Path], to: Path) -> None:
    """Write the safetensors file `to`: tensors by their published names, texts in its metadata.

    Args:
        model: for messages.
        files: verified files by their published names.
        to: where to.

    Raises:
        ConfigError: files of no known format, damaged ones, or ones that want to run code.
    """
    texts = {name: _text(model, name, path) for name, path in files.items() if name.endswith(_TEXT)}
    rest = {name: path for name, path in files.items() if name not in texts}
    names = sorted(rest)
    if len(names) == 1 and names[0].endswith(_PICKLED):
        _from_pickle(model, names[0], rest[names[0]], texts, to)
    elif len(names) == 1 and names[0].endswith(".safetensors"):
        _from_safetensors(model, rest[names[0]], texts, to)
    elif len(names) == 1 and names[0].endswith(_ARCHIVE):
        _from_bundle(_members(model, rest[names[0]]), texts, to)
    elif len(names) == 2 and sum(name.endswith(".index") for name in names) == 1:
        _from_bundle({name: path.read_bytes() for name, path in rest.items()}, texts, to)
    else:
        raise ConfigError(f"{model}: found the files {names}, wanted {_KNOWN}; and texts, {', '.join(_TEXT)}")


def read_texts(path: Path) -> dict[str, str]:
    """The texts of a file that `convert` wrote."""
    with safe_open(path, framework="numpy") as file:
        metadata: dict[str, str] = file.metadata() or {}
    found: dict[str, str] = json.loads(metadata.get(TEXTS, "{}"))
    return found


def _metadata(texts: Mapping[str, str]) -> dict[str, str] | None:
    return {TEXTS: json.dumps(dict(texts), sort_keys=True)} if texts else None


def _text(model: str, name: str, path: Path) -> str:
    if path.stat().st_size > _MAX_TEXT:
        raise ConfigError(f"{model}: {name} has {path.stat().st_size} bytes, wanted at most {_MAX_TEXT}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{model}: {name} is no text: it is not UTF-8: {error}") from error


def _from_bundle(contents: Mapping[str, bytes], texts: Mapping[str, str], to: Path) -> None:
    (index,) = (name for name in contents if name.endswith(".index"))
    (data,) = (name for name in contents if name != index)
    save_file(dict(read_bundle(contents[index], contents[data])), to, _metadata(texts))


def _members(model: str, archive: Path) -> dict[str, bytes]:
    """The two files of a checkpoint in an archive; all else in it is left there."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for item in tar:
                name = Path(item.name).name
                source = tar.extractfile(item) if _is_of_bundle(item, name) else None
                if source is None:
                    continue
                if name in found or len(found) == 2:  # nobody knows how many more, and of what size
                    raise ConfigError(
                        f"{model}: {archive.name} holds {item.name} besides {sorted(found)}; "
                        "wanted one checkpoint"
                    )
                found[name] = source.read()
    except (OSError, tarfile.TarError, zlib.error, EOFError) as error:
        raise ConfigError(f"{model}: {archive.name} cannot be unpacked: {error}") from error
    if sum(name.endswith(".index") for name in found) != 1 or len(found) != 2:
        raise ConfigError(
            f"{model}: the archive holds {sorted(found)}, wanted one model.index and one "
            f"model.data-00000-of-00001, each of at most {_MAX_MEMBER} bytes"
        )
    return found


def _is_of_bundle(item: tarfile.TarInfo, name: str) -> bool:
    is_one = name.endswith(".index") or ".data-" in name
    return item.isfile() and is_one and not name.startswith("._") and item.size <= _MAX_MEMBER


def _from_pickle(model: str, name: str, path: Path, texts: Mapping[str, str], to: Path) -> None:
    from safetensors.torch import save_file as save_tensors  # torch takes seconds to import

    from splitfire_batch.models.checkpoints import read_checkpoint

    checkpoint = read_checkpoint(path, f"{model}: {name}")
    package = {PACKAGE: checkpoint.package} if checkpoint.package else {}
    save_tensors(checkpoint.tensors, to, _metadata({**package, **texts}))


def _from_safetensors(model: str, path: Path, texts: Mapping[str, str], to: Path) -> None:
    from safetensors.torch import load_file
    from safetensors.torch import save_file as save_tensors

    try:
        tensors = load_file(path)
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
        package = _package(metadata) if "klass" in metadata else {}
    except (SafetensorError, ValueError, KeyError) as error:
        raise ConfigError(f"{model}: these safetensors cannot be read: {error}; get them again") from error
    save_tensors(tensors, to, _metadata({**package, **texts}))


def _package(metadata: Mapping[str, str]) -> dict[str, str]:
    """What demucs 4.1 writes into its own safetensors' metadata: class and arguments, as JSON."""
    parts: dict[str, object] = {name: json.loads(metadata[name]) for name in ("args", "kwargs")}
    return {PACKAGE: json.dumps({"klass": metadata["klass"], **parts})}
