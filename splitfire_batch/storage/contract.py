"""Tries what a store promises on objects of its own, says what holds, and cleans up: `splitfire doctor`.

`promises` has what is tried.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from splitfire_batch.errors import SplitfireError
from splitfire_batch.storage.store import Store


class Broken(Exception):
    """What was promised does not hold; says what was seen."""


@dataclass(slots=True)
class Trial:
    """A store and a folder in it that nobody else uses."""

    store: Store
    folder: str
    paths: list[str] = field(default_factory=list)
    """All that may have been written, to be removed."""

    def path(self, name: str) -> str:
        """Path of an object of ours."""
        self.paths.append(f"{self.folder}/{name}")
        return self.paths[-1]

    def must(self, is_true: bool, otherwise: str) -> None:
        """Raise Broken unless it is."""
        if not is_true:
            raise Broken(otherwise)


@dataclass(frozen=True, slots=True)
class Promise:
    """One thing that is asked of a store."""

    name: str
    look: Callable[[Trial], str]
    """Says what was seen, or raises Broken or an exception of ours."""
    otherwise: str = ""
    """What follows where it does not hold; "" where no run can do without."""
    for_lease: frozenset[str] = frozenset()
    """The kinds of store, of "folder" and "bucket", where a lease is kept by this."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a promise holds."""

    name: str
    holds: bool
    found: str
    is_needed: bool


def try_promises(store: Store, promises: Sequence[Promise], needs_lease: bool) -> list[Verdict]:
    """A verdict on each; the store is left as it was found, also when the trial is broken off.

    Args:
        store: its root is there and may be written to; nothing outside `_splitfire/doctor-*` is touched.
        promises: what to try.
        needs_lease: whether the run depends on what else only makes it safe against a second run.
    """
    trial = Trial(store, f"_splitfire/doctor-{secrets.token_hex(4)}")
    verdicts = []
    try:
        for promise in promises:
            verdicts.append(_judge(promise, trial, needs_lease))
    finally:
        left = _clean(trial)
    return [*verdicts, Verdict("clean-up", False, left, False)] if left else verdicts


def _judge(promise: Promise, trial: Trial, needs_lease: bool) -> Verdict:
    kind = "folder" if trial.store.is_local else "bucket"
    is_needed = not promise.otherwise or (needs_lease and kind in promise.for_lease)
    try:
        return Verdict(promise.name, True, promise.look(trial), is_needed)
    except (Broken, SplitfireError) as error:
        why = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
        return Verdict(promise.name, False, "; ".join(filter(None, [why, promise.otherwise])), is_needed)


def _clean(trial: Trial) -> str:
    """Remove what was written, by name too, for the listing may be what is broken; what went wrong, if so."""
    try:
        listed = [each.path for each in trial.store.list_under(trial.folder)]
        for path in {*trial.paths, *listed}:
            trial.store.delete(path)
        left = [each.path for each in trial.store.list_under(trial.folder)]
    except SplitfireError as error:
        return f"remove {trial.store.uri_of(trial.folder)} yourself: {error}"
    if trial.store.is_local:
        root = Path(trial.store.uri_of(trial.folder))
        folders = sorted((each for each in root.rglob("*") if each.is_dir()), reverse=True)
        for folder in [*folders, root, root.parent]:
            with suppress(OSError):  # not empty: the last one holds what runs wrote
                folder.rmdir()
        if root.exists() and not left:
            return f"{root} could not be removed, something is in it; remove it"
    return f"{len(left)} objects are still in {trial.store.uri_of(trial.folder)}; remove them" if left else ""
