"""Gets one published file of a model: from the first source that has it, verified before anybody reads it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from splitfire_batch.errors import ConfigError, TransientError
from splitfire_batch.masking import masked
from splitfire_batch.models.cache import sha256_of
from splitfire_batch.models.cards import ModelCard, WeightsFile
from splitfire_batch.models.sources import WATCH as WATCH
from splitfire_batch.models.sources import Watch as Watch
from splitfire_batch.models.sources import obtain, part_of
from splitfire_batch.models.supply import Away, Supply, Unavailable
from splitfire_batch.storage.download import is_local
from splitfire_batch.storage.urls import parse_url

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A file whose bytes are the published ones."""

    path: Path
    source: str


def get_file(card: ModelCard, file: WeightsFile, supply: Supply, folder: Path) -> Found:
    """One published file of a model, verified, in a folder that is nobody else's.

    Args:
        card: the model.
        file: one of its files; its hash must be known.
        supply: the mirror that comes before its sources, and whether a connection may be opened.
        folder: where it is put, and where an earlier call may have left a part of it.

    Raises:
        ConfigError: no source has the right bytes (each is listed with its reason).
        TransientError: the same, and one of them does not answer: it may have them.
    """
    _refuse_open(card, file)
    whole = folder / file.name
    if whole.exists() and sha256_of(whole) == file.sha256:  # whoever fetched it was ended before it was used
        return Found(whole, "")
    failures: list[tuple[str, Unavailable]] = []
    for source in _sources(card, file, supply):
        try:
            found = _from(source, file, supply, folder).replace(whole)
            _log.info("weights_fetched model=%s file=%s source=%s", card.name, file.name, masked(source))
            return Found(found, source)
        except Unavailable as error:
            failures.append((masked(source), error))
    raise _failure(card, file, supply, failures)


def _failure(
    card: ModelCard, file: WeightsFile, supply: Supply, failures: list[tuple[str, Unavailable]]
) -> ConfigError | TransientError:
    """What no source's having a file means: it passes if one of them may have it later."""
    is_passing = any(isinstance(error, Away) for _, error in failures)
    tried = "\n  ".join(f"{source}: {error}" for source, error in failures)
    others = "the registry names no source" if supply.asks_publishers else "a worker asks no publisher"
    tried = tried or f"none: {others}, and no mirror is set"
    said = f"no source has {file.name} of {card.name} ({_size(file)}, sha256 {file.sha256}):\n  {tried}\n"
    remedy = _to_put(card, file, supply) if supply.asks_publishers else _to_share(card)
    if is_passing:
        return TransientError(f"{said}Run the same command again; or {remedy}")
    return ConfigError(f"{said}{'To work offline, ' if supply.asks_publishers else ''}{remedy}")


def _to_put(card: ModelCard, file: WeightsFile, supply: Supply) -> str:
    """What helps whoever runs a command."""
    place = _local_mirror(supply)
    also = "" if place else " and set weights_mirror to <folder>"
    return f"put it at {place or '<folder>'}/{card.name}/{file.name}{also}."


def _to_share(card: ModelCard) -> str:
    """What helps workers, which ask no publisher."""
    return (
        f"`splitfire models pull {card.name} --to URL` and weights_mirror = URL let workers have it, or a "
        "folder that all nodes share as SPLITFIRE_CACHE."
    )


def _local_mirror(supply: Supply) -> str:
    """The mirror's folder, if it is one."""
    mirror = supply.mirror or ""
    is_folder = bool(mirror) and is_local(mirror) and not mirror.startswith("memory://")
    return parse_url(mirror)[1] if is_folder else ""


def _from(source: str, file: WeightsFile, supply: Supply, folder: Path) -> Path:
    """The verified file from one source; anew, if what was gone on with turns out to be another's."""
    part = folder / part_of(file)
    is_continued = part.exists()
    try:
        return _verified(file, obtain(source, file, supply, folder))
    except Unavailable:
        if not is_continued or part.exists():
            raise
    return _verified(file, obtain(source, file, supply, folder))


def _refuse_open(card: ModelCard, file: WeightsFile) -> None:
    """A file whose hash nobody has vouched for is not opened."""
    if not file.sha256:
        raise ConfigError(
            f"{card.name}: bring your own weights: the sha256 of {file.name} is not known here, and files "
            "that cannot be verified are not opened; say its sha256 and where it lies in your own registry, "
            f'for a model of ours in a table with like = "{card.name}", and name that file with --registry'
        )


def _sources(card: ModelCard, file: WeightsFile, supply: Supply) -> tuple[str, ...]:
    mirror = [f"{supply.mirror.rstrip('/')}/{card.name}/{file.name}"] if supply.mirror else []
    return (*mirror, *(file.sources if supply.asks_publishers else ()))


def _size(file: WeightsFile) -> str:
    return "size not known" if file.n_bytes is None else f"{file.n_bytes} bytes"


def _verified(file: WeightsFile, path: Path) -> Path:
    """The file, if its bytes are the published ones; else it is removed, so that nobody goes on with it."""
    n_bytes, found = path.stat().st_size, sha256_of(path)
    if file.n_bytes not in (None, n_bytes):
        path.unlink()
        raise Unavailable(f"has {n_bytes} bytes, wanted {file.n_bytes}")
    if found != file.sha256:
        path.unlink()
        raise Unavailable(f"has the sha256 {found}, wanted {file.sha256}")
    return path
