"""A process that has had a Ray can have another one.

Run by `test_session` in a process of their own: Ray's settings are one for a process, and a live Ray whose
token is gone ends its process.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import access, session
from tests.test_access import bare_head, knock_until_heard

NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing tells this process of a token, and Ray itself is neither started nor joined."""
    with monkeypatch.context() as patch:
        for name in NAMES:
            patch.delenv(name, raising=False)
        patch.setattr(session.ray, "is_initialized", lambda: False)
        for name in ("init", "shutdown"):
            patch.setattr(session.ray, name, lambda **_: None)
        access._read_settings()
        yield
    access._read_settings()


@pytest.mark.usefixtures("untold")
def test_after_a_ray_of_our_own_a_cluster_with_a_token_can_be_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = secrets.token_hex(32)
    file = tmp_path / "token"
    file.write_text(token)
    with bare_head(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) as address:
        knock_until_heard(address)
        with session.connect():
            assert os.environ["RAY_AUTH_MODE"] == "token"
            assert os.environ["RAY_AUTH_TOKEN"] != token
        assert [name for name in NAMES if name in os.environ] == []
        assert access._raylet.get_authentication_mode() != access._raylet.AuthenticationMode.TOKEN
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
        assert access.check_cluster(address) == "token authentication"


@pytest.mark.usefixtures("untold")
def test_what_was_set_before_is_set_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    token = secrets.token_hex(32)
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with pytest.raises(RuntimeError, match="broken off"), session.connect():
        raise RuntimeError("broken off")
    assert os.environ["RAY_AUTH_TOKEN"] == token
    assert "RAY_AUTH_MODE" not in os.environ
