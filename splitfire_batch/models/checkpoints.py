"""Reads torch pickles without running anything of them.

`torch.load(weights_only=True)` refuses every class and function that is not on its list. Demucs' packages,
dicts with `klass`, `args`, `kwargs` and `state`, name some: in their place stand things that only keep what
they are given. What a package names so is told as JSON; whoever builds the network decides what it may be.

Checkpoints are dicts of tensors, or hold one under a usual name: `state`, `state_dict`, `model` and so on.
Tensors keep their precision.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitfire_batch.errors import ConfigError

_NESTED = ("state", "state_dict", "model_state_dict", "model", "best_state", "generator", "ema")
"""Keys under which programs keep the state of the network that is to be used, the first found wins."""
_MAX_DEPTH = 4
_MAX_VALUES, _MAX_NESTING = 10_000, 8
"""Of a package's arguments; published ones have less than a hundred values."""
_CLASSES = (
    "demucs.demucs.Demucs",
    "demucs.hdemucs.HDemucs",
    "demucs.htdemucs.HTDemucs",
    "demucs.wdemucs.WDemucs",
)
_VALUES = (
    "fractions.Fraction",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)
"""Of numbers in a package's arguments, and in the measurements beside them, that nobody reads here."""
_FRACTION = re.compile(r"(\d{1,9})/(\d{1,9})")
_WRONG = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    *(RuntimeError, EOFError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(AssertionError, OverflowError, UnicodeError, MemoryError),
)
"""What torch raises for bytes that are no checkpoint, damaged, or not allowed."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a torch pickle holds."""

    tensors: dict[str, Tensor]
    """By name, on the CPU, each with memory of its own."""
    package: str = ""
    """Of a demucs package: JSON with klass, args and kwargs; fractions as demucs 4.1 writes them."""


class _Inert:
    """Stands for an object that is not made: keeps its arguments, and does nothing."""

    def __init__(self, *args: object) -> None:
        self.args = args

    def __setstate__(self, state: object) -> None:
        """Nothing of it is kept."""


def read_checkpoint(path: Path, name: str) -> Checkpoint:
    """The tensors of a torch pickle, in torch's zip format or the one before.

    Args:
        path: the file; its bytes may be hostile.
        name: for messages.

    Raises:
        ConfigError: it names code, or is damaged, or holds no tensors under a usual name.
    """
    _check_zip(path, name)
    stand_ins: list[Any] = [(_stand_in(full), full) for full in (*_CLASSES, *_VALUES)]
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            # it is read, or refused, like any other
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            found = torch.load(path, map_location="cpu", weights_only=True)
    except _WRONG as error:
        raise ConfigError(_refusal(name, error)) from error
    tensors = _find_state(found, name)
    _check_sizes(tensors, path.stat().st_size, name)
    return Checkpoint(_with_own_memory(tensors), _package(found, name))


def _stand_in(full_name: str) -> type[_Inert]:
    return type(full_name, (_Inert,), {})


def _refusal(name: str, error: Exception) -> str:
    """Our words for what torch says; it advises to let the file run its code."""
    remedy = "Get it as safetensors, or save its state_dict alone"
    text = str(error)
    named = re.search(r"GLOBAL ([\w.]+)", text)
    if named:
        return (
            f"{name}: this checkpoint names {named[1]}, which would have to be run to open it; nothing was "
            f"run, and the file is refused. {remedy}"
        )
    if isinstance(error, pickle.UnpicklingError):
        why = text.partition("WeightsUnpickler error:")[2] or "it is no plain pickle of tensors"
        return (
            f"{name}: this checkpoint cannot be opened without running something of it ({_first_line(why)}); "
            f"nothing was run, and the file is refused. {remedy}"
        )
    return f"{name}: this is no torch checkpoint, or a damaged one ({_first_line(text)}); get the file again"


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "torch does not say why"
    return line[:200]


