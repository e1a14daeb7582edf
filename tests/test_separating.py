"""What a person sees while `separate` works, and that it stays out of what scripts read."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from flows.separating import MAX_FILES_SHOWN, showing_files, view
from splitfire_batch.headway import FilesProgress, Headway, OpenFile
from tests.small_library import run_main, write_bad_track, write_tracks
from tests.test_headway import Kept, audio

SONG = OpenFile("music/song.wav", audio_s=90.0, duration_s=225.0, seconds=10.0)
NOW = FilesProgress(n_files=12, n_settled=3, audio_s=840.0, seconds=100.0, open=(SONG,))


def shown(now: FilesProgress, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(view(now))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def with_open(*files: OpenFile) -> FilesProgress:
    return FilesProgress(len(files), 0, 0.0, 1.0, files)


def test_files_are_counted_and_those_at_work_say_how_far_they_are() -> None:
    text = shown(NOW)
    assert re.search(r"separating .* 3/12 files, 14 min 00 s of audio, 8\.4 x real time", text)
    assert "1 min 30 s of 3 min 45 s, 9.0 x real time, 15.0 s to go music/song.wav" in text


def test_a_file_whose_stems_are_written_says_so() -> None:
    assert "10.0 s of 10.0 s, writing stems a.wav" in shown(with_open(OpenFile("a.wav", 10.0, 10.0, 2.0)))


def test_where_nothing_says_how_long_a_file_is_nothing_is_promised() -> None:
    text = shown(with_open(OpenFile("a.mp3", 10.0, 0.0, 2.0)))
    assert "10.0 s, 5.0 x real time a.mp3" in text
    assert "to go" not in text


def test_a_narrow_terminal_has_a_line_for_each_file() -> None:
    text = shown(with_open(*(OpenFile("deep/" * 30 + "a.wav", 1.0, 2.0, 1.0) for _ in range(3))), 80)
    assert len(text.splitlines()) == 4


def test_many_files_at_work_do_not_fill_the_screen() -> None:
    text = shown(with_open(*[SONG] * (MAX_FILES_SHOWN + 3)))
    assert text.count("song.wav") == MAX_FILES_SHOWN
    assert "... and 3 more" in text


def test_a_name_cannot_write_on_the_screen() -> None:
    assert "\x1b" not in shown(with_open(OpenFile("a\x1b[2J.wav", 1.0, 2.0, 1.0)))


def test_on_a_terminal_it_moves_and_what_is_printed_stays_whole(monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    headway = Headway()
    headway.expect(7)
    with showing_files(headway, is_quiet=False) as aside:
        time.sleep(0.6)  # it looks four times a second
        assert "0/7 files" in capsys.readouterr().err
        with aside():
            print("a_vocals.wav")
            print("a_other.wav")
        seen = capsys.readouterr()
    assert seen.out == "a_vocals.wav\na_other.wav\n"


def test_rows_that_come_faster_than_it_looks_are_not_drawn_over(monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("flows.separating.LOOK_S", 600.0)
    with showing_files(Headway(), is_quiet=False) as aside:
        for _ in range(5):
            with aside():
                print("a_vocals.wav")
    seen = capsys.readouterr()
    assert seen.out == "a_vocals.wav\n" * 5
    assert "separating" not in seen.err


def test_what_is_printed_is_not_erased(monkeypatch, capsys) -> None:
    """On a terminal both streams meet: after a line is printed no more lines are erased than were drawn."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    headway = Headway()
    for name in ("a.wav", "b.wav"):
        headway.begin(name, Kept(audio(10)))
    with showing_files(headway, is_quiet=False) as aside:
        time.sleep(0.6)
        with aside():
            capsys.readouterr()
        time.sleep(0.6)
        text = capsys.readouterr().err
    first_drawn = text.index("separating")
    assert "\x1b[1A" not in text[:first_drawn]


@pytest.mark.parametrize("args", [(), ("--quiet",)], ids=["piped", "quiet"])
def test_without_a_terminal_or_where_it_is_unwanted_there_is_nothing(
    args: tuple[str, ...], tmp_path: Path, monkeypatch, capsys
) -> None:
    if args:
        monkeypatch.setenv("FORCE_COLOR", "1")
    file = write_tracks(tmp_path / "in", 1) / "tone 00.wav"
    options = ("-o", tmp_path / "out", "--model", "passthrough", "--device", "cpu", *args)
    code, out, err = run_main(monkeypatch, capsys, "separate", file, *options)
    assert (code, len(out.splitlines()), err) == (0, 2, "")


def test_paths_go_to_stdout_and_the_rest_to_the_terminal(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    folder = write_tracks(tmp_path / "in", 2)
    files = (*sorted(folder.glob("*.wav")), write_bad_track(folder))
    options = ("-o", tmp_path / "out", "--model", "passthrough", "--device", "cpu")
    code, out, err = run_main(monkeypatch, capsys, "separate", *files, *options)
    assert code == 3
    assert all(Path(line).is_file() for line in out.splitlines())
    assert len(out.splitlines()) == 4
    assert "failed NOT_AUDIO: " in err
