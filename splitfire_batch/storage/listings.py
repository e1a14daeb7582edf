"""Pages of S3 listings, parsed by the C parser alone: botocore's own takes most of a listing's time.

It is done where botocore lets a response be parsed beforehand. Whatever is unusual is left to botocore: then
there is nothing here to see, and the answer, or the error, is the one it always was.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

_EVENT = "before-parse.s3.ListObjectsV2"


def speed_up(client: Any) -> None:
    """Let a client of botocore parse pages of listings quickly; calling again is harmless."""
    client.meta.events.register(_EVENT, take_contents, unique_id="splitfire-listings")


def take_contents(
    response_dict: MutableMapping[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """Move the objects of a page from the response's body into the parsed answer, as botocore would."""
    try:
        page = ElementTree.fromstring(response_dict["body"])  # noqa: S314 - as botocore does
        found = [item for item in page if _name(item) == "Contents"]
        contents = [_parsed(item) for item in found]
    except (ElementTree.ParseError, KeyError, ValueError):  # botocore says what is wrong with it
        return
    if contents and response_dict["status_code"] == 200:
        for item in found:
            page.remove(item)
        response_dict["body"] = ElementTree.tostring(page)
        customized_response_dict["Contents"] = contents


def _parsed(item: ElementTree.Element) -> dict[str, Any]:
    texts = {_name(value): value.text or "" for value in item}
    told: dict[str, Any] = {name: texts[name] for name in ("Key", "ETag")}
    if "StorageClass" in texts:
        told["StorageClass"] = texts["StorageClass"]
    return told | {
        "Size": int(texts["Size"]),
        "LastModified": datetime.fromisoformat(texts["LastModified"]),
    }


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
