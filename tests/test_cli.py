"""The command line: bad usage ends early with one line, data go to stdout and talk to stderr."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flows import cli
from splitfire_batch import __version__
from splitfire_batch.errors import (
    AccessDenied,
    ConfigError,
    CredentialsExpired,
    LeaseLost,
    NoSpace,
    TrackError,
    TransientError,
)
from splitfire_batch.models import registry
from tests.small_library import COMMAND, run_main, tree, write_bad_track, write_tracks

Main = Callable[..., tuple[int, str, str]]
QUICK = ("--model", "passthrough")


@pytest.fixture
def main(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Main:
    """The command line in this process, in an empty working folder."""
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    return lambda *args: run_main(monkeypatch, capsys, *args)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tracks(tmp_path / "source", 2)


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "destination"


def assert_one_line(result: tuple[int, str, str], code: int, *words: str) -> None:
    found, out, err = result
    assert found == code, err
    assert out == ""
    assert err.startswith("splitfire: ")
    assert err.count("\n") == 1, err
    assert all(word in err for word in words), err


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--model", "spleter-2stems"), ("'spleter-2stems'", "did you mean 'spleeter-2stems'")),
        (("--model", "SCNet"), ("known are spleeter-2stems", "SCNet and MDX23C are not offered yet")),
        (("--stems", "drums"), ("'drums'", "vocals, accompaniment")),
        (("--template", "{model}/x.wav"), ("output: template", "{stem}")),
        (("--config", "nowhere.toml"), ("nowhere.toml",)),
    ],
)
def test_settings_that_cannot_work_end_with_one_line(
    command: str, args: tuple[str, ...], words: tuple[str, ...], source: Path, destination: Path, main: Main
) -> None:
    assert_one_line(main(command, source, destination, *args), 2, *words)
    assert not destination.exists()


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_missing_source_is_named(command: str, tmp_path: Path, destination: Path, main: Main) -> None:
    gone = tmp_path / "gone"
    assert_one_line(main(command, gone, destination, *QUICK), 2, str(gone), "there is no folder")
    assert not destination.exists()


@pytest.mark.parametrize("below", ["", "stems", "a/b"])
def test_a_destination_in_the_source_is_refused(below: str, source: Path, main: Main) -> None:
    before = tree(source)
    assert_one_line(main("run", source, source / below, *QUICK), 2, "lies in the source")
    assert tree(source) == before


def test_a_destination_whose_name_begins_like_the_source_is_fine(source: Path, main: Main) -> None:
    code, _, err = main("plan", source, f"{source}-stems", *QUICK)
    assert code == 0, err


def test_a_file_in_the_way_of_the_destination_is_named(source: Path, tmp_path: Path, main: Main) -> None:
    (tmp_path / "taken").write_text("mine")
    words = (f"found the file {tmp_path}/taken, wanted a folder",)
    for command in ("run", "plan"):
        assert_one_line(main(command, source, tmp_path / "taken", *QUICK), 2, *words)
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_destination_below_a_file_is_refused(source: Path, tmp_path: Path, main: Main) -> None:
    (tmp_path / "taken").write_text("mine")
    assert_one_line(main("run", source, tmp_path / "taken" / "stems", *QUICK), 2, "taken")


def test_a_source_without_anything_audible_says_what_was_found(
    tmp_path: Path, destination: Path, main: Main
) -> None:
    covers = tmp_path / "covers"
    covers.mkdir()
    (covers / "front.jpg").write_bytes(b"x")
    result = main("plan", covers, destination, *QUICK)
    assert_one_line(result, 2, "nothing audible", "1 not audio")
    assert not destination.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_named(source: Path, destination: Path, main: Main) -> None:
    source.chmod(0)
    try:
        assert_one_line(main("run", source, destination, *QUICK), 2, str(source))
    finally:
        source.chmod(0o755)


@pytest.mark.parametrize("missing", ["source", "destination"])
def test_a_missing_bucket_is_named(missing: str, bucket: str, source: Path, main: Main) -> None:
    places = {"source": (f"{bucket}-gone", bucket), "destination": (str(source), f"{bucket}-gone")}
    assert_one_line(main("run", *places[missing], *QUICK), 2, f"{bucket}-gone")


def test_a_store_that_does_not_answer_is_temporary_and_told_in_bounded_time(
    destination: Path, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:  # bound, but nobody listens: connections are refused
        silent.bind(("127.0.0.1", 0))
        endpoint = {"s3://": {"endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}"}}
        monkeypatch.setenv("SPLITFIRE_RUNTIME__STORAGE", json.dumps(endpoint))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        begin = time.monotonic()
        result = main("run", "s3://music/library", destination, *QUICK)
    assert_one_line(result, 75, "s3://music", "tries")
    assert time.monotonic() - begin < 30
    assert not destination.exists()


def test_an_option_value_out_of_its_set_is_usage(source: Path, destination: Path, main: Main) -> None:
    code, out, err = main("run", source, destination, "--depth", "12")
    assert (code, out) == (2, "")
    assert "--depth" in err
    assert "'24'" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("args", [("--help",), ("--version",), ("run", "--help")])
def test_help_and_version_are_quick_and_import_nothing_heavy(args: tuple[str, ...]) -> None:
    """Quick: within three times what importing the libraries of a command line takes, in the same minute."""
    script = (
        "import atexit, sys, resource\n"
        "def tell():\n"
        "    heavy = {'torch', 'ray', 'prefect', 'pyarrow', 's3fs', 'soundfile'} & set(sys.modules)\n"
        "    heavy |= {'asyncio', 'pydantic_settings'} & set(sys.modules)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, *heavy, file=sys.stderr)\n"
        "atexit.register(tell)\n"
    )
    ours = script + "from flows.cli import main\nmain()\n"
    bare = script + "import pydantic.dataclasses, typer, typer.rich_utils\n"
    done, libraries = (
        subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
        for code in (ours, bare)
    )
    cpu_s, *heavy = done.stderr.split()
    assert done.returncode == libraries.returncode == 0
    assert not heavy
    assert float(cpu_s) < 3 * float(libraries.stderr)
    assert (__version__ in done.stdout) == (args == ("--version",))


def test_separate_does_the_good_files_and_reports_the_bad_one(tmp_path: Path, main: Main) -> None:
    folder = write_tracks(tmp_path / "in", 2)
    files = [*sorted(folder.glob("*.wav")), write_bad_track(folder)]
    code, out, err = main("separate", *files, "-o", tmp_path / "out", *QUICK)
    stems = [Path(line) for line in out.splitlines()]
    assert code == 3
    assert len(stems) == len(set(stems)) == 4
    assert all(stem.stat().st_size > 44 for stem in stems)
    assert err.startswith("failed NOT_AUDIO: ")
    assert "bad.wav" in err


def test_separate_prints_one_json_object_a_file(tmp_path: Path, main: Main) -> None:
    folder = write_tracks(tmp_path / "in", 1)
    files = [folder / "tone 00.wav", write_bad_track(folder)]
    code, out, _ = main("separate", *files, "-o", tmp_path / "out", "--json", *QUICK)
    good, bad = map(json.loads, out.splitlines())
    assert code == 3
    assert (good["status"], set(good["stems"])) == ("done", {"vocals", "accompaniment"})
    assert all(Path(path).is_file() for path in good["stems"].values())
    assert (bad["status"], bad["code"], bad["stems"]) == ("failed", "NOT_AUDIO", {})


def test_separate_tells_of_skipped_tracks_and_does_not_fail(tmp_path: Path, main: Main) -> None:
    file = write_tracks(tmp_path / "in", 1) / "tone 00.wav"
    code, out, err = main("separate", file, "-o", tmp_path / "out", "--skip-without-vocals", "-5", *QUICK)
    assert (code, out) == (0, "")
    assert err.startswith("skipped NO_VOCALS: ")
    assert "tone 00.wav: the vocals hold -10.0 dB" in err


def test_separate_prints_only_the_stems_that_it_wrote(tmp_path: Path, main: Main) -> None:
    file = write_tracks(tmp_path / "in", 1) / "tone 00.wav"  # its vocals peak at 0.05, -26 dB
    code, out, _ = main("separate", file, "-o", tmp_path / "out", "--skip-silent-stems", "-20", *QUICK)
    assert code == 0
    (line,) = out.splitlines()
    assert Path(line).name == "tone 00_accompaniment.wav"
    assert Path(line).is_file()


@pytest.mark.parametrize(("name", "words"), [("gone.wav", "there is no file"), (".", "is a folder")])
def test_separate_refuses_what_is_no_file_before_it_begins(
    name: str, words: str, source: Path, destination: Path, main: Main
) -> None:
    result = main("separate", source / "tone 00.wav", source / name, "-o", destination, *QUICK)
    assert_one_line(result, 2, words)
    assert not destination.exists()


def test_separate_takes_models_of_a_registry(tmp_path: Path, main: Main, monkeypatch) -> None:
    monkeypatch.setattr(registry, "_added", {})
    (tmp_path / "my.toml").write_text('[mine]\nlike = "passthrough"\nstems = ["vocals", "other"]\n')
    file = write_tracks(tmp_path / "in", 1) / "tone 00.wav"
    own = ("--registry", tmp_path / "my.toml", "--model", "mine", "--device", "cpu", "--batch", "1")
    code, out, err = main("separate", file, "-o", tmp_path / "out", *own)
    assert code == 0, err
    assert [Path(line).name for line in out.splitlines()] == ["tone 00_vocals.wav", "tone 00_other.wav"]


def test_separate_refuses_what_is_not_cleared_where_that_is_required(source: Path, main: Main) -> None:
    result = main("separate", source / "tone 00.wav", "--model", "htdemucs", "--require-commercial")
    assert_one_line(result, 2, "htdemucs is not cleared for commercial use")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named(source: Path, main: Main) -> None:
    result = main("separate", source / "tone 00.wav", "--device", "cuda", *QUICK)
    assert_one_line(result, 2, "device: found 'cuda'", "use 'auto' or 'cpu'")


@pytest.mark.parametrize("option", ["-o", "--weights-mirror"])
def test_separate_refuses_addresses_with_a_signature(option: str, source: Path, main: Main) -> None:
    signed = "s3://b/x?X-Amz-Signature=abcdef"
    result = main("separate", source / "tone 00.wav", option, signed, *QUICK)
    assert_one_line(result, 2, "found 's3://b/x'", "leave it out")


def test_weights_that_are_nowhere_are_told_in_lines(source: Path, main: Main, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    code, out, err = main("separate", source / "tone 00.wav", "--model", "htdemucs", "--offline")
    assert (code, out) == (2, "")
    first, *more = err.splitlines()
    assert first.startswith("splitfire: no source has 955717e8-8726e21a.th of htdemucs")
    assert len(more) == 2
    assert all(line.startswith("  ") for line in more)


def test_models_are_listed_with_stems_and_licence(main: Main) -> None:
    code, out, _ = main("models", "list")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert "vocals, accompaniment" in rows["spleeter-2stems"]
    assert "MIT" in rows["spleeter-2stems"]
    code, out, _ = main("models", "list", "--json")
    assert {card["name"] for card in json.loads(out)} == set(rows) - {"name"}


def test_a_model_without_weights_has_nothing_to_pull(main: Main) -> None:
    assert main("models", "pull", "passthrough") == (0, "", "passthrough needs no weights\n")


def test_pulling_an_unknown_model_offers_the_closest(main: Main) -> None:
    assert_one_line(main("models", "pull", "spleeter"), 2, "did you mean 'spleeter-2stems'")


def test_pull_prints_where_the_weights_are(main: Main) -> None:
    code, out, err = main("models", "pull", "spleeter-2stems")
    assert code == 0, err
    assert Path(out.strip()).exists()


def test_plan_writes_nothing_and_counts_what_there_is(tmp_path: Path, source: Path, main: Main) -> None:
    (source / "cover.jpg").write_bytes(b"x")
    before = tree(tmp_path)
    code, out, _ = main("plan", source, tmp_path / "destination", "--json", *QUICK)
    numbers: dict[str, Any] = json.loads(out)
    assert code == 0
    assert tree(tmp_path) == before
    assert not (tmp_path / "destination").exists()
    assert (numbers["tracks"], numbers["todo"], numbers["done_before"]) == (2, 2, 0)
    assert numbers["ignored"] == {"not audio": 1}
    assert numbers["bytes_in"] == sum(path.stat().st_size for path in source.glob("*.wav"))


def test_plan_says_what_the_run_will_take_and_cost(source: Path, destination: Path, main: Main) -> None:
    write_bad_track(source)
    code, out, _ = main("plan", source, destination, "--gpu-hourly", "2.5", "--workers", "2", *QUICK)
    assert code == 0
    found = {line[:15].strip(): line[16:] for line in out.splitlines()}
    assert found["to do"] == "3 in 1 shard"
    assert found["audio"] == "1.0 s"  # two tracks of half a second; what is no audio has no length
    assert found["durations"] == "3 read from headers"
    assert found["wall time"].endswith("with 1 worker")  # there is one shard
    assert "per 1,000 tracks" in found["cost"]


def test_a_price_below_nothing_is_refused(source: Path, destination: Path, main: Main) -> None:
    assert_one_line(main("plan", source, destination, "--gpu-hourly", "-1", *QUICK), 2, "gpu_hourly", "-1")


def test_an_unreachable_prefect_is_temporary_and_told_at_once(source: Path, destination: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        environment = {**os.environ, "PREFECT_API_URL": url}
        command = [*COMMAND, "run", str(source), str(destination), *QUICK]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert_one_line((done.returncode, done.stdout, done.stderr), 75, url, "PREFECT_API_URL")
    assert tree(destination) == {}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TransientError("no answer"), 75),
        (LeaseLost("taken over"), 75),
        (CredentialsExpired("s3://b", "expired"), 75),
        (NoSpace("s3://b", "full"), 75),
        (AccessDenied("s3://b", "refused"), 2),
        (ConfigError("no such model"), 2),
        (TrackError("EMPTY", "found 0 bytes"), 1),
    ],
)
def test_what_the_same_command_may_overcome_later_says_so(monkeypatch, capsys, error, code):
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (code, f"splitfire: {error}\n")


def test_a_foreign_text_with_lines_cannot_pose_as_a_message_of_ours(monkeypatch, capsys):
    def fail() -> None:
        raise ConfigError("there is no file a\nsplitfire: all is well\x1b[2J")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == ("splitfire: there is no file a\n  splitfire: all is well\\x1b[2J\n")
