"""`splitfire status --watch` follows a run in a destination until it ends, and `status` tells of it too."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows import watch as module
from flows.settings import Settings
from flows.status import status_text
from flows.watch import sight_view
from splitfire_batch import job as story
from splitfire_batch.job import Job
from splitfire_batch.lease import hold
from splitfire_batch.onlooker import Onlooker
from splitfire_batch.storage import Store, open_store
from tests.small_library import COMMAND, environment, run_main, tree, write_tracks
from tests.test_onlooker import job as job
from tests.test_onlooker import place as place
from tests.test_onlooker import planned, settle
from tests.test_onlooker import store as store
from tests.test_signals import end_of, start_run, wait_for_commit

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    return lambda *args: run_main(monkeypatch, capsys, *args)


def while_looking(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
    """What happens in the pauses between looks, one step in each."""
    todo = list(steps)
    monkeypatch.setattr(module.time, "sleep", lambda _: todo.pop(0)())
    monkeypatch.setattr(module, "PLAIN_S", 0.0)


def a_story(job: Job, store: Store) -> list[Callable[[], object]]:
    """A run in steps: it plans, does two of its shards, then the others, and ends."""
    held = hold(store, story.new_run_id())
    lease = held.__enter__()
    runs: list[story.Run] = []

    def rest() -> None:
        story.finalise(runs[0], settle(runs[0], list(runs[0].plan.shards())[2:]))
        held.__exit__(None, None, None)

    return [
        lambda: runs.append(planned(job, lease)),
        lambda: settle(runs[0], list(runs[0].plan.shards())[:2]),
        rest,
    ]


@pytest.mark.parametrize("place", ["bucket"], indirect=True)
def test_lines_follow_a_run_to_its_end(
    job: Job, store: Store, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    while_looking(monkeypatch, *a_story(job, store))
    code, out, err = main("status", job.destination, "--watch")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.match(r"\d{8}T\d{9}Z-\w{6} \(process \d+ on .* lists and plans here$", lines[0])
    assert lines[1].startswith("separating 0/5 tracks, 0.0 s of audio, 0.0 x real time; 0 of 5 begun")
    assert re.match(r"separating 2/5 tracks, 4.0 s of audio, .* to go; 2 of 5 begun, 2 whole; ", lines[2])
    assert lines[3:] == status_text(job.destination, Settings(), as_json=False).splitlines()
    assert "4 done" in lines[4]


def test_json_is_an_object_a_look_and_at_last_the_whole_status(
    job: Job, store: Store, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    while_looking(monkeypatch, *a_story(job, store))
    code, out, err = main("status", job.destination, "--watch", "--json")
    assert (code, err) == (0, "")
    first, second, third, last = (json.loads(line) for line in out.splitlines())
    assert (first["lease"]["state"], first["run"]) == ("held", None)
    assert (second["run"]["n_planned"], second["run"]["n_done"], second["run"]["eta_s"]) == (5, 0, None)
    assert (third["run"]["n_done"], len(third["run"]["shards"])) == (2, 2)
    assert third["run"]["audio_s"] == pytest.approx(4.0)
    assert third["run"]["real_time_factor"] > 0
    assert {item["destination"] for item in (first, second, third, last)} == {store.url}
    assert (last["lease"]["state"], last["run"], last["last_run"]["n_done"]) == ("free", None, 4)
    assert last == json.loads(status_text(job.destination, Settings(), as_json=True))


def test_where_nobody_works_it_ends_at_once(tmp_path: Path, main: Main) -> None:
    assert main("status", tmp_path, "--watch") == (0, f"{tmp_path}\nno stems of ours here yet\n", "")
    code, _, err = main("status", tmp_path / "gone", "--watch")
    assert (code, "gone" in err) == (2, True)


def test_ctrl_c_ends_it_at_once_and_not_the_run(
    job: Job, store: Store, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = a_story(job, store)
    while_looking(monkeypatch, steps[0], lambda: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell may have it ignored
    try:
        code, out, err = main("status", job.destination, "--watch")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, len(out.splitlines()), err) == (130, 2, "")
    steps[2]()
    assert json.loads(status_text(job.destination, Settings(), as_json=True))["lease"]["state"] == "free"


def test_a_run_that_is_gone_without_a_word_is_watched_no_longer(
    tmp_path: Path, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("splitfire_batch.lease.sighting.time.monotonic", lambda: now)

    def pass_by() -> None:
        nonlocal now
        now += 6

    while_looking(monkeypatch, *[pass_by] * 9)
    (tmp_path / "_splitfire").mkdir()
    holder = {
        "run_id": "20260101T000000000Z-abcdef",
        "host": "gone",
        "pid": 7,
        "started": "then",
        "nonce": "n",
    }
    (tmp_path / "_splitfire/lease.json").write_text(json.dumps(holder))
    code, out, _ = main("status", tmp_path, "--watch")
    assert code == 0
    assert re.search(r"last sign of life 18\.\d s ago: it is probably dead, and the next run takes over", out)
    assert "20260101T000000000Z-abcdef (process 7 on gone, since then) lists and plans here" in out


def test_status_and_a_terminal_tell_of_the_run_at_work_and_change_nothing(job: Job, store: Store) -> None:
    steps = a_story(job, store)
    steps[0]()
    steps[1]()
    before = tree(Path(store.url))
    lines = status_text(job.destination, Settings(), as_json=False).splitlines()
    assert re.search(r" works here; last sign of life \d+\.\d s ago$", lines[1])
    assert lines[2].startswith("separating 2/5 tracks, 4.0 s of audio, ")
    assert lines[3].startswith("so far ")
    console = Console(file=io.StringIO(), width=150)
    console.print(sight_view(store.url, Onlooker(store).look()))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2/5 tracks, 4.0 s of audio" in text
    assert "shards     2 of 5 begun, 2 whole" in text
    shard = r"^ *[0-9a-f]{12}  1/1 tracks  2\.0 s  device \d+ % busy  .* UTC"
    assert len(re.findall(shard, text, re.MULTILINE)) == 2
    after = tree(Path(store.url))
    lease = "_splitfire/lease.json"  # renewed meanwhile
    assert {name: data for name, data in before.items() if name != lease} == {
        name: data for name, data in after.items() if name != lease
    }
    steps[2]()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_real_run_is_followed_from_another_process(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    write_tracks(tmp_path / "source", 120, seconds=3.0)
    out = str(tmp_path / "out") if place == "folder" else f"{request.getfixturevalue('bucket')}/out"
    (tmp_path / "out").mkdir()
    run = start_run(tmp_path, to=out)
    watcher = start_watch(tmp_path, out)
    code, report, err = end_of(run)
    assert code == 0, err
    told, talk = watcher.communicate(timeout=60)
    assert watcher.returncode == 0, talk
    seen: list[dict[str, Any]] = [json.loads(line) for line in told.splitlines()]
    settled = [look["run"]["n_done"] for look in seen if look["run"]]
    assert settled == sorted(settled)
    assert len(set(settled)) > 2
    assert seen[-1]["last_run"]["run_id"] == report["run_id"]
    assert seen[-1]["models"][0]["done"] == 120


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_watching_outlives_a_killed_run_by_seconds_and_ctrl_c_by_none(tmp_path: Path) -> None:
    write_tracks(tmp_path / "source", 60, seconds=3.0)
    run = start_run(tmp_path)
    wait_for_commit(run, tmp_path)
    first, second = (start_watch(tmp_path, str(tmp_path / "out")) for _ in range(2))
    assert json.loads(first.stdout.readline())["run"]["n_planned"] == 60  # type: ignore[union-attr]
    assert second.stdout.readline()  # type: ignore[union-attr]
    begin = time.monotonic()
    os.kill(second.pid, signal.SIGINT)
    _, talk = second.communicate(timeout=30)
    assert (second.returncode, talk) == (130, "")
    assert time.monotonic() - begin < 5
    run.kill()
    run.communicate()
    told, talk = first.communicate(timeout=90)
    assert first.returncode == 0, talk
    last = json.loads(told.splitlines()[-1])
    assert last["lease"]["state"] == "silent"
    assert last["run"]["n_done"] == last["models"][0]["done"] > 0


def start_watch(root: Path, out: str) -> subprocess.Popen[str]:
    """`status --watch --json` once somebody holds the destination."""
    store = open_store(out, {})
    while not store.exists("_splitfire/lease.json"):
        time.sleep(0.05)
    return subprocess.Popen(
        [*COMMAND, "status", out, "--watch", "--json"],
        env=environment(root / "prefect"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
