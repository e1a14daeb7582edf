"""A store: a local folder or a prefix of a bucket, whose objects are read and written whole.

The only package that knows fsspec (in `buckets` and `s3`). Nothing is ever streamed into a store:
fsspec publishes what was written so far when such a stream is interrupted. A Store may be used by many
threads. It is never pickled, and must not be used after a fork (fsspec runs one event loop per process):
every worker opens its own from the URL and the options.
"""

from __future__ import annotations

import threading

from splitfire_batch.errors import ConfigError
from splitfire_batch.storage.buckets import Bucket, connect
from splitfire_batch.storage.faults import SCHEMES, Faults, RetryBudget
from splitfire_batch.storage.folder import Folder, StoredObject
from splitfire_batch.storage.listings import plain_etag
from splitfire_batch.storage.s3 import S3
from splitfire_batch.storage.store import Store
from splitfire_batch.storage.urls import Options, check_path, matching_options, parse_url, refuse_file

__all__ = [
    "PATIENCE_S",
    "Options",
    "RetryBudget",
    "Store",
    "StoredObject",
    "Stores",
    "check_path",
    "open_store",
    "parse_url",
    "plain_etag",
    "refuse_file",
]

PATIENCE_S = 60.0
"""Object stores answer 503 for as long as they need to spread a load."""


def open_store(url: str, options: Options, budget: RetryBudget | None = None) -> Store:
    """The store at `url`; nothing is asked of it yet.

    Args:
        url: a folder (`~` is the home folder), file:///folder, or scheme://bucket/prefix.
        options: per URL prefix; of those that match only the longest is used.
        budget: what is tried again, and for how long.

    Raises:
        ConfigError: a URL or option of no known kind, or a package that is not installed.
    """
    scheme, root = parse_url(url)
    budget = budget or RetryBudget(patience_s=PATIENCE_S)
    given = matching_options(options, scheme, root)
    unknown = sorted(set(given) - set(SCHEMES[scheme].options))
    if unknown:
        known = ", ".join(SCHEMES[scheme].options) or "none"
        raise ConfigError(f"{scheme}:// has no option {', '.join(unknown)}; known are {known}")
    if scheme == "file":
        return Store(root, Folder(root), Faults(SCHEMES[scheme], budget))
    fs = connect(scheme, given, budget)
    bucket = S3(fs, root) if scheme == "s3" else Bucket(fs, scheme, root)
    return Store(f"{scheme}://{root}", bucket, Faults(SCHEMES[scheme], budget))


class Stores:
    """Stores of many URIs, one per bucket and options, opened when first asked for."""

    def __init__(self, options: Options, budget: RetryBudget | None = None) -> None:
        self._options, self._budget = options, budget
        self._stores: dict[tuple[str, str], Store] = {}
        self._lock = threading.Lock()

    def locate(self, uri: str) -> tuple[Store, str]:
        """The store that holds an object, and the object's path in it. Raises ConfigError."""
        scheme, name = parse_url(uri)
        bucket, _, path = name.partition("/")
        options = matching_options(self._options, scheme, name)
        root = f"{scheme}://{bucket or '/'}"
        with self._lock:
            key = (root, repr(sorted(options.items())))
            if key not in self._stores:
                self._stores[key] = open_store(root, {root: options}, self._budget)
            return self._stores[key], path
