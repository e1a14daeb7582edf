"""Listings parsed by ourselves say what botocore says of them, and what is unusual is left to botocore."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from splitfire_batch.errors import TransientError
from splitfire_batch.storage import RetryBudget, Store, listings, open_store, s3
from splitfire_batch.storage.listings import take_objects
from tests.s3_server import S3Server

KEYS = [
    "a b+c/x%.wav",
    "é & <b>.wav",
    'quote".wav',
    "line\u2028two.wav",
    "plain/x.wav",
    "%2F.wav",
    "two\n1.wav",
]

AWS = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix></Prefix>
<KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>
<Contents><Key>a+b/caf%C3%A9%2B%25.wav</Key><LastModified>2023-05-01T10:20:30.000Z</LastModified>
<ETag>&quot;0123456789abcdef0123456789abcdef&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>
<ChecksumType>FULL_OBJECT</ChecksumType><Size>5368709121</Size><Owner><ID>65a0</ID><DisplayName>Key</DisplayName>
</Owner><StorageClass>DEEP_ARCHIVE</StorageClass><RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>
</RestoreStatus></Contents><Contents><Key>line%0Aend.wav</Key><LastModified>2023-05-01T10:20:30.000Z</LastModified>
<ETag>&quot;0123456789abcdef-12&quot;</ETag><Size>0</Size><StorageClass>STANDARD</StorageClass></Contents>
<CommonPrefixes><Prefix>fo+lder/</Prefix></CommonPrefixes></ListBucketResult>"""
"""As AWS writes it."""
PLAIN = """<ListBucketResult><IsTruncated>false</IsTruncated><Contents><ETag>W/&#34;e&amp;f&#34;</ETag>
<Key>a+b &amp; &lt;c&gt; &#233;.wav</Key><Size> 7 </Size><LastModified>2023-05-01T10:20:30Z</LastModified>
</Contents></ListBucketResult>"""
"""Keys that are not encoded, a weak etag, another order."""
UNUSUAL = {
    "a comment": PLAIN.replace("<Key>a", "<Key><!-- b -->a"),
    "CDATA": PLAIN.replace("<Key>a", "<Key><![CDATA[<&]]>a"),
    "a line's end": PLAIN.replace("<Key>a", "<Key>\r\na"),
    "another encoding": f'<?xml version="1.0" encoding="latin-1"?>{PLAIN}'.replace("a+b", "\u00c3\u00a9"),
    "no storage class for one": AWS.replace("<StorageClass>STANDARD</StorageClass>", ""),
    "a folder between objects": AWS.replace("</Contents>", "</Contents><CommonPrefixes/>", 1).replace(
        "<CommonPrefixes/>", "<CommonPrefixes><Prefix>x/</Prefix></CommonPrefixes>"
    ),
    "no etag": PLAIN.replace("ETag", "Tag"),
    "two keys": PLAIN.replace("<Size>", "<Key>second</Key><Size>"),
    "names with a prefix": PLAIN.replace("<Key>", "<s:Key xmlns:s='x'>").replace("</Key>", "</s:Key>"),
}


class CannedServer(BaseHTTPRequestHandler):
    """Answers every request with the same page."""

    page: ClassVar[bytes]

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def canned(s3: S3Server) -> Iterator[Store]:
    """A store whose only page is `CannedServer.page`."""
    assert s3.endpoint  # for the credentials that it leaves in the environment
    with ThreadingHTTPServer(("127.0.0.1", 0), CannedServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield open_store("s3://bucket", {"s3://": {"endpoint_url": f"http://127.0.0.1:{server.server_port}"}})
        server.shutdown()
        thread.join()


def test_a_page_is_what_botocore_makes_of_it(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        open_store(bucket, {}).write(f"in/{key}", key.encode())
    ours = list(open_store(f"{bucket}/in", {}).list())
    monkeypatch.setattr(s3, "speed_up", lambda _: None)
    assert ours == list(open_store(f"{bucket}/in", {}).list())
    assert sorted(item.path for item in ours) == sorted(KEYS)


@pytest.mark.parametrize("page", [AWS, PLAIN], ids=["AWS", "plain"])
def test_a_page_of_another_server_is_what_botocore_makes_of_it(page: str, canned: Store) -> None:
    CannedServer.page = page.encode()
    response, taken = {"status_code": 200, "body": page.encode()}, dict[str, list[object]]()
    take_objects(response, taken)
    assert len(taken["Taken"]) == page.count("<Contents>")  # it was not left to botocore

    ours = list(canned.list())
    client = canned._backend._fs.s3  # type: ignore[union-attr]
    client.meta.events.unregister(listings._EVENT, listings._on_answer)
    assert ours == list(canned.list())
    assert ours[-1].n_bytes in (0, 7)


def test_what_a_page_of_aws_says_is_read() -> None:
    response, taken = {"status_code": 200, "body": AWS.encode()}, dict[str, list[object]]()
    take_objects(response, taken)
    moment = "2023-05-01T10:20:30.000Z"
    assert taken["Taken"] == [
        ("a b/café+%.wav", 5368709121, '"0123456789abcdef0123456789abcdef"', moment, "DEEP_ARCHIVE"),
        ("line\nend.wav", 0, '"0123456789abcdef-12"', moment, "STANDARD"),
    ]
    assert b"Contents" not in response["body"]
    assert b"<Prefix>fo+lder/</Prefix>" in response["body"]


@pytest.mark.parametrize("page", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_an_unusual_page_is_left_to_botocore(page: str) -> None:
    body = page.encode("latin-1" if "latin-1" in page else "utf-8")
    response, taken = {"status_code": 200, "body": body}, dict[str, object]()
    take_objects(response, taken)
    assert (response["body"], taken) == (body, {})


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<ListBucketResult><Contents><Key>x</Key>"),
        (200, b"<ListBucketResult><Contents><Key>x</Key></Contents></ListBucketResult>"),
        (200, PLAIN.replace(" 7 ", "seven").encode()),
        (200, PLAIN.replace("</Contents>", "").encode()),
        (200, PLAIN.replace("</Key>", "</Kez>").encode()),
        (200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"),
        (503, b"<Error><Code>SlowDown</Code></Error>"),
        (503, PLAIN.encode()),
        (200, b""),
    ],
)
def test_what_is_damaged_is_left_as_it_came(status: int, body: bytes) -> None:
    response, taken = {"status_code": status, "body": body}, dict[str, object]()
    take_objects(response, taken)
    assert (response["body"], taken) == (body, {})


@pytest.mark.parametrize("page", ["<Error><Code>InternalError</Code></Error>", AWS[:-9], PLAIN[:-9]])
def test_an_error_or_a_part_of_a_page_in_an_answer_of_200_is_no_listing(page: str, canned: Store) -> None:
    CannedServer.page = page.encode()
    with pytest.raises(TransientError):
        list(canned.within(RetryBudget(tries=1)).list())
