"""Rivals for the same objects, and who of them may say to have won.

The contract of a store is tried with threads (`doctor`) and processes (tests); each runs one of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from splitfire_batch.errors import ObjectChanged, ObjectExists, ObjectMissing
from splitfire_batch.storage.store import Store


def create_each(store: Store, paths: Sequence[str], rival: str) -> list[str]:
    """Try to create every object; those that this rival got."""
    won = []
    for path in paths:
        try:
            store.create(path, rival.encode())
        except ObjectExists:
            continue
        won.append(path)
    return won


def find_false_winner(store: Store, paths: Sequence[str], won: Mapping[str, Sequence[str]]) -> str:
    """What is wrong with the first object that has not exactly the winner who says so; "" if none is."""
    for path in paths:
        winners = [rival for rival, its in won.items() if path in its]
        if len(winners) != 1:
            return f"of {len(won)} rivals {len(winners)} created {path}"
        try:
            found = store.read(path).decode()
        except ObjectMissing:
            return f"{path} was created and is not there"
        if found != winners[0]:
            return f"{winners[0]} says it created {path}, {found} did"
    return ""


def count_up(store: Store, path: str, n_times: int, rival: str) -> None:
    """Add 1 to the number at `path` so many times, however often rivals are faster."""
    for n in range(n_times):
        while True:
            etag = store.stat(path).etag  # before the number: a rival's in between is found out
            number = int(store.read(path).split()[0])
            try:
                store.replace(path, f"{number + 1} by {rival} the {n}".encode(), etag)
                break
            except ObjectChanged:
                continue
