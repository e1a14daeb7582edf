"""Scratch folders: gone at the end of their block, and those of killed processes at the next start."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from splitfire_batch import scratch
from splitfire_batch.scratch import scratch_folder, sweep

_HOLD = """
import sys
from pathlib import Path
from splitfire_batch.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "spool").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_gone_at_the_end_with_what_is_in_it(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        (folder / "spool").write_bytes(b"x")
        assert folder.parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_a_sweep_takes_the_folder_of_a_killed_process_and_none_of_a_live_one(tmp_path: Path) -> None:
    other = tmp_path / "splitfire-of-somebody"
    other.mkdir()
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        with scratch_folder(tmp_path) as mine:
            assert sweep(tmp_path) == 0
            assert folder.exists()
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert sweep(tmp_path) == 1
            assert mine.exists()
    assert list(tmp_path.iterdir()) == [other]


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_flock, swept = scratch.fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if not swept:
            swept.append(0)
            swept[0] = sweep(tmp_path)
        true_flock(descriptor, how)

    monkeypatch.setattr(scratch.fcntl, "flock", flock)
    with scratch_folder(tmp_path) as folder:
        assert swept == [1]
        assert folder.is_dir()


@pytest.mark.parametrize(
    ("host", "boot", "is_swept"),
    [
        ("node-a", "11111111", True),
        ("node-a", "22222222", True),  # this machine was started anew
        ("node-b", "11111111", True),  # another container on it
        ("node-b", "22222222", False),  # its locks may not be seen here
        ("node-b", None, False),  # machines that tell no boot
    ],
)
def test_a_sweep_takes_only_folders_of_its_own_machine(
    host: str, boot: str | None, is_swept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be(host: str, boot: str | None) -> None:
        monkeypatch.setattr(scratch.socket, "gethostname", lambda: host)
        monkeypatch.setattr(scratch, "_BOOT", tmp_path / (boot or "none"))
        if boot:
            (tmp_path / boot).write_text(f"{boot}-0000-0000-0000-000000000000\n")

    with monkeypatch.context() as unlocked:
        unlocked.setattr(scratch.fcntl, "flock", lambda *_: None)
        unlocked.setattr(scratch.shutil, "rmtree", lambda *_, **__: None)
        be(host, boot)
        with scratch_folder(tmp_path) as folder:
            assert folder.is_dir()
    be("node-a", "11111111" if boot else None)
    assert sweep(tmp_path) == is_swept
    assert folder.exists() is not is_swept


def test_a_folder_that_names_no_machine_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "splitfire-track-abcd1234").mkdir()
    assert sweep(tmp_path) == 0
