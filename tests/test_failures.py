"""Failures as data: what a destination's rows say, as a table, as JSON, and as a catalogue to run again."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.failures import csv_chunks, table_lines
from flows.settings import Settings
from flows.status import status_text
from splitfire_batch import job as story
from splitfire_batch.catalogue import list_tracks
from splitfire_batch.config import CatalogueConfig, OutputConfig
from splitfire_batch.errors import FAILURE_CODES, SKIP_CODES
from splitfire_batch.job import Job
from splitfire_batch.storage import open_store
from splitfire_batch.tables import read_rows
from tests.material import noise, write
from tests.small_library import COMMAND, run_main, tree
from tests.test_bad_inputs import HOSTILE_KEYS, INLINE, a_job, finish

make_job = partial(a_job, runtime=INLINE)
ROOT = Path(__file__).resolve().parents[1]
Main = Callable[..., tuple[int, str, str]]
HOSTILE = '\x1b[2J[red]x[b] `|<b>,"quoted"\n=1+1\u202e.wav'
NAMES = ("-rf.wav", "=cmd.wav", HOSTILE, "日本語.wav", "a,b.wav", " space .wav", "x;y'z.wav")


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Main:
    """The command line in this process, in an empty working folder."""
    (tmp_path / "cwd").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "cwd")
    return lambda *args: run_main(monkeypatch, capsys, *args)


def library(root: Path) -> Path:
    """One good track, and bad ones with hostile names; of two kinds."""
    source = root / "in"
    write(source / "good.wav", noise(700))
    for name in NAMES:
        (source / name).write_bytes(b"no audio")
    (source / "empty.wav").write_bytes(b"")
    return source


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source and the destination that it was run into."""
    root = tmp_path_factory.mktemp("failures")
    source = library(root)
    run(make_job(str(source), str(root / "out")))
    return source, root / "out"


def run(job: Job) -> Any:
    return finish(job, story.list_tracks(job))


def records(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def table_of(data: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data, newline="")))


def test_every_failed_track_is_listed_by_code_then_path(places: tuple[Path, Path], main: Main) -> None:
    source, out = places
    code, text, err = main("failures", out, "--json")
    assert code == 0
    found = records(text)
    assert [(row["code"], row["path"]) for row in found] == [
        ("EMPTY", "empty.wav"),
        *(("NOT_AUDIO", name) for name in sorted(NAMES)),
    ]
    for row in found:
        assert row["uri"] == f"{source}/{row['path']}"
        assert row["meaning"] == FAILURE_CODES[row["code"]].meaning
        assert (row["is_retryable"], row["attempts"], row["status"], row["meta"]) == (False, 0, "failed", {})
        assert row["message"].startswith(f"{row['path']}: ")
    assert err == ""


def test_the_table_counts_explains_and_obeys_no_name(places: tuple[Path, Path], main: Main) -> None:
    _, out = places
    code, text, err = main("failures", out)
    assert code == 0
    lines = text.splitlines()
    assert lines[0] == "EMPTY: 1 track, not tried again while unchanged; the object has no bytes"
    assert f"NOT_AUDIO: {len(NAMES)} tracks, not tried again" in text
    assert all(line.isprintable() for line in lines)
    assert "[red]x[b]" in text
    assert err == f"to run them again: splitfire retry {out}\n"


def test_filters_narrow_it_down(places: tuple[Path, Path], main: Main) -> None:
    _, out = places
    (run_id,) = [path.name for path in (out / "_splitfire/runs").iterdir()]
    assert len(records(main("failures", out, "--json", "--code", "empty")[1])) == 1
    assert len(records(main("failures", out, "--json", "--code", "EMPTY,NOT_AUDIO")[1])) == len(NAMES) + 1
    assert records(main("failures", out, "--json", "--retryable")[1]) == []
    assert len(records(main("failures", out, "--json", "--run", run_id)[1])) == len(NAMES) + 1
    assert main("failures", out, "--code", "TRUNCATED")[:2] == (0, "no failed tracks\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--code", "EMTPY"), ("'EMTPY'", "known are EMPTY, NOT_AUDIO", "INTERNAL")),
        (("--run", "yesterday"), ("'yesterday'", "the last ones: 20")),
        (("--json", "--csv"), ("--json and --csv",)),
    ],
)
def test_what_cannot_be_asked_is_refused(
    args: tuple[str, ...], words: tuple[str, ...], places: tuple[Path, Path], main: Main
) -> None:
    code, out, err = main("failures", places[1], *args)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err


