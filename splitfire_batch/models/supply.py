"""Where weights may come from, besides what the registry says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from splitfire_batch.config import RuntimeConfig


@dataclass(frozen=True, slots=True)
class Supply:
    """What the operator's settings say about getting weights."""

    mirror: str | None = None
    """URL or folder under which `<model>/<file>` is looked for before the registry's own sources."""
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Options of the stores per URL prefix, as in `RuntimeConfig.storage`."""
    is_offline: bool = False
    """Whether no connection may be opened: only this machine's files will do."""


def supply_of(runtime: RuntimeConfig) -> Supply:
    """What the settings of a run say."""
    return Supply(runtime.weights_mirror, runtime.storage, runtime.offline)
