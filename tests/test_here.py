"""Files of this machine through the same story as a job's, without plan, shards or manifest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal

from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.headway import Counted, FilesProgress, Headway
from splitfire_batch.here import pick_device, separate_files
from splitfire_batch.models.passthrough import Passthrough
from splitfire_batch.records import TrackRow
from tests.material import noise, read_wav, write

PASSTHROUGH = SeparationConfig(model="passthrough")


def rows_of(
    files: list[Path], out: Path, output: OutputConfig | None = None, **runtime: object
) -> list[TrackRow]:
    settings = RuntimeConfig(**runtime)  # type: ignore[arg-type]
    return list(separate_files(files, str(out), PASSTHROUGH, output or OutputConfig(), settings))


def test_each_file_becomes_a_row_and_its_stems(tmp_path):
    files = [write(tmp_path / name, noise(3_000)) for name in ("a.wav", "deep/b.wav")]
    rows = rows_of(files, tmp_path / "out")
    assert [(row.track.path, row.status) for row in rows] == [(str(file), "done") for file in files]
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.wav"))
    assert found == [
        f"passthrough/{name}_{stem}.wav" for name in "ab" for stem in ("accompaniment", "vocals")
    ]
    for file, row in zip(files, rows, strict=True):
        stems = [read_wav(tmp_path / "out" / stem.path)[0] for stem in row.stems]
        assert_array_equal(sum(stems), read_wav(file)[0])


def test_a_bad_file_fails_alone(tmp_path):
    good = write(tmp_path / "good.wav", noise(3_000))
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"")
    rows = rows_of([bad, good], tmp_path / "out")
    assert [(row.status, row.code) for row in rows] == [("failed", "EMPTY"), ("done", None)]
    assert rows[0].message.startswith(f"{bad}: ")


def test_files_of_one_name_do_not_overwrite_each_other(tmp_path):
    names = ("one/a.wav", "two/a.wav", "two/a.flac", "two/A.WAV")
    files = [write(tmp_path / name, noise(3_000, seed=i)) for i, name in enumerate(names)]
    rows = rows_of(files, tmp_path / "out")
    paths = [stem.path.lower() for row in rows for stem in row.stems]
    assert len(set(paths)) == 8
    assert all((tmp_path / "out" / stem.path).is_file() for row in rows for stem in row.stems)


def test_names_that_only_the_stems_make_equal_do_not_overwrite_each_other(tmp_path):
    files = [write(tmp_path / name, noise(3_000)) for name in ("song.wav", "song_no.wav")]
    separation = SeparationConfig(model="passthrough", stems=("vocals", "no_vocals"))
    rows = list(separate_files(files, str(tmp_path / "out"), separation, OutputConfig(), RuntimeConfig()))
    assert len({stem.path for row in rows for stem in row.stems}) == 4


@pytest.mark.parametrize(
    "name", ["a b.wav", "a#b?c%20.wav", "{name}.wav", "~a.wav", "ünï.wav", "s3:x.wav", ".wav", "-o.wav"]
)
def test_any_name_is_a_name(tmp_path, name, monkeypatch):
    write(tmp_path / "plain.wav", noise(500)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (row,) = rows_of([Path(name)], Path("out"))
    assert (row.status, row.message) == ("done", None)
    assert all((tmp_path / "out" / stem.path).is_file() for stem in row.stems)


def test_a_name_that_is_no_unicode_does_not_stop_the_others(tmp_path):
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    write(tmp_path / "plain.wav", noise(500)).rename(file)
    good = write(tmp_path / "good.wav", noise(500))
    rows = rows_of([file, good], tmp_path / "out")
    assert [row.track.path for row in rows] == [str(file), str(good)]
    assert rows[1].status == "done"


def test_a_file_named_twice_is_settled_once(tmp_path, monkeypatch):
    file = write(tmp_path / "a.wav", noise(500))
    monkeypatch.chdir(tmp_path)
    (row,) = rows_of([file, Path("a.wav"), file], tmp_path / "out")
    assert row.status == "done"


def test_two_links_to_one_file_are_two_tracks(tmp_path):
    file = write(tmp_path / "a.wav", noise(500))
    links = [tmp_path / "one" / "x.wav", tmp_path / "two" / "x.wav"]
    for link in links:
        link.parent.mkdir()
        link.symlink_to(file)
    rows = rows_of(links, tmp_path / "out")
    assert len({stem.path for row in rows for stem in row.stems}) == 4


def test_stems_of_the_same_name_are_replaced(tmp_path):
    for seed in (0, 1):
        file = write(tmp_path / "a.wav", noise(500, seed=seed))
        (row,) = rows_of([file], tmp_path / "out")
    stems = [read_wav(tmp_path / "out" / stem.path)[0] for stem in row.stems]
    assert_array_equal(sum(stems), read_wav(file)[0])


def test_immutable_names_end_in_the_hash_of_the_bytes(tmp_path):
    file = write(tmp_path / "a.wav", noise(500))
    (row,) = rows_of([file], tmp_path / "out", OutputConfig(names="immutable"))
    assert all(stem.path.endswith(f"-{stem.sha256[:16]}.wav") for stem in row.stems)


def test_a_missing_file_stops_before_anything_is_done(tmp_path):
    good, missing = write(tmp_path / "a.wav", noise(500)), tmp_path / "missing.wav"
    with pytest.raises(ConfigError, match=r"there is no file .*missing\.wav"):
        rows_of([good, missing], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_refused_with_the_command_for_folders(tmp_path):
    with pytest.raises(ConfigError, match="splitfire run"):
        rows_of([tmp_path], tmp_path / "out")


def test_scratch_is_used_and_left_empty(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    file = write(tmp_path / "a.wav", noise(400_000))
    (row,) = rows_of([file], tmp_path / "out", scratch_dir=str(scratch), audio_mb=1)
    assert row.status == "done"
    assert not list(scratch.iterdir())


def test_the_device_is_the_one_asked_for():
    assert pick_device(RuntimeConfig(device="cpu")) == "cpu"


class Looking(Headway):
    """Looks whenever it is told something."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.seen: list[FilesProgress] = []

    def begin(self, path: str, audio: Counted) -> None:
        super().begin(path, audio)
        self.begun.append(path)
        self.seen.append(self.now())

    def settle(self, row: TrackRow) -> None:
        self.seen.append(self.now())
        super().settle(row)