@pytest.mark.parametrize("command", ["failures", "retry"])
def test_a_folder_without_manifest_is_no_destination(command: str, tmp_path: Path, main: Main) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        code, out, err = main(command, folder)
        assert (code, out) == (2, "")
        assert "manifest" in err or "gone" in err


def test_asking_changes_nothing(places: tuple[Path, Path], main: Main) -> None:
    before = tree(places[1])
    for args in ((), ("--json",), ("--csv",), ("--skipped",)):
        assert main("failures", places[1], *args)[0] == 0
    assert tree(places[1]) == before


def test_a_track_that_was_done_since_has_not_failed(tmp_path: Path, main: Main) -> None:
    source = library(tmp_path)
    job = make_job(str(source), str(tmp_path / "out"))
    run(job)
    write(source / "empty.wav", noise(700))
    run(job)
    assert {row["code"] for row in records(main("failures", tmp_path / "out", "--json")[1])} == {"NOT_AUDIO"}


def test_skipped_tracks_are_told_on_request(tmp_path: Path, main: Main) -> None:
    write(tmp_path / "in/a.wav", noise(700))
    run(make_job(str(tmp_path / "in"), str(tmp_path / "out"), output=OutputConfig(skip_without_vocals=-1)))
    assert main("failures", tmp_path / "out", "--json")[1] == ""
    (row,) = records(main("failures", tmp_path / "out", "--json", "--skipped")[1])
    assert (row["status"], row["code"], row["meaning"]) == ("skipped", "NO_VOCALS", SKIP_CODES["NO_VOCALS"])
    text = main("failures", tmp_path / "out", "--skipped", "--code", "NO_VOCALS")[1]
    assert text.startswith("NO_VOCALS: 1 track, skipped as the settings wish; ")


def test_failures_of_other_settings_are_told_apart(tmp_path: Path, main: Main) -> None:
    source = library(tmp_path)
    immutable = OutputConfig(names="immutable")
    job = make_job(str(source), str(tmp_path / "out"), output=immutable)
    run(job)
    run(replace(job, output=replace(immutable, depth="24")))
    found = records(main("failures", tmp_path / "out", "--json", "--code", "EMPTY")[1])
    assert len({row["settings_id"] for row in found}) == len(found) == 2
    text = main("failures", tmp_path / "out", "--code", "EMPTY")[1]
    for row in found:
        assert f"  empty.wav (passthrough, settings {row['settings_id']})" in text


def test_messages_are_broken_at_the_width_of_the_terminal(places: tuple[Path, Path], main: Main) -> None:
    found = records(main("failures", places[1], "--json")[1])
    lines = list(table_lines(found, 60))
    words = [line for line in lines if line.startswith("    ")]
    assert max(map(len, words)) <= 60
    whole = " ".join(" ".join(words).split())
    for row in found:
        assert " ".join(row["message"].removeprefix(f"{row['path']}: ").split()) in whole


@pytest.mark.parametrize("is_inside", [True, False])
def test_the_csv_is_a_catalogue_of_the_very_same_objects(
    is_inside: bool, places: tuple[Path, Path], main: Main, tmp_path: Path
) -> None:
    source, out = places
    rows = records(main("failures", out, "--json")[1])
    code, text, err = main("failures", out, "--csv")
    assert code == 0
    assert f"--allow-root {source}" in err
    assert table_of(text)[0].keys() >= {"uri", "splitfire_code", "splitfire_message"}
    assert text.startswith("uri,")
    folder = source if is_inside else tmp_path
    table = folder / "failures.csv"
    table.write_bytes(text.encode())
    try:
        listed = list_tracks(str(table), CatalogueConfig(allow_root=(str(source),)), {}).table().to_pylist()
    finally:
        table.unlink()
    assert {(row["uri"], row["path"]) for row in listed} == {(row["uri"], row["path"]) for row in rows}
    assert [row["problem"] for row in listed] == [None] * len(rows)
    before = {row["uri"]: row for row in list_tracks(str(source), CatalogueConfig(), {}).table().to_pylist()}
    for row in listed:
        assert row["source_id"] == before[row["uri"]]["source_id"]
        assert (row["track_id"] == before[row["uri"]]["track_id"]) is is_inside


