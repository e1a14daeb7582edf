"""Secrets of a real run, from S3 to S3 through Ray and Prefect, are nowhere afterwards.

Every secret is a canary: a random string that can only be somewhere because something wrote it there. What
is looked through: the screen, every file of Ray, Prefect and the scratch folder, and every object of the
destination with its Parquet unfolded; and each canary also as base64, hex and in URLs.
"""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from splitfire_batch.storage import open_store
from tests.benchmarks.processes import tree
from tests.prefect_server import make_prefect_home
from tests.small_library import COMMAND, write_bad_track, write_tracks
from tests.webhook_receiver import WebhookReceiver

ROOT = Path(__file__).parents[1]
CHILDREN = b"splitfire_batch.children"
"""On the command line of what decodes and encodes."""

DECOYS = (
    "cluster",
    "flows",
    "numpy",
    "pip",
    "prefect",
    "ray",
    "secrets",
    "soxr",
    "splitfire_batch",
    "uvicorn",
)
TRAP = "a decoy was imported"


@dataclass
class Outcome:
    """What a run left behind, and what was seen of its processes."""

    canaries: dict[str, str]
    folder: Path
    exit_code: int = -1
    stdout: str = ""
    stderr: str = ""
    destination: str = ""
    command_lines: set[bytes] = field(default_factory=set)
    codec_environments: set[bytes] = field(default_factory=set)
    scratch_modes: set[int] = field(default_factory=set)
    told: list[bytes] = field(default_factory=list)
    """Bodies that the webhook got."""
    was_decoyed: bool = False
    """Whether a module of the folder that the run stood in was imported."""


def make_canaries() -> dict[str, str]:
    """Secrets with letters that are written otherwise in URLs, JSON and shells."""
    names = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PREFECT_API_AUTH_STRING", "userinfo", "signature"]
    names += ["webhook_path", "webhook_key"]
    made = {name: f"cAn4ry/{secrets.token_hex(12)}+=" for name in names}
    made["userinfo"] = made["userinfo"].replace("/", "-")  # a slash would end it
    made["AWS_ACCESS_KEY_ID"] = f"AKIA{secrets.token_hex(8).upper()}"
    return made


