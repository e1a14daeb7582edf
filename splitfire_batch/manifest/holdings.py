"""Which settings a destination holds.

With immutable names stems of any settings lie side by side. With plain names a stem has one name, so a
destination holds one set of settings per model; another is refused unless it is to replace the first. A
replacement begins a new epoch: rows of older epochs no longer count as done, even for equal settings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from splitfire_batch.errors import ConfigError
from splitfire_batch.identity import differences, settings_id
from splitfire_batch.storage import Store

_FOLDER = "_splitfire/settings"


@dataclass(frozen=True, slots=True)
class Holding:
    """Settings that were used in a destination."""

    settings_id: str
    epoch: int
    settings: dict[str, Any]


def read_holdings(store: Store) -> list[Holding]:
    """Every settings the destination was used with, oldest epoch first."""
    found = [store.read(item.path) for item in store.list_under(_FOLDER)]
    holdings = [Holding(**json.loads(data)) for data in found]
    return sorted(holdings, key=lambda holding: (holding.epoch, holding.settings_id))


def choose_holding(store: Store, settings: dict[str, Any], is_immutable: bool, replace: bool) -> Holding:
    """The holding that a run with these settings adds to; new ones are not recorded yet.

    Raises:
        ConfigError: plain names, and the destination holds stems of the model made with other settings.
    """
    held = [item for item in read_holdings(store) if item.settings["model"] == settings["model"]]
    epoch = held[-1].epoch if held else 0
    others = [item for item in held if item.epoch == epoch and item.settings != settings]
    if is_immutable or not others:
        return Holding(settings_id(settings, epoch), epoch, settings)
    if replace:
        return Holding(settings_id(settings, epoch + 1), epoch + 1, settings)
    what = differences(others[-1].settings, settings)
    raise ConfigError(
        f"{store.url} holds stems of {settings['model']} made with other settings ({what}); "
        'choose another destination, pass --replace to write over them, or set names = "immutable"'
    )


def record_holding(store: Store, holding: Holding) -> None:
    """Keep the settings beside the rows that will name them."""
    values = {"settings_id": holding.settings_id, "epoch": holding.epoch, "settings": holding.settings}
    store.write(f"{_FOLDER}/{holding.settings_id}.json", json.dumps(values, indent=1).encode())


def is_current(holding: Holding, holdings: Sequence[Holding]) -> bool:
    """Whether no later epoch has replaced the holding's stems."""
    return not any(replaces(item, holding) for item in holdings)


def replaces(later: Holding, holding: Holding) -> bool:
    """Whether tracks done with those settings, of the same model, are written over what the holding has."""
    return later.settings["model"] == holding.settings["model"] and later.epoch > holding.epoch