def test_the_csv_runs_into_another_destination_and_its_failures_export_again(
    places: tuple[Path, Path], main: Main, tmp_path: Path
) -> None:
    source, out = places
    table = tmp_path / "failures.csv"
    table.write_bytes(main("failures", out, "--csv")[1].encode())
    allowed = CatalogueConfig(allow_root=(str(source),))
    report = run(make_job(str(table), str(tmp_path / "out2"), catalogue=allowed))
    assert (report.n_planned, report.n_failed) == (len(NAMES) + 1, len(NAMES) + 1)
    assert report.failures_by_code == {"EMPTY": 1, "NOT_AUDIO": len(NAMES)}
    again = main("failures", tmp_path / "out2", "--csv")[1]
    assert [row["uri"] for row in table_of(again)] == [row["uri"] for row in table_of(table.read_text())]
    assert table_of(again)[0].keys() == table_of(table.read_text())[0].keys()


def test_columns_of_the_catalogue_go_first_and_formulas_are_disarmed(tmp_path: Path, main: Main) -> None:
    source = library(tmp_path)
    (source / "list.csv").write_text(
        'uri,code,isrc,note,gain\nempty.wav,CAT-1,USRC17607839,"=HYPERLINK(""http://x"")",-3.5\n'
    )
    run(make_job(str(source / "list.csv"), str(tmp_path / "out")))
    text = main("failures", tmp_path / "out", "--csv")[1]
    (row,) = table_of(text)
    assert text.startswith("uri,code,isrc,note,gain,splitfire_status,splitfire_code,")
    assert (row["code"], row["splitfire_code"], row["gain"]) == ("CAT-1", "EMPTY", "-3.5")
    assert row["note"] == '\'=HYPERLINK("http://x")'
    (source / "failures.csv").write_text(text)
    listed = list_tracks(str(source / "failures.csv"), CatalogueConfig(), {}).table().to_pylist()
    (meta,) = [dict(track["meta"]) for track in listed]
    assert (meta["isrc"], meta["code"], meta["gain"]) == ("USRC17607839", "CAT-1", "-3.5")
    (record,) = records(main("failures", tmp_path / "out", "--json")[1])
    assert record["meta"]["note"] == '=HYPERLINK("http://x")'


def test_line_breaks_in_cells_break_no_large_table(tmp_path: Path) -> None:
    """Arrow cuts a table at line ends of its choice unless it is told that cells may hold some."""
    row = '/in/%06d.wav,"%s"\n'
    text = "uri,note\n" + "".join(row % (number, "a\nb\n" * 20) for number in range(13_000))
    (tmp_path / "list.csv").write_text(text)
    rows = list(read_rows(open_store(str(tmp_path), {}), "list.csv", ("/in",)))
    table = pa.Table.from_batches(rows)
    assert table["path"].to_pylist() == [f"{number:06}.wav" for number in range(13_000)]
    assert {tuple(meta) for meta in table["meta"].to_pylist()} == {(("note", "a\nb\n" * 20),)}


def test_an_address_that_was_refused_stays_refused(tmp_path: Path, main: Main) -> None:
    source = library(tmp_path)
    refused = ["../x.wav", "=a/../b.wav", "http://x/y.wav", "/etc/x.wav"]
    (source / "list.jsonl").write_text("".join(json.dumps({"uri": uri}) + "\n" for uri in refused))
    run(make_job(str(source / "list.jsonl"), str(tmp_path / "out")))
    rows = records(main("failures", tmp_path / "out", "--json")[1])
    assert {row["code"] for row in rows} == {"BAD_URI"}
    (source / "failures.csv").write_bytes(main("failures", tmp_path / "out", "--csv")[1].encode())
    listed = list_tracks(str(source / "failures.csv"), CatalogueConfig(), {}).table().to_pylist()
    assert len(listed) == len(refused)
    assert all(track["problem"].startswith("BAD_URI: ") for track in listed)