def spellings(secret: str) -> set[bytes]:
    """The secret as it may be written: in URLs, in JSON, in hex, and inside of longer base64."""
    data = secret.encode()
    found = {data, urllib.parse.quote(secret, safe="").encode(), urllib.parse.quote_plus(secret).encode()}
    found |= {json.dumps(secret)[1:-1].encode(), data.hex().encode(), data.hex().upper().encode()}
    for lead in range(3):  # the three ways in which it can lie in groups of three bytes
        whole = base64.b64encode(b"x" * lead + data)
        inner = whole[4 if lead else 0 : len(whole) // 4 * 4 - 4]
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def hits(canaries: dict[str, str], data: bytes) -> set[str]:
    return {name for name, value in canaries.items() if any(form in data for form in spellings(value))}


def fill(source: str, canaries: dict[str, str], folder: Path) -> str:
    """A table with good and bad tracks and with URLs that hold secrets; returns its URL."""
    store = open_store(source, {})
    for file in [*write_tracks(folder, 3).iterdir(), write_bad_track(folder)]:
        store.write(file.name, file)
    signed = f"https://x.s3.amazonaws.com/tone 00.wav?X-Amz-Signature={canaries['signature']}"
    uris = ["tone 00.wav", "tone 01.wav", "tone 02.wav", "bad.wav", "gone.wav", signed]
    uris.append(f"s3://key:{canaries['userinfo']}@bucket/tone 00.wav")
    uris.append(f"az://container/x.wav?sig={canaries['signature']}")
    lines = [json.dumps({"uri": uri, "title": f"track {n}", "link": signed}) for n, uri in enumerate(uris)]
    store.write("list.jsonl", "\n".join(lines).encode())
    return store.uri_of("list.jsonl")


def leave_decoys(folder: Path) -> None:
    """Modules with the names of some that a run imports, here or in its other processes."""
    for name in DECOYS:
        trap = f"from pathlib import Path\nPath({str(folder / TRAP)!r}).touch()\n"
        (folder / f"{name}.py").write_text(f"{trap}raise SystemExit({name!r})\n")


def watch(outcome: Outcome, child: subprocess.Popen[str]) -> None:
    """Look at the run's processes and scratch folders until it ends."""
    scratch, due = outcome.folder / "scratch", 0.0
    while child.poll() is None:
        for path in scratch.iterdir():
            with suppress(FileNotFoundError):
                outcome.scratch_modes.add(stat.S_IMODE(path.stat().st_mode))
        time.sleep(0.01)
        if time.monotonic() < due:
            continue
        due = time.monotonic() + 0.5
        for pid in tree(child.pid):
            with suppress(OSError):  # it ended
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                outcome.command_lines.add(line)
                if CHILDREN in line:
                    outcome.codec_environments.add(Path(f"/proc/{pid}/environ").read_bytes())


@pytest.fixture(scope="module")
def outcome(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """One run with every canary in its environment or its catalogue."""
    s3.make_bucket("canary-in")
    s3.make_bucket("canary-out")
    folder = Path(tempfile.mkdtemp(prefix="sfc", dir="/tmp"))
    found = Outcome(make_canaries(), folder, destination="s3://canary-out/stems")
    table = fill("s3://canary-in/music", found.canaries, tmp_path_factory.mktemp("tracks"))
    for name in ("home", "tmp", "scratch"):
        (folder / name).mkdir()
    variables = {name: text for name, text in os.environ.items() if not name.startswith(("PREFECT_", "RAY_"))}
    variables |= {name: text for name, text in found.canaries.items() if name.isupper()}
    variables |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT)}
    variables |= {"PREFECT_HOME": str(make_prefect_home(folder / "home/prefect")), "OMP_NUM_THREADS": "1"}
    leave_decoys(folder)
    command = [sys.executable, "-P", *COMMAND[1:], "run", table, found.destination]
    command += ["--model", "passthrough", "--workers", "1"]
    command += ["--scratch-dir", str(folder / "scratch"), "--json"]
    with WebhookReceiver() as receiver:
        key = base64.b64encode(found.canaries["webhook_key"].encode()).decode()
        path = urllib.parse.quote(found.canaries["webhook_path"], safe="")
        webhook = {"SPLITFIRE_WEBHOOK_URL": f"{receiver.url}/{path}", "SPLITFIRE_WEBHOOK_SECRET": key}
        child = subprocess.Popen(
            command,
            env=variables | webhook,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            watch(found, child)
            found.stdout, found.stderr = child.communicate(timeout=60)
            found.exit_code = child.returncode
            found.told = [got.body for got in receiver.received]
            found.was_decoyed = (folder / TRAP).exists()
            yield found
        finally:
            child.kill()
            child.wait()
            shutil.rmtree(folder)


def test_the_run_is_the_one_we_mean(outcome: Outcome) -> None:
    assert outcome.stdout, outcome.stderr
    report = json.loads(outcome.stdout)
    assert outcome.exit_code == 3, outcome.stderr
    assert (report["n_done"], report["n_failed"]) == (3, 5)
    assert report["failures_by_code"] == {"NOT_AUDIO": 1, "SOURCE_MISSING": 1, "BAD_URI": 3}


def test_no_module_of_the_folder_that_one_stands_in_is_imported(outcome: Outcome) -> None:
    assert (outcome.folder / "cluster.py").exists()
    assert not outcome.was_decoyed


def test_no_secret_is_on_the_screen(outcome: Outcome) -> None:
    assert hits(outcome.canaries, (outcome.stdout + outcome.stderr).encode()) == set()


def test_no_secret_is_in_a_file_of_ray_prefect_or_ours(outcome: Outcome) -> None:
    files = [path for path in outcome.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    names = {path.name for path in files}
    assert {"prefect.db", "raylet.out", "gcs_server.out"} <= names
    assert any(name.startswith("worker-") for name in names)
    found = {str(path): hits(outcome.canaries, path.read_bytes()) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


def test_no_secret_is_in_the_destination(outcome: Outcome) -> None:
    store = open_store(outcome.destination, {})
    objects = {found.path: store.read(found.path) for found in store.list()}
    assert any(path.endswith("run.json") for path in objects)
    assert sum(path.endswith(".parquet") for path in objects) >= 4
    for path, data in list(objects.items()):
        if path.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
            objects[f"{path} unfolded"] = f"{table.to_pylist()} {table.schema.metadata}".encode()
    found = {path: hits(outcome.canaries, path.encode() + data) for path, data in objects.items()}
    assert {path: names for path, names in found.items() if names} == {}


def test_no_secret_is_told_to_the_webhook(outcome: Outcome) -> None:
    (body,) = outcome.told
    assert json.loads(body)["type"] == "run.completed_with_failures"
    assert hits(outcome.canaries, body) == set()


def test_no_secret_is_on_a_command_line(outcome: Outcome) -> None:
    assert len(outcome.command_lines) > 5
    assert hits(outcome.canaries, b"\n".join(outcome.command_lines)) == set()


def test_codecs_do_not_even_know_the_secrets(outcome: Outcome) -> None:
    if not outcome.codec_environments:
        pytest.skip("no process of its own decodes here")
    assert hits(outcome.canaries, b"\n".join(outcome.codec_environments)) == set()
    assert not any(b"RAY_AUTH_TOKEN" in variables for variables in outcome.codec_environments)


def test_folders_of_tracks_are_for_one_user_and_gone_in_the_end(outcome: Outcome) -> None:
    assert outcome.scratch_modes == {0o700}
    assert list((outcome.folder / "scratch").iterdir()) == []


@pytest.mark.parametrize("lead", range(4))
@pytest.mark.parametrize("trail", range(4))
def test_the_search_finds_a_secret_inside_of_other_data(lead: int, trail: int) -> None:
    canaries = make_canaries()
    for name, value in canaries.items():
        data = b"y" * lead + value.encode() + b"z" * trail
        quoted = urllib.parse.urlencode({"a": "é" * lead + value})
        for form in (data, base64.b64encode(data), base64.urlsafe_b64encode(data), quoted.encode()):
            assert hits(canaries, b"before " + form + b" behind") == {name}
        assert hits(canaries, json.dumps({"x": [value]}).encode()) == {name}
        assert hits(canaries, data[:-4]) == set() or trail
