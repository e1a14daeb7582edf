"""What the exceptions of foreign stores mean, and how often a store is asked again.

The one place where they become ours. Kinds of stores differ in the exceptions of their packages and in how
fsspec is told to create; `SCHEMES` holds that.
"""

from __future__ import annotations

import errno
import importlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from splitfire_batch.errors import (
    FULL_DISK,
    AccessDenied,
    CredentialsExpired,
    NoSpace,
    ObjectExists,
    ObjectMissing,
    SplitfireError,
    StorageError,
    TransientError,
)
from splitfire_batch.masking import masked

T = TypeVar("T")
Types = tuple[type[Exception], ...]


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How long a store may fail to answer before that is an error."""

    tries: int = 5
    patience_s: float = 0.0
    """A store that is known to be there is tried for so long, however many tries that takes."""
    is_known: bool = False
    """Others have had answers there; else it is known once it has answered, if only with a refusal."""
    first_wait_s: float = 0.2
    """Longest wait after the first try; it doubles with every further one."""
    max_wait_s: float = 5.0
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 60.0

    def wait_s(self, n_tries: int) -> float:
        """Seconds to wait after so many tries: by chance, so that workers do not return all at once."""
        longest = min(self.max_wait_s, self.first_wait_s * 2.0 ** (n_tries - 1))
        return longest * (0.5 + 0.5 * secrets.randbelow(1000) / 1000)


@dataclass(frozen=True, slots=True)
class Scheme:
    """One kind of store. The errors are `module:name` of foreign exceptions that are no OSError."""

    package: str = ""
    extra: str = ""
    """Of this project; it installs `package`."""
    options: tuple[str, ...] = ()
    create: tuple[tuple[str, object], ...] = (("mode", "create"),)
    """What makes fsspec's `pipe_file` refuse an existing object."""
    overwrite: tuple[tuple[str, object], ...] = ()
    transient: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


_AZURE = Scheme(
    package="adlfs",
    extra="azure",
    options=("account_name", "account_host", "anon"),
    create=(("overwrite", False),),
    overwrite=(("overwrite", True),),
    transient=("azure.core.exceptions:ServiceRequestError", "azure.core.exceptions:ServiceResponseError"),
    refused=("azure.core.exceptions:ClientAuthenticationError",),
    other=("azure.core.exceptions:AzureError",),
)
SCHEMES = {
    "file": Scheme(),
    "memory": Scheme(package="fsspec"),
    "s3": Scheme(
        package="s3fs",
        options=("endpoint_url", "region_name", "profile", "anon", "requester_pays"),
        transient=(
            "botocore.exceptions:HTTPClientError",
            "botocore.exceptions:ConnectionError",
            "botocore.exceptions:FlexibleChecksumError",
            "botocore.parsers:ResponseParserError",
            "aiohttp:ClientError",
        ),
        refused=(
            "botocore.exceptions:NoCredentialsError",
            "botocore.exceptions:PartialCredentialsError",
            "botocore.exceptions:CredentialRetrievalError",
        ),
        other=("botocore.exceptions:BotoCoreError", "botocore.exceptions:ClientError"),
    ),
    "gs": Scheme(
        package="gcsfs",
        extra="gcs",
        options=("project", "endpoint_url", "requester_pays"),
        transient=("aiohttp:ClientError",),
        refused=("google.auth.exceptions:GoogleAuthError",),
        other=("gcsfs.retry:HttpError",),
    ),
    "az": _AZURE,
    "abfs": _AZURE,
}
_PASSING_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_PASSING_CODES = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "RequestTimeout",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
"""Of S3, with status 400: what was sent did not arrive whole."""
_EXPIRED_CODES = frozenset(
    ["ExpiredToken", "ExpiredTokenException", "InvalidToken", "RequestExpired", "TokenRefreshRequired"]
)
_REFUSALS = {
    "RequestTimeTooSkewed": "set the clock of this machine",
    "InvalidAccessKeyId": "the store knows no such key: check the credentials",
    "SignatureDoesNotMatch": "check the secret key",
}
_PASSING_ERRNO = frozenset({errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.EINTR, errno.ENETDOWN})


