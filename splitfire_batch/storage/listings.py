"""Pages of S3 listings, as objects of a store; a million keys take seconds and not minutes of CPU.

botocore parses a page into a tree, twice, and each object into a dictionary: most of a listing's time. So its
objects are taken out of the answer beforehand, where botocore lets that be done: as texts between tags, since
S3 writes them flat and escaped. Requests, credentials and errors stay botocore's, and so does every page with
anything unusual in it: then there is nothing here to see, and the answer is the one it always was.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from datetime import datetime
from importlib import import_module
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from splitfire_batch.storage.folder import StoredObject

MAX_KEYS = 1_000
"""Of one page, the most that S3 gives."""
_EVENT = "before-parse.s3.*"
_MARK = "_gives_splitfire_its_listings"
_TURN = threading.Lock()
_TAKEN = "Taken"
"""Where an answer has its objects, when they were taken out."""
_FIELD = re.compile(r"<(Key|Size|ETag|LastModified|StorageClass)>([^<]*)</\1>")
_NEEDED = ["ETag", "Key", "LastModified", "Size"]
_USUAL = [*_NEEDED, "StorageClass"]
_OTHER_ENCODING = re.compile(rb"\s*<\?xml[^>]*encoding=.(?!utf-8)", re.IGNORECASE)
_FREQUENT = (("%20", " "), ("%28", "("), ("%29", ")"), ("%26", "&"), ("%27", "'"), ("%2C", ","))
"""Escapes in names of music. None stands for a hex digit or a percent sign, so none makes another one."""
_IS_ENCODED = b"<EncodingType>url</EncodingType>"
_Taken = tuple[str, int, str, str, str]  # key, bytes, etag, time, storage class


class Pages:
    """One page of a listing after the other, then None. A call that raised may be repeated.

    Args:
        ask: sends a request of S3's API, by its method's name.
        bucket: of the keys.
        prefix: every key begins with it.
        n_cut: letters at the beginning of keys that paths do not have.
        has_folders: list what lies directly below the prefix, and the prefixes of what lies deeper.
    """

    def __init__(
        self, ask: Callable[..., Any], bucket: str, prefix: str, n_cut: int, has_folders: bool = False
    ) -> None:
        self.prefix, self._ask, self._bucket, self._n_cut = prefix, ask, bucket, n_cut
        self._request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": MAX_KEYS}
        if has_folders:
            self._request["Delimiter"] = "/"
        self.is_over = False
        """Whether the last page was the last one."""
        self.folders: list[str] = []
        """Prefixes of what lies deeper, of all pages so far; each ends in "/"."""

    def __call__(self) -> list[StoredObject] | None:
        if self.is_over:
            return None
        try:
            answer = self._ask("list_objects_v2", **self._request)
            page = list(self._objects(answer))
            folders = [found["Prefix"] for found in answer.get("CommonPrefixes", ())]
        except (KeyError, TypeError, ValueError) as error:
            raise ConnectionError(f"a damaged listing arrived: {error!r}") from error
        self.folders += folders
        self.is_over = not answer.get("IsTruncated")
        self._request["ContinuationToken"] = answer.get("NextContinuationToken")
        return page

    def of(self, prefix: str, has_folders: bool = False) -> Pages:
        """The pages of another prefix in the same bucket."""
        return Pages(self._ask, self._bucket, prefix, self._n_cut, has_folders)

    def n_folders(self, page: Sequence[StoredObject]) -> int:
        """Folders directly below the prefix that objects of a page lie in; 0 if its last one lies in none."""
        begin = len(self.prefix) - self._n_cut
        parts = [found.path[begin:].partition("/") for found in page]
        return len({name for name, mark, _ in parts if mark}) if parts and parts[-1][1] else 0

    def _objects(self, answer: Mapping[str, Any]) -> Iterator[StoredObject]:
        taken: Iterable[_Taken] | None = answer.get(_TAKEN)
        if taken is None:
            for item in answer.get("Contents", ()):
                if not _is_mark(item["Key"]):
                    yield stored_object(item["Key"][self._n_cut :], item["Size"], item)
            return
        for key, n_bytes, etag, moment, storage_class in taken:
            if not _is_mark(key):
                modified = datetime.fromisoformat(moment).timestamp()
                yield StoredObject(key[self._n_cut :], n_bytes, plain_etag(etag), modified, storage_class)


def _is_mark(key: str) -> bool:
    """Such a key stands for an empty folder in some browsers; it is no object here."""
    return key.endswith("/")


def stored_object(path: str, n_bytes: int, answer: Mapping[str, Any]) -> StoredObject:
    """An object by what botocore says of it."""
    moment = answer.get("LastModified")
    modified = moment.timestamp() if isinstance(moment, datetime) else 0.0
    storage_class = str(answer.get("StorageClass", ""))
    return StoredObject(path, n_bytes, plain_etag(answer.get("ETag", "")), modified, storage_class)


def plain_etag(etag: str) -> str:
    """The etag without quotes and the mark of a weak one, which not every list of objects writes."""
    return etag.removeprefix("W/").strip('"')


def speed_up(client: Any) -> None:
    """Let a client of botocore give pages of listings to `Pages` quickly; calling again is harmless.

    botocore looks for errors in answers of status 200 first of all, and parses the whole page for it: it
    does so now when the objects are out. Where it has no such step by that name, nothing changes but speed.
    """
    with _TURN:
        if getattr(client, _MARK, False):
            return
        setattr(client, _MARK, True)
        events = client.meta.events
        looks_for_errors = getattr(import_module("botocore.handlers"), "_handle_200_error", None)
        if looks_for_errors:
            events.unregister(_EVENT, looks_for_errors)
        events.register_first(_EVENT, _on_answer)
        if looks_for_errors:
            events.register_first(_EVENT, looks_for_errors)


def _on_answer(
    operation_model: Any,
    response_dict: MutableMapping[str, Any],
    customized_response_dict: dict[str, Any],
    **_: object,
) -> None:
    if operation_model.name == "ListObjectsV2":
        take_objects(response_dict, customized_response_dict)


def take_objects(response_dict: MutableMapping[str, Any], customized_response_dict: dict[str, Any]) -> None:
    """Move the objects of a page from the response's body into the parsed answer, for `Pages`."""
    body: bytes = response_dict["body"]
    begin, end = body.find(b"<Contents>"), body.rfind(b"</Contents>")
    is_whole = 0 <= begin < end and body.rstrip().endswith(b"</ListBucketResult>")
    if response_dict["status_code"] != 200 or not is_whole:
        return
    if b"<!" in body or b"\r" in body or _OTHER_ENCODING.match(body):
        return  # comments, CDATA and line ends that a parser changes: what lies between tags is not the text
    try:
        taken = _taken(body[begin:end].decode(), is_encoded=_IS_ENCODED in body)
    except (ElementTree.ParseError, ValueError):  # botocore says what is wrong with it
        return
    if taken is not None:
        customized_response_dict[_TAKEN] = taken
        response_dict["body"] = body[:begin] + body[end + len(b"</Contents>") :]


