"""Fixtures that more than one test module uses."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forks import Forks
from tests.s3_server import S3Server
from tests.small_library import Library, write_one_shots

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Read when torch is loaded. Several processes share the cores here, and OpenMP's threads are not to wait for
work by turning: with that, tests of networks take two thirds of the time."""


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A running S3 server that clients of this process and its children find in their environment."""
    before = dict(os.environ)
    with S3Server() as server:
        os.environ.update(server.environment)
        os.environ.pop("AWS_PROFILE", None)
        try:
            yield server
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture(autouse=True)
def no_added_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that a test adds are known to its process: the next test begins without."""
    registry = sys.modules.get("splitfire_batch.models.registry")  # most tests need no models
    if registry is not None:
        monkeypatch.setattr(registry, "_added", {})


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """URL of a fresh bucket."""
    name = f"test-{secrets.token_hex(6)}"
    s3.make_bucket(name)
    return f"s3://{name}"


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty root of each kind; only the S3 one starts a server."""
    if request.param == "folder":
        return str(tmp_path / "store")
    if request.param == "memory":
        return f"memory://{secrets.token_hex(6)}/root"
    return f"{request.getfixturevalue('bucket')}/some/prefix"


@pytest.fixture(scope="session")
def forks(s3: S3Server) -> Iterator[Forks]:
    """Starts processes that run whole jobs; they find the S3 server."""
    assert s3.endpoint
    with Forks() as running:
        yield running


@pytest.fixture(scope="session")
def one_shot_library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Four real one-shots, and a file that is no audio."""
    return write_one_shots(tmp_path_factory.mktemp("one-shots"), 4)


LONGEST = ("test_end_to_end", "test_kill_storm", "test_canary", "test_flow", "test_crash_points")
"""Modules to begin with, so that of several processes none is left alone with them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first, and skip what needs a GPU where there is none.

    Torch is imported only if such tests were collected.
    """
    items.sort(key=lambda item: item.path.stem not in LONGEST)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
