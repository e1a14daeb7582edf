"""Listings parsed by ourselves say what botocore says of them, and what is damaged is left to botocore."""

from __future__ import annotations

import pytest

from splitfire_batch.storage import listings, open_store
from splitfire_batch.storage.listings import take_contents

KEYS = ["a b+c/x%.wav", "é & <b>.wav", 'quote".wav', "line\u2028two.wav", "plain/x.wav", "%2F.wav"]


def test_a_page_is_what_botocore_makes_of_it(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        open_store(bucket, {}).write(f"in/{key}", key.encode())
    ours = list(open_store(f"{bucket}/in", {}).list())
    monkeypatch.setattr(listings, "_EVENT", "before-parse.s3.Nothing")
    theirs = list(open_store(f"{bucket}/in", {}).list())
    assert ours == theirs
    assert sorted(item.path for item in ours) == sorted(KEYS)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<ListBucketResult><Contents><Key>x</Key>"),
        (200, b"<ListBucketResult><Contents><Key>x</Key></Contents></ListBucketResult>"),
        (200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"),
        (503, b"<Error><Code>SlowDown</Code></Error>"),
        (200, b""),
    ],
)
def test_what_is_unusual_is_left_as_it_came(status: int, body: bytes) -> None:
    response, taken = {"status_code": status, "body": body}, dict[str, object]()
    take_contents(response_dict=response, customized_response_dict=taken)
    assert (response["body"], taken) == (body, {})