def _taken(text: str, *, is_encoded: bool) -> list[_Taken] | None:
    """The objects, if all have the same elements in the same order and nothing lies between them."""
    n_objects = text.count("<Contents>")
    text = text.replace("&quot;", '"').replace("&#34;", '"')  # around each etag
    fields = _FIELD.findall(text)
    names = [name for name, _ in fields[: len(fields) // n_objects]]
    is_alike = [name for name, _ in fields] == names * n_objects and sorted(names) in (_NEEDED, _USUAL)
    if not is_alike or text.count("</Contents>") != n_objects - 1 or "<CommonPrefixes>" in text:
        return None
    values = [value for _, value in fields]
    if "&" in text:
        values = [_unescaped(value) for value in values]
    column = {name: values[index :: len(names)] for index, name in enumerate(names)}
    keys = _decoded(column["Key"]) if is_encoded else column["Key"]
    classes = column.get("StorageClass", [""] * n_objects)
    sizes = map(int, column["Size"])
    return list(zip(keys, sizes, column["ETag"], column["LastModified"], classes, strict=True))


def _unescaped(text: str) -> str:
    if "&" not in text:
        return text
    return ElementTree.fromstring(f"<t>{text}</t>").text or ""  # noqa: S314 - as botocore does


def _decoded(keys: list[str]) -> list[str]:
    """The keys as botocore decodes them, but all at once, unless one has a line end in it."""
    text = "\n".join(keys)
    if "%0A" in text or "%0a" in text or text.count("\n") >= len(keys):
        return [unquote_plus(key) for key in keys]
    for escape, letter in _FREQUENT:
        text = text.replace(escape, letter)
    return unquote_plus(text).split("\n")
