"""Webhooks against a real receiver: signed, retried within bounds, and silent about where they go."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from flows.webhook import PAUSES_S, SECRET, TIMEOUT_S, URL, Webhook, find_webhook, post, signature
from splitfire_batch.errors import ConfigError
from tests.webhook_receiver import KEY, WebhookReceiver
from tests.webhook_receiver import SECRET as SHARED

MESSAGE = {"text": "a run failed", "type": "run.failed"}
AT_ONCE = (0.0, 0.0, 0.0)


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL, raising=False)
    monkeypatch.delenv(SECRET, raising=False)


def no_block(_: str) -> None:
    return None


def test_the_signature_is_that_of_the_specifications_own_library() -> None:
    # what standardwebhooks 1.1.0 (PyPI) gives for this key, id, time and body
    found = signature(KEY, "id.run.failed", 1_764_547_200, b'{"text": "a run failed"}')
    assert found == "v1,At6a3rq5yewVWBWjlEaX7dCnRFmoy2U0/NP4qGUfdVc="


def test_a_receiver_can_check_who_sent_a_message_and_when(receiver: WebhookReceiver) -> None:
    begin = int(time.time())
    assert post(Webhook(receiver.url, KEY), "7.run.failed", MESSAGE)
    (got,) = receiver.received
    assert got.message == MESSAGE
    assert got.headers["content-type"] == "application/json"
    assert got.headers["webhook-id"] == "7.run.failed"
    assert begin <= int(got.headers["webhook-timestamp"]) <= time.time()
    assert got.is_signed_with(KEY)
    assert not got.is_signed_with(KEY[::-1])


def test_without_a_secret_nothing_is_signed(receiver: WebhookReceiver) -> None:
    assert post(Webhook(receiver.url), "7", MESSAGE)
    assert "webhook-signature" not in receiver.received[0].headers


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_answer_that_may_pass_is_tried_again_under_the_same_id(
    receiver: WebhookReceiver, status: int
) -> None:
    receiver.answers = [status, status]
    assert post(Webhook(receiver.url, KEY), "7", MESSAGE, AT_ONCE)
    assert [got.headers["webhook-id"] for got in receiver.received] == ["7", "7", "7"]
    assert all(got.is_signed_with(KEY) for got in receiver.received)


@pytest.mark.parametrize("status", [301, 307, 400, 403, 404, 410])
def test_a_refusal_is_not_tried_again_and_a_redirect_is_not_followed(
    receiver: WebhookReceiver, status: int
) -> None:
    receiver.answers = [status]
    assert not post(Webhook(receiver.url, KEY), "7", MESSAGE, AT_ONCE)
    assert len(receiver.received) == 1


def test_tries_have_an_end_and_nothing_is_raised_or_said_of_the_url(
    receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [503] * 9
    with caplog.at_level(logging.DEBUG):
        assert not post(Webhook(receiver.url, KEY), "7", MESSAGE, AT_ONCE)
    assert len(receiver.received) == len(AT_ONCE) + 1
    assert "webhook_failed host=127.0.0.1 type=run.failed problem=HTTP 503" in caplog.text
    assert "very-secret" not in caplog.text
    assert sum(PAUSES_S) + (len(PAUSES_S) + 1) * TIMEOUT_S <= 27


@pytest.mark.parametrize("kind", ["nobody listens", "no HTTP"])
def test_a_receiver_that_is_not_there_is_no_error_of_ours(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/very-secret"
        if kind == "nobody listens":
            server.close()
        else:
            threading.Thread(target=_speak_no_http, args=(server,), daemon=True).start()
        assert not post(Webhook(url), "7", MESSAGE, ())
    assert "webhook_failed" in caplog.text
    assert "very-secret" not in caplog.text


def _speak_no_http(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"220 smtp ready\r\n")


def test_the_environment_wins_over_blocks_and_blocks_are_asked_for_what_it_does_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks = {"splitfire-webhook-url": "https://block.example/x", "splitfire-webhook-secret": SHARED}
    assert find_webhook(no_block) is None
    assert find_webhook(blocks.get) == Webhook("https://block.example/x", KEY)
    monkeypatch.setenv(URL, "https://environment.example/y")
    assert find_webhook(no_block) == Webhook("https://environment.example/y")
    assert find_webhook(blocks.get) == Webhook("https://environment.example/y", KEY)


@pytest.mark.parametrize("url", ["hooks.example/very-secret", "file:///very-secret", "https:///very-secret"])
def test_what_is_no_url_for_a_webhook_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv(URL, url)
    with pytest.raises(ConfigError, match=URL) as caught:
        find_webhook(no_block)
    assert "very-secret" not in str(caught.value)


def test_a_secret_that_is_no_base64_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL, "https://hooks.example/x")
    monkeypatch.setenv(SECRET, "hunter2!")
    with pytest.raises(ConfigError, match="whsec_") as caught:
        find_webhook(no_block)
    assert "hunter2" not in str(caught.value)
