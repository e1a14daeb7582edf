"""What a text from elsewhere loses before it reaches a log, a row or a screen: anything that opens a door.

Exceptions of foreign libraries quote URLs, headers and settings. Their texts pass `masked` where they become
ours, and `mask_logs` lets every log record of this process pass it. It is a second line: our own code has no
secrets to tell, because they never leave the stores' own chains.
"""

from __future__ import annotations

import logging
import re
import traceback
from contextlib import suppress

_HIDDEN = "***"
_NAMES = (
    "X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token|X-Goog-Signature|X-Goog-Credential|AWSAccessKeyId"
    "|access_token|refresh_token|id_token|AccountKey|SharedAccessKey|SharedAccessSignature"
    "|aws_secret_access_key|aws_session_token|aws_access_key_id|client_secret"
)
"""Of nothing but credentials. Other words for them are titles of music too, and need more around them."""
_VALUE = r"[^&\s\"'<>;,}]+"
_USER = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^/\s@\"'<>]+@", re.IGNORECASE)
_RULES = (
    (_USER, rf"\1{_HIDDEN}@"),
    # Authorization: Basic ..., also as Python prints a dict of headers
    (
        re.compile(r"(\bauthorization\b['\"]?\s*[:=]\s*['\"]?)(?:\w[\w-]*\s+)?[^\s'\",}]+", re.IGNORECASE),
        rf"\1{_HIDDEN}",
    ),
    # a token is long and has digits; Bearer is a word too
    (
        re.compile(r"(\bbearer\s+)(?=[A-Za-z._~+/=-]*\d)[A-Za-z0-9._~+/=-]{20,}", re.IGNORECASE),
        rf"\1{_HIDDEN}",
    ),
    # name=value of a query or a connection string; name: value of a dict
    (
        re.compile(rf"(?<![\w-])((?:{_NAMES})['\"]?\s*[=:]\s*['\"]?){_VALUE}", re.IGNORECASE),
        rf"\1{_HIDDEN}",
    ),
    # 'password': value of a dict, password=value; "Password: Swordfish" is a film
    (
        re.compile(
            rf"((?<![\w-])(?:password|passwd)\s*=\s*['\"]?|['\"](?:password|passwd)['\"]\s*:\s*['\"]?){_VALUE}",
            re.IGNORECASE,
        ),
        rf"\1{_HIDDEN}",
    ),
    # of a query or a header; "Key Signature: F#m" is music
    (
        re.compile(rf"([?&;](?:Signature|sig)=|\bAWS4-HMAC-SHA256\b.*?\bSignature=){_VALUE}", re.IGNORECASE),
        rf"\1{_HIDDEN}",
    ),
    # ids of AWS keys: not the secret, but whose it is
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}\b"), rf"\1{_HIDDEN}"),
)
_HINT = re.compile(r"[=:]|AKIA|ASIA|bearer", re.IGNORECASE)
"""Without it no rule can apply: most texts are done with quickly."""
_SIGNED = re.compile(
    r"[?&](?:X-Amz-[A-Za-z-]+|X-Goog-[A-Za-z-]+|AWSAccessKeyId|Signature|sig)=", re.IGNORECASE
)


def masked(text: str) -> str:
    """The text without passwords, tokens, signatures and key ids; the same when masked again."""
    if _HINT.search(text):
        for pattern, hidden in _RULES:
            text = pattern.sub(hidden, text)
    return text


def holds_secret(url: str) -> bool:
    """Whether a URL has a user or password in it, or a signature (of S3, Google or Azure)."""
    return _USER.search(url) is not None or _SIGNED.search(url) is not None


def without_secret(url: str) -> str:
    """The URL, with neither user and password nor signature and what follows it."""
    return masked(_SIGNED.split(url)[0])


def mask_logs() -> None:
    """Let every log record of this process, tracebacks included, pass `masked`; calling again is harmless."""
    before = logging.getLogRecordFactory()
    if getattr(before, "masks", False):
        return

    def make(*args: object, **named: object) -> logging.LogRecord:
        record = before(*args, **named)
        with suppress(Exception):  # values that do not fit, or cannot be told: logging says so, and goes on
            _mask(record)
        return record

    make.masks = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make)


def _mask(record: logging.LogRecord) -> None:
    text = record.getMessage()
    clean = masked(text)
    if clean != text:
        record.msg, record.args = clean, ()
    if record.exc_info and record.exc_info[0]:
        record.exc_text = masked("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