def test_whoever_looks_sees_how_far_a_file_is_and_nothing_tells_it_in_between(tmp_path):
    file = write(tmp_path / "a.wav", noise(441_000))
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"")
    headway = Looking()
    files, out = [file, file, bad], str(tmp_path / "out")
    rows = separate_files(files, out, PASSTHROUGH, OutputConfig(), RuntimeConfig(threads=1), headway)
    assert headway.now().n_files == 2
    assert [row.status for row in rows] == ["done", "failed"]
    assert headway.begun == [str(file)]
    first, second = ([each for each in seen.open if each.path == str(file)] for seen in headway.seen[:2])
    assert [(each.audio_s, each.duration_s, each.is_separated) for each in first] == [(0.0, 10.0, False)]
    assert [(each.audio_s, each.duration_s, each.is_separated) for each in second] == [(10.0, 10.0, True)]
    end = headway.now()
    assert (end.n_settled, end.audio_s, end.open) == (2, 10.0, ())


def test_a_file_in_place_of_the_folder_for_stems_stops_before_anything_is_done(tmp_path):
    file = write(tmp_path / "a.wav", noise(500))
    for taken in (file, file / "stems"):
        with pytest.raises(ConfigError, match=rf"found the file {file}, wanted a folder"):
            rows_of([file], taken)


def test_many_files_come_in_their_order_whichever_is_ready_first(tmp_path, monkeypatch):
    lengths = [60_000, 100, 30_000, 1, 50_000, 700]
    files = [write(tmp_path / f"{i}.wav", noise(n)) for i, n in enumerate(lengths)]
    monkeypatch.setattr(Passthrough, "is_for_one_core", True, raising=False)
    rows = rows_of(files, tmp_path / "out", threads=2)
    assert [row.source.n_frames for row in rows if row.source] == lengths


@pytest.mark.parametrize(
    ("stems", "residual"), [(("accompaniment",), "drop"), (("no_accompaniment",), "fold")]
)
def test_a_track_is_judged_by_its_vocals_also_where_they_are_not_written(tmp_path, stems, residual):
    file = write(tmp_path / "a.wav", noise(3_000))
    separation = SeparationConfig(model="passthrough", stems=stems, residual=residual)
    for least, status in ((-30, "done"), (-1, "skipped")):  # a quarter of the amplitude is -10 dB
        output = OutputConfig(skip_without_vocals=least)
        (row,) = separate_files([file], str(tmp_path / "out"), separation, output, RuntimeConfig())
        assert (row.status, row.code) == (status, None if status == "done" else "NO_VOCALS")


def test_one_stem_and_the_mix_without_it_are_written_and_sum_to_it(tmp_path):
    file = write(tmp_path / "a.wav", noise(3_000))
    separation = SeparationConfig(model="passthrough", stems=("accompaniment", "no_accompaniment"))
    (row,) = separate_files([file], str(tmp_path / "out"), separation, OutputConfig(), RuntimeConfig())
    assert [stem.stem for stem in row.stems] == ["accompaniment", "no_accompaniment"]
    stems = [read_wav(tmp_path / "out" / stem.path)[0] for stem in row.stems]
    assert_array_equal(sum(stems), read_wav(file)[0])
    assert [round(stem.energy_share_db, 1) for stem in row.stems] == [-0.5, -10.0]