class Faults:
    """What the exceptions of one kind of store mean."""

    def __init__(self, scheme: Scheme, budget: RetryBudget) -> None:
        self._scheme, self._budget = scheme, budget
        self._is_known = budget.is_known
        self._transient: Types = (ConnectionError, TimeoutError, *_types(scheme.transient))
        self._refused: Types = (PermissionError, *_types(scheme.refused))
        self.foreign: Types = (OSError, *self._transient, *self._refused, *_types(scheme.other))
        """Everything that a call of the store may raise because of the store."""

    def translate(self, uri: str, error: Exception) -> SplitfireError:
        """Our exception for a foreign one; a TransientError is worth another try."""
        status, number, code = http_status(error), getattr(error, "errno", None), _s3_code(error)
        why = masked(f"{type(error).__name__}: {error}")
        if status == 412 or isinstance(error, FileExistsError):
            return ObjectExists(uri, "it exists already")
        if status == 404 or isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return ObjectMissing(uri, "there is no such object, folder or bucket")
        if code in _EXPIRED_CODES:
            what = "renew them, and run the same command again"
            return CredentialsExpired(uri, f"the store says {code}: the credentials are over; {what}")
        if status in (401, 403) or isinstance(error, self._refused) or number == errno.EROFS:
            what = _REFUSALS.get(code, "check the credentials and what they may do")
            return AccessDenied(uri, f"the store refuses: {why}; {what}")
        if status == 507 or number in FULL_DISK:
            return NoSpace(uri, "the disk or the quota is full")
        if (
            code in _PASSING_CODES
            or status in _PASSING_STATUS
            or isinstance(error, self._transient)
            or number in _PASSING_ERRNO
        ):
            return TransientError(f"{uri}: {why}")
        return StorageError(uri, why)

    def within(self, budget: RetryBudget) -> Faults:
        """The same meaning of exceptions, with another budget."""
        return Faults(self._scheme, budget)

    def attempt(self, uri: str, action: Callable[[], T], is_once: bool = False) -> T:
        """What `action` returns, tried again within the budget, or once; foreign exceptions become ours."""
        begin, n_tries = time.monotonic(), 0
        while True:
            try:
                result = action()
            except self.foreign as error:
                n_tries += 1
                ours = self.translate(uri, error)
                self._is_known |= http_status(error) is not None
                if not isinstance(ours, TransientError):
                    raise ours from error
                spent_s = time.monotonic() - begin
                if is_once or self._is_spent(n_tries, spent_s):
                    spent = f"{n_tries} tries in {spent_s:.1f} s"
                    raise TransientError(f"{ours}; {spent}; is the store up, its address right?") from error
            else:
                self._is_known = True
                return result
            time.sleep(self._budget.wait_s(n_tries))

    def _is_spent(self, n_tries: int, spent_s: float) -> bool:
        # What never answered is more likely a wrong address than a store that is away for a minute.
        is_patient = self._is_known and spent_s < self._budget.patience_s
        return n_tries >= self._budget.tries and not is_patient


def _types(names: tuple[str, ...]) -> Types:
    """The exception classes of those names; their package was needed to open the store."""
    return tuple(getattr(importlib.import_module(name.split(":")[0]), name.split(":")[1]) for name in names)


def _s3_code(error: BaseException | None) -> str:
    """The error code of S3 that an exception or one of its causes carries, else ""."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def http_status(error: BaseException | None) -> int | None:
    """The HTTP status that an exception or one of its causes carries."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # botocore's ClientError
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:  # azure, aiohttp, gcsfs
            attributes = (getattr(error, name, None) for name in ("status_code", "status", "code"))
            status = next((value for value in attributes if value is not None), None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None
