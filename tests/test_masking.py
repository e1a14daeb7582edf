"""What opens a door is hidden, what does not stays readable."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitfire_batch.masking import holds_secret, mask_logs, masked, without_secret
from splitfire_batch.storage.faults import SCHEMES, Faults, RetryBudget

SECRET = "hunter2hunter2hunter2"  # noqa: S105 - what must not be shown
LEAKS = [
    f"could not connect to https://user:{SECRET}@host/x",
    f"GET s3://key:{SECRET}@bucket/a b.wav failed",
    f"https://b.s3.amazonaws.com/x.wav?X-Amz-Date=1&X-Amz-Signature={SECRET}&x=1",
    f"https://storage.googleapis.com/b/x?X-Goog-Signature={SECRET}",
    f"https://a.blob.core.windows.net/c/x?sv=2024&sig={SECRET}%3D",
    f"AccountName=a;AccountKey={SECRET}==;EndpointSuffix=x",
    f"headers {{'Authorization': 'Basic {SECRET}', 'Host': 'x'}}",
    f"authorization: Bearer {SECRET}",
    f"sent Bearer {SECRET} to it",
    f"AWS4-HMAC-SHA256 Credential=x, Signature={SECRET}",
    f'{{"aws_secret_access_key": "{SECRET}"}}',
    f"password={SECRET}",
    f"{{'user': 'me', 'password': '{SECRET}'}}",
    f"https://a.example/x?a=1;sig={SECRET}",
]
HARMLESS = [
    "s3://bucket/music/what?versionId=7.wav: there is no such object",
    "ClientError: An error occurred (403) when calling the HeadObject operation: Forbidden",
    "found the token 'x' and a password nobody knows; sign: 3/4",
    "Bearer of bad news.wav",
    "the design=er's cut, 12:30",
    "/music/user@home/x.wav",
    "s3://bucket/user@home/x.wav",
    "FooBarAKIA and ASIA Minor.flac",
    "Basic instructions: before leaving",
    "Time Signature: 4/4, Key Signature: F#m",
    "Key Signature=F#m",
    "sig: 4/4",
    "Password: Swordfish",
    "Ring Bearer Extraordinary Live.wav",
    "Pall Bearer Supercalifragilisticexpialidocious.wav",
]


@pytest.mark.parametrize("text", LEAKS)
def test_what_opens_a_door_is_hidden(text: str) -> None:
    assert SECRET[:8] not in masked(text)
    assert "***" in masked(text)


def test_ids_of_keys_are_hidden() -> None:
    text = "InvalidAccessKeyId: AKIAIOSFODNN7EXAMPLE and ASIAIOSFODNN7EXAMPLE are unknown"
    assert masked(text) == "InvalidAccessKeyId: AKIA*** and ASIA*** are unknown"


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert masked(text) == text
    assert not holds_secret(text)


@settings(deadline=None)
@given(st.text(max_size=200) | st.sampled_from(LEAKS + HARMLESS))
def test_masking_again_changes_nothing(text: str) -> None:
    assert masked(masked(text)) == masked(text)


def test_a_url_is_named_without_its_secret() -> None:
    url = "s3://me:pass@bucket/x.wav?part=1&X-Amz-Signature=abc&y=2"
    assert holds_secret(url)
    assert without_secret(url) == "s3://***@bucket/x.wav?part=1"


def test_what_a_store_says_is_masked() -> None:
    faults = Faults(SCHEMES["s3"], RetryBudget())
    for error in (PermissionError(LEAKS[0]), OSError(LEAKS[2]), ConnectionError(LEAKS[6])):
        assert SECRET not in str(faults.translate("s3://bucket/x", error))


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """What a log handler writes while records are masked."""
    before, stream = logging.getLogRecordFactory(), io.StringIO()
    handler, logger = logging.StreamHandler(stream), logging.getLogger("masking.test")
    logger.addHandler(handler)
    mask_logs()
    try:
        yield stream
    finally:
        logger.removeHandler(handler)
        logging.setLogRecordFactory(before)


def test_log_records_are_masked_with_values_and_tracebacks(output: io.StringIO) -> None:
    logger = logging.getLogger("masking.test")
    logger.warning("away url=%s n=%d", LEAKS[0], 3)
    logger.warning("rate=%d%%", 50)
    try:
        try:
            raise ConnectionError(LEAKS[2])
        except ConnectionError as error:
            raise ValueError("outer") from error
    except ValueError:
        logger.exception("track_bug")
    text = output.getvalue()
    assert SECRET not in text
    assert "away url=could not connect to https://***@host/x n=3" in text
    assert "rate=50%" in text
    assert "ValueError: outer" in text
    assert "X-Amz-Signature=***" in text


class Untold:
    """A value that cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("message", "values"), [("%(missing)s", ({"a": 1},)), ("%s", (Untold(),)), ("%d", ("x",)), ("%y", (1,))]
)
def test_a_malformed_call_is_told_by_logging_and_raises_nothing_into_its_caller(
    message: str,
    values: tuple[object, ...],
    output: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("masking.test")
    monkeypatch.setattr(logger, "propagate", False)  # pytest's own handler raises
    logger.warning(message, *values)
    logger.warning("next %s", LEAKS[0])
    assert "Logging error" in capsys.readouterr().err
    assert output.getvalue() == "next could not connect to https://***@host/x\n"


def test_logs_are_masked_once_however_often_it_is_asked_for(output: io.StringIO) -> None:
    factory = logging.getLogRecordFactory()
    mask_logs()
    assert logging.getLogRecordFactory() is factory
    assert output.getvalue() == ""