def _check_zip(path: Path, name: str) -> None:
    """Torch stores without compression: what is compressed may unpack to anything."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            items = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ConfigError(_refusal(name, error)) from error
    packed = [item.filename for item in items if item.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ConfigError(f"{name}: {packed[0]} in it is compressed, which torch never does; get it again")


def _find_state(found: object, name: str, depth: int = 0) -> dict[str, Tensor]:
    """The dict of tensors in what was loaded."""
    if isinstance(found, Mapping) and depth < _MAX_DEPTH:
        for key in _NESTED:
            inner = found.get(key)
            if isinstance(inner, Mapping) and inner:
                return _find_state(inner, name, depth + 1)
        if found and all(isinstance(value, Tensor) for value in found.values()):
            return {str(key): value.detach() for key, value in found.items()}
    what = _described(found)
    raise ConfigError(
        f"{name}: found {what}, wanted a dict of tensors, or one under {', '.join(_NESTED)}; "
        "save the network's state_dict alone with torch.save"
    )


def _described(found: object) -> str:
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__}"
    if found.get("__quantized"):
        return "a state that was quantised by diffq"
    odd = [f"{key} ({type(value).__name__})" for key, value in found.items() if not isinstance(value, Tensor)]
    return f"a dict with {', '.join(odd[:5])}" if odd else "an empty dict"


def _check_sizes(tensors: Mapping[str, Tensor], n_bytes: int, name: str) -> None:
    """A few stored numbers may be spread over a tensor of any size."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > 2 * n_bytes:
        raise ConfigError(f"{name}: its tensors claim {claimed} bytes, and the file has {n_bytes}; refused")
    odd = [key for key, tensor in tensors.items() if tensor.layout != torch.strided or tensor.is_quantized]
    if odd:
        raise ConfigError(f"{name}: {odd[0]} is a sparse or quantised tensor, wanted plain ones")


def _with_own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share none, as safetensors wants them; most never do, and large ones are not copied."""
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage()
        is_whole = tensor.is_contiguous() and storage.nbytes() == tensor.numel() * tensor.element_size()
        is_own = is_whole and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        own[key] = tensor if is_own else tensor.clone(memory_format=torch.contiguous_format)
    return own


def _package(found: object, name: str) -> str:
    """Class and arguments of a demucs package, as JSON; empty for anything else."""
    if not isinstance(found, Mapping) or not {"klass", "args", "kwargs"} <= found.keys():
        return ""
    klass = found["klass"]
    if not isinstance(klass, type) or klass.__name__ not in _CLASSES:
        raise ConfigError(f"{name}: its klass is {klass!r}, wanted one of {', '.join(_CLASSES)}")
    try:
        told = {"klass": klass.__name__, "args": list(found["args"]), "kwargs": dict(found["kwargs"])}
        _check_small(told)
        return json.dumps(told, default=_jsonable)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: the arguments of its network cannot be told: {error}") from error


def _check_small(told: object) -> None:
    """Lists that hold each other many times over are small in a pickle, and endless when written out."""
    n, left = 0, [(told, 0)]
    while left:
        value, depth = left.pop()
        n += 1
        if n > _MAX_VALUES or depth > _MAX_NESTING:
            raise ValueError(f"found more than {_MAX_VALUES} values, or more than {_MAX_NESTING} levels")
        if isinstance(value, Mapping):
            left += [(each, depth + 1) for each in value.values()]
        elif isinstance(value, list | tuple):
            left += [(each, depth + 1) for each in value]


def _jsonable(value: object) -> object:
    """Fractions as demucs 4.1 writes them; ValueError for what may be anything."""
    if isinstance(value, _Inert) and type(value).__name__ == "fractions.Fraction":
        # Python 3.11 and later pickle both numbers, before that it was a text
        match = _FRACTION.fullmatch("/".join(str(arg) for arg in value.args))
        if match and int(match[2]):
            fraction = Fraction(int(match[1]), int(match[2]))
            return {"_type": "fraction", "numerator": fraction.numerator, "denominator": fraction.denominator}
    raise ValueError(f"found a {type(value).__name__}")
