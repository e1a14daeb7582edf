"""Where weights may come from, besides what the registry says of them; and what a source may fail by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from splitfire_batch.config import RuntimeConfig
from splitfire_batch.storage import RetryBudget


class Unavailable(Exception):
    """One source cannot give a file; the text says why."""


class Away(Unavailable):
    """It cannot now, and may later."""


@dataclass(frozen=True, slots=True)
class Supply:
    """What the operator's settings say about getting weights."""

    mirror: str | None = None
    """URL or folder under which `<model>/<file>` is looked for before the registry's own sources."""
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Options of the stores per URL prefix, as in `RuntimeConfig.storage`."""
    is_offline: bool = False
    """Whether no connection may be opened: only this machine's files will do."""
    patience_s: float = 0.0
    """A source that does not answer is asked for so long; 0 is for a few tries."""

    @property
    def budget(self) -> RetryBudget:
        """For each source."""
        return RetryBudget(tries=4, patience_s=self.patience_s, is_known=self.patience_s > 0)


def supply_of(runtime: RuntimeConfig) -> Supply:
    """What the settings of a run say."""
    return Supply(runtime.weights_mirror, runtime.storage, runtime.offline)
