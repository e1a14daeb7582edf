"""What a store or an object may be called: URLs of stores, and paths below them.

A URL is cut at `://` and at the bucket's `/`, and nothing else in it is special. What would reach beyond
buckets and folders (http, data, chained `::` URLs) or carry a secret is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from splitfire_batch.errors import ConfigError
from splitfire_batch.masking import holds_secret, masked, without_secret
from splitfire_batch.storage.faults import SCHEMES

Options = Mapping[str, Mapping[str, str]]
"""Settings per URL prefix, the longest wins: {"s3://": {"endpoint_url": "http://127.0.0.1:8333"}}."""

_NOT_IN_BUCKETS = re.compile(r"[?#%\\\s\x00-\x1f]")
"""What some reader of URLs would take for the end of a bucket's name, or decode."""
_ALLOWED = "allowed are a folder, file:///folder, " + ", ".join(
    f"{name}://bucket/prefix" for name in SCHEMES if name != "file"
)


def parse_url(url: str) -> tuple[str, str]:
    """Scheme and root of a store or an object: ("file", "/music") or ("s3", "bucket/prefix").

    Raises:
        ConfigError: a URL of no allowed kind; the message shows no user name or password.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        if (
            not url
            or "\0" in url
            or url.startswith("data:")
            or ("::" in url and "/" not in url.split("::")[0])
        ):
            raise ConfigError(f"found {url!r} where a store's URL is wanted; {_ALLOWED}")
        try:
            return "file", os.path.abspath(Path(url).expanduser())  # noqa: PTH100  (resolve() follows links)
        except RuntimeError as error:
            raise ConfigError(
                f"found {url!r}, and there is no such home folder; write the folder's full path"
            ) from error
    if scheme not in SCHEMES:
        raise ConfigError(f"a store cannot be {scheme}://...; {_ALLOWED}")
    if scheme == "file":
        if not rest.startswith("/") or "\0" in rest:
            raise ConfigError(f"found {url!r}, wanted file:///folder with three slashes")
        return "file", os.path.abspath(unquote(rest))  # noqa: PTH100
    rest = rest.rstrip("/")
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        raise ConfigError(
            f"a user, key or account in a {scheme}:// URL is refused; credentials come from the store's own "
            "chain (environment, profile, instance role), an Azure account from the option account_name"
        )
    is_odd = "::" in bucket or _NOT_IN_BUCKETS.search(bucket) or "\0" in rest or ".." in prefix.split("/")
    if not bucket or is_odd:
        raise ConfigError(f"found {masked(url)!r}, wanted {scheme}://bucket/prefix; {_ALLOWED}")
    return scheme, rest


def refuse_secrets(*urls: str | None) -> None:
    """Refuse URLs of a job that hold a password or a signature: they travel into logs, rows and databases.

    Raises:
        ConfigError: one does; it is not shown.
    """
    for url in urls:
        if url and holds_secret(url):
            raise ConfigError(
                f"found {without_secret(url)!r} with a password, key or signature; leave it out: "
                "credentials come from the store's own chain (environment, profile, instance role)"
            )


def refuse_file(url: str) -> None:
    """Refuse a file of this machine where a folder is wanted to write into; the folder need not be there.

    Raises:
        ConfigError: the path, or a part of it, is a file.
    """
    scheme, root = parse_url(url)
    for place in (Path(root), *Path(root).parents) if scheme == "file" else ():
        if os.path.isfile(place):  # noqa: PTH113  (is_file raises where a folder above may not be read)
            raise ConfigError(
                f"found the file {place}, wanted a folder to write into, or a URL such as "
                "s3://bucket/prefix; name another place, or move the file away"
            )


def matching_options(options: Options, scheme: str, root: str) -> Mapping[str, str]:
    """The options of the longest URL prefix."""
    url = f"{scheme}://{root}"
    names = [name for name in options if url.startswith(name) or (scheme == "file" and root.startswith(name))]
    return options[max(names, key=len)] if names else {}


def check_path(path: str) -> str:
    """The path, when it stays below a root; else ValueError."""
    if not path or path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ValueError(f"found the path {path!r}, wanted one below the store's root")
    return path
