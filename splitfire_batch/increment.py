"""What of a listing is new by its bytes and not by its etags: unchanged objects, and duplicates of others.

Objects are read only where `checksum` or `dedupe` asks for it, and only those that may be the same as others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from splitfire_batch.config import CatalogueConfig
from splitfire_batch.contents import Reader
from splitfire_batch.duplicates import find_duplicates
from splitfire_batch.plan import Ledger, find_todo
from splitfire_batch.plan_rows import NO_DUPLICATES
from splitfire_batch.rows import Rows
from splitfire_batch.settled import read_settled
from splitfire_batch.storage import Store
from splitfire_batch.unchanged import Unchanged, find_unchanged, with_unchanged


@dataclass(frozen=True, slots=True)
class Increment:
    """What a plan is made of besides the listing."""

    ledger: Ledger
    unchanged: Unchanged | None = None
    """Rows to be written, after which the ledger is what is said here."""
    duplicates: pa.Table = field(default_factory=lambda: NO_DUPLICATES)


def find_increment(
    store: Store,
    settings_id: str,
    listing: Rows,
    ledger: Ledger,
    config: CatalogueConfig,
    reader: Reader,
) -> Increment:
    """Tell unchanged objects and duplicates apart from what must be separated; nothing is written.

    Args:
        store: the destination.
        settings_id: of the run to come.
        listing: all tracks.
        ledger: what is settled, by etags.
        config: whether to read anything.
        reader: of the source's objects.

    Raises:
        TransientError: a store does not answer.
    """
    unchanged, duplicates = None, NO_DUPLICATES
    if config.checksum and config.overwrite == "changed":
        unchanged = find_unchanged(listing, read_settled(store, settings_id, ledger), reader)
        ledger = with_unchanged(ledger, unchanged)
    if config.dedupe:
        is_always = config.overwrite == "always"  # then nothing that is done counts
        settled = read_settled(store, settings_id, Ledger() if is_always else ledger)
        is_todo = find_todo(listing, ledger, config.overwrite)
        duplicates = find_duplicates(listing, is_todo, settled, reader)
    return Increment(ledger, unchanged, duplicates)