def test_hostile_keys_of_a_bucket_come_back_as_themselves(bucket: str, main: Main) -> None:
    source = open_store(f"{bucket}/in", {})
    for number, key in enumerate(HOSTILE_KEYS):
        source.write(key, f"no audio {number}".encode())
    run(make_job(source.url, f"{bucket}/out"))
    before = list_tracks(source.url, CatalogueConfig(), {}).table().to_pylist()
    code, text, _ = main("failures", f"{bucket}/out", "--csv")
    assert code == 0
    source.write("failures.csv", text.encode())
    after = list_tracks(f"{source.url}/failures.csv", CatalogueConfig(), {}).table().to_pylist()
    keys = ("track_id", "source_id", "uri", "path", "problem")
    assert [[row[key] for key in keys] for row in after] == [[row[key] for key in keys] for row in before]
    assert len(after) == len(HOSTILE_KEYS)


def test_a_hostile_name_reaches_no_terminal_unescaped(
    places: tuple[Path, Path], main: Main, tmp_path: Path
) -> None:
    source, out = places
    shown = [
        main("failures", out)[1],
        main("retry", out, "--dry-run")[1],
        status_text(str(out), Settings(), as_json=False),
        main("separate", source / HOSTILE, "-o", tmp_path / "stems", "--model", "passthrough")[2],
        main("separate", source / f"gone{HOSTILE}", "--model", "passthrough")[2],
        main("run", source, tmp_path / f"no\x1b[2J\n{HOSTILE}.toml", "--config", f"{HOSTILE}.toml")[2],
        main("verify", out)[1],
    ]
    for text in shown:
        assert text
        assert all(line.isprintable() for line in text.splitlines()), text


def test_a_hostile_destination_is_shown_on_one_line(tmp_path: Path, main: Main) -> None:
    out = tmp_path / "o\x1b[2J\nut"
    run(make_job(str(library(tmp_path)), str(out)))
    for text in (status_text(str(out), Settings(), as_json=False), *main("failures", out)[1:]):
        assert all(line.isprintable() for line in text.splitlines()), text


def test_the_csv_of_nothing_is_a_header() -> None:
    (header,) = csv_chunks([], [])
    assert header.decode().startswith("uri,splitfire_status,")
    assert header.endswith(b"\r\n")


def _texts(path: Path) -> tuple[set[str], set[str]]:
    """The first arguments of TrackErrors in a module, and all of its texts but the docstrings."""
    tree = ast.parse(path.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    nodes = [node for node in ast.walk(tree) if id(node) not in docs]
    calls = [
        node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "TrackError"
    ]
    return (
        {text for call in calls for node in ast.walk(call.args[0]) for text in _constant(node)},
        {text for node in nodes for text in _constant(node)},
    )


def _constant(node: ast.AST) -> list[str]:
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def test_every_code_that_the_package_uses_is_in_the_table_and_the_other_way_round() -> None:
    raised: set[str] = set()
    used: set[str] = set()
    for path in (*(ROOT / "splitfire_batch").rglob("*.py"), *(ROOT / "cluster").rglob("*.py")):
        if path.name != "errors.py":
            codes, texts = _texts(path)
            raised |= codes
            used |= {text for text in texts if text in {*FAILURE_CODES, *SKIP_CODES}}
            problems = {found[1] for text in texts if (found := re.match(r"([A-Z]+_[A-Z_]+): ", text))}
            assert problems <= set(FAILURE_CODES), path  # `Track.problem`
            used |= problems
    assert raised
    assert raised <= set(FAILURE_CODES), raised - set(FAILURE_CODES)
    assert used == {*FAILURE_CODES, *SKIP_CODES}, {*FAILURE_CODES, *SKIP_CODES} - used


@pytest.mark.slow
def test_the_real_command_line_prints_a_catalogue_of_bytes(places: tuple[Path, Path]) -> None:
    done = subprocess.run([*COMMAND, "failures", str(places[1]), "--csv"], capture_output=True, check=True)
    assert done.stdout.startswith(b"uri,")
    assert done.stdout.count(HOSTILE.replace('"', '""').encode()) >= 1
