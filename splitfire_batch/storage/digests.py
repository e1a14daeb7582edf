"""Whether the bytes that arrived are those the store has, judged by an etag that looks like an MD5.

In most stores that speak S3 the etag of an object that was uploaded in one piece is its MD5. It is not where
the object is encrypted with a key of the customer's, and in a few stores never, and nothing tells. So bytes
with another MD5 are fetched again, and believed when they come a second time with the length they should
have: damage does not repeat itself, except for what is cut short.
An etag with a dash (upload in parts) and etags of Google and Azure say nothing; there the length is checked.
Where a store keeps a checksum of the whole object that botocore can compute (CRC-32, SHA-1, SHA-256; for
AWS's CRC-64 it needs the package awscrt), it has compared it with the bytes as they came, and the etag need
not be asked.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import NamedTuple

from splitfire_batch.errors import ObjectChanged

_MD5 = re.compile("[0-9a-f]{32}")
_log = logging.getLogger(__name__)


class Arrival(NamedTuple):
    """What a download brought."""

    etag: str
    """Of just these bytes where the store tells it with them."""
    is_checked: bool = False
    """Whether their checksum is the one that the store keeps."""


class EtagCheck:
    """Compares the downloads of one store; its verdict on the store's etags lasts."""

    def __init__(self) -> None:
        self._are_md5 = True

    def check(self, uri: str, data: bytes | Path, etag: str, seen: set[str]) -> None:
        """Raise ConnectionError for bytes that do not fit the etag, unless the last try had them too.

        Args:
            uri: for the message.
            data: what arrived, or the file that it arrived in.
            etag: of the object.
            seen: empty at first, and kept by the caller over the tries of one download.
        """
        if not self._are_md5 or not _MD5.fullmatch(etag):
            return
        found = _md5_of(data)
        if found == etag:
            return
        if f"{etag} {found}" not in seen:
            seen.add(f"{etag} {found}")
            raise ConnectionError(f"bytes with the MD5 {found} arrived, the store's etag is {etag}; damaged")
        self._are_md5 = False
        _log.info("etags_are_no_md5 uri=%s: downloads from this store are checked by length only", uri)


def check_length(found: int, wanted: int) -> None:
    """Raise ConnectionError if another number of bytes arrived than was expected."""
    if found != wanted:
        raise ConnectionError(f"{found} bytes arrived, {wanted} were expected; changed or cut short")


def check_etag(uri: str, found: str, wanted: str) -> None:
    """Raise ObjectChanged for another etag than is wanted; "" is any."""
    if wanted and found != wanted:
        raise ObjectChanged(uri, f"found etag {found}, wanted {wanted}")


def _md5_of(data: bytes | Path) -> str:
    if isinstance(data, bytes):
        return hashlib.md5(data, usedforsecurity=False).hexdigest()
    with data.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
