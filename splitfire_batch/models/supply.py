"""Where weights may come from, besides what the registry says of them; and what a source may fail by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from splitfire_batch.config import RuntimeConfig
from splitfire_batch.storage import RetryBudget


class Unavailable(Exception):
    """One source cannot give a file; the text says why."""


class Away(Unavailable):
    """It cannot now, and may later."""


@dataclass(frozen=True, slots=True)
class Supply:
    """What the operator's settings say about getting weights, and who it is that gets them."""

    mirror: str | None = None
    """URL or folder under which `<model>/<file>` is looked for before the registry's own sources."""
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Options of the stores per URL prefix, as in `RuntimeConfig.storage`."""
    is_offline: bool = False
    """Whether no connection may be opened: only this machine's files will do."""
    patience_s: float = 0.0
    """A source that does not answer is asked for so long; 0 is for a few tries."""
    offers: tuple[str, ...] = ()
    """URLs of files of the driver's cache, each called as it is there."""
    asks_publishers: bool = True
    """Whether the registry's own sources are asked, too."""

    @property
    def budget(self) -> RetryBudget:
        """For each source."""
        return RetryBudget(tries=4, patience_s=self.patience_s, is_known=self.patience_s > 0)


NOTHING_SET = Supply()
"""No mirror, no options of stores, and connections may be opened."""


def supply_of(runtime: RuntimeConfig) -> Supply:
    """What the settings of a run say."""
    return Supply(runtime.weights_mirror, runtime.storage, runtime.offline)


def supply_of_worker(runtime: RuntimeConfig, offers: Sequence[str], patience_s: float) -> Supply:
    """What a worker may ask beyond its machine's cache: the offers of its run and the mirror, never a hub.

    Hundreds of workers would ask one at the same time, and many clusters have no way out.
    """
    return Supply(
        runtime.weights_mirror,
        runtime.storage,
        runtime.offline,
        patience_s,
        tuple(offers),
        asks_publishers=False,
    )
