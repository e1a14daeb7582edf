"""Who may use a Ray: everyone who reaches its ports and, where it has a token, knows that.

Code that Ray is given runs as whoever started it, so a Ray of our own listens on 127.0.0.1 only, asks for a
token that is in no file, and keeps its sockets and logs in a folder that nobody else may enter. A cluster
that is joined is asked, without a token, whether it talks to strangers.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import ray._raylet
from ray._private import ray_constants

from splitfire_batch.errors import ConfigError, TransientError

_raylet: Any = ray._raylet  # its stubs lack what is used here
MODE = "RAY_AUTH_MODE"
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_QUESTION = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
_ANSWER_S = 5.0
_MAX_FOLDER_BYTES = 40
"""Ray puts 64 bytes behind it for the path of a socket; Linux takes 107, macOS 103."""


@contextmanager
def settings_kept() -> Iterator[None]:
    """Afterwards this process has the mode and the token it had before, so that it can join another Ray."""
    before = {name: os.environ.get(name) for name in (MODE, *_TOKENS)}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _read_settings()


@contextmanager
def for_us_only() -> Iterator[Path]:
    """While it is open, a Ray that is started has a token and listens on 127.0.0.1; gives its folder.

    Raises:
        ConfigError: the folder is not ours, or Ray does not take the setting.
    """
    _ask_for_token()
    # Ray takes "127.0.0.1" for a request to find an address that others reach; only the setting for macOS
    # and Windows keeps it, and every port with it, on this machine.
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield private_folder()
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def private_folder() -> Path:
    """This user's folder for Ray's sessions, made if it is missing; nobody else can enter it.

    Raises:
        ConfigError: somebody else's file or folder has its name.
    """
    name = f"splitfire-{os.geteuid()}"
    folder = Path(tempfile.gettempdir(), name)
    if len(os.fsencode(folder)) > _MAX_FOLDER_BYTES:
        folder = Path("/tmp", name)  # noqa: S108 - checked below
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(f"Ray needs the folder {folder}: {error}; free the name or set TMPDIR") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError(f"Ray needs the folder {folder}, and it is not yours; remove it or set TMPDIR")
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder


def is_loopback(address: str) -> bool:
    """Whether `host:port` or a host can be reached from this machine only."""
    host = address.rpartition(":")[0] if address.count(":") == 1 or "]" in address else address
    host = host.strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_cluster(address: str) -> str:
    """What guards the cluster whose head is at `host:port`, in words; with our token, where it asks for one.

    Raises:
        ConfigError: it obeys strangers and others can reach it, or it does not take our token.
        TransientError: it does not answer.
    """
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0", "false"):
        return "TLS, with certificates on both sides"
    if not is_obeyed(address):
        _check_token(address)
        return "token authentication"
    if is_loopback(address):
        return "nothing, and only this machine reaches it"
    if os.environ.get(MODE, "").lower() == "disabled":
        return f"nothing, as {MODE}=disabled wishes"
    raise ConfigError(
        f"ray: the cluster at {address} asks for no token: whoever reaches it can run code on it and read "
        f"what your workers can read. Start its nodes with {MODE}=token, or, where the network lets in "
        f"nobody else, set {MODE}=disabled here to join it all the same"
    )


def is_obeyed(address: str, token: str | None = None) -> bool:
    """Whether a cluster answers to this token, or to none. Raises TransientError when it does not answer."""
    proof = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            channel.unary_unary(_QUESTION)(b"", timeout=_ANSWER_S, metadata=proof)
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise TransientError(f"the Ray cluster at {address} does not answer: {code.name}") from error
            # whatever else is an answer: a large cluster's is more than gRPC takes, and need not be read
            return code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    return True


def _check_token(address: str) -> None:
    """Have the token ready that the cluster takes; Ray itself would try without one for a long time."""
    token = _raylet.AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=True)
    if not token or not is_obeyed(address, token):
        found = "has another one" if token else "has none"
        raise ConfigError(
            f"ray: the cluster at {address} asks for a token, and this process {found}; write the cluster's "
            "into a file that only you can read, and set RAY_AUTH_TOKEN_PATH to it"
        )
    _use_tokens()


def _ask_for_token() -> None:
    """Let the Ray that is started next ask for a token, one that no file holds where none is set."""
    if not any(os.environ.get(name) for name in _TOKENS):
        # Ray would write one of its own to a file that everyone can read.
        os.environ[_TOKENS[0]] = secrets.token_hex(32)
    _use_tokens()
    if _raylet.get_authentication_mode() != _raylet.AuthenticationMode.TOKEN:
        raise ConfigError(f"this version of Ray does not take {MODE}=token; install the tested one, 2.60")


def _use_tokens() -> None:
    os.environ[MODE] = "token"
    _read_settings()


def _read_settings() -> None:
    """Ray reads them when it is imported; this is the only way to change them later."""
    _raylet.Config.initialize("")
    _raylet.AuthenticationTokenLoader.instance().reset_cache()
