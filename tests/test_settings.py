"""Where settings come from, and which place wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.settings import SECTIONS, Settings, expected_workers, load_settings
from splitfire_batch.config import RuntimeConfig
from splitfire_batch.errors import ConfigError

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, without a splitfire.toml."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_toml(text: str) -> None:
    Path("splitfire.toml").write_text(text)


def test_without_any_place_settings_are_the_defaults_of_the_classes() -> None:
    assert load_settings({}).model_dump() == Settings().model_dump()


@pytest.mark.parametrize(
    ("flag", "variable", "file", "wanted"),
    [
        ("flac", "wav", "aiff", "flac"),
        (None, "wav", "aiff", "wav"),
        (None, None, "aiff", "aiff"),
        (None, None, None, "source"),
        ("flac", None, "aiff", "flac"),
        ("flac", "wav", None, "flac"),
    ],
)
def test_flags_win_over_the_environment_over_the_file_over_defaults(
    flag: str | None, variable: str | None, file: str | None, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv("SPLITFIRE_OUTPUT__FORMAT", variable)
    if file:
        write_toml(f'[output]\nformat = "{file}"\n')
    assert load_settings({"output": {"format": flag} if flag else {}}).output.format == wanted


def test_fields_of_one_section_may_come_from_different_places(monkeypatch: pytest.MonkeyPatch) -> None:
    write_toml('[output]\nformat = "aiff"\ndepth = "16"\nnames = "immutable"\n')
    monkeypatch.setenv("SPLITFIRE_OUTPUT__DEPTH", "24")
    output = load_settings({"output": {"dither": False}}).output
    assert (output.format, output.depth, output.names, output.dither) == ("aiff", "24", "immutable", False)


def test_the_environment_takes_lists_and_store_options_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITFIRE_SEPARATION__STEMS", '["vocals"]')
    monkeypatch.setenv("SPLITFIRE_RUNTIME__STORAGE", '{"s3://b": {"endpoint_url": "http://127.0.0.1:1"}}')
    settings = load_settings({})
    assert settings.separation.stems == ("vocals",)
    assert settings.runtime.storage == {"s3://b": {"endpoint_url": "http://127.0.0.1:1"}}


def test_a_list_in_the_environment_that_is_no_json_is_refused_with_an_example(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPLITFIRE_SEPARATION__STEMS", "[vocals")
    with pytest.raises(ConfigError, match=r"\"separation\".*such as SPLITFIRE_SEPARATION__STEMS="):
        load_settings({})


def test_the_file_gives_store_options_per_url_prefix() -> None:
    write_toml('[runtime.storage."s3://music"]\nendpoint_url = "https://minio.example.com"\n')
    assert load_settings({}).runtime.storage == {"s3://music": {"endpoint_url": "https://minio.example.com"}}


def test_another_file_may_be_named_and_replaces_the_default_one(tmp_path: Path) -> None:
    write_toml('[output]\nformat = "aiff"\n')
    other = tmp_path / "other.toml"
    other.write_text('[output]\ndepth = "16"\n')
    output = load_settings({}, other).output
    assert (output.format, output.depth) == ("source", "16")


def test_a_file_that_is_named_must_exist() -> None:
    with pytest.raises(ConfigError, match=r"there is no settings file nowhere\.toml"):
        load_settings({}, Path("nowhere.toml"))


def test_a_malformed_file_is_named_with_the_line() -> None:
    write_toml("[output]\nformat = \n")
    with pytest.raises(ConfigError, match=r"splitfire\.toml is no TOML: .*line 2"):
        load_settings({})


def test_an_unknown_section_of_the_file_lists_the_known_ones() -> None:
    write_toml('[seperation]\nmodel = "passthrough"\n')
    with pytest.raises(ConfigError, match="'seperation' is no section") as caught:
        load_settings({})
    assert all(section in str(caught.value) for section in SECTIONS)


def test_an_unknown_section_in_the_environment_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITFIRE_SEPERATION__MODEL", "passthrough")
    with pytest.raises(ConfigError, match=r"SPLITFIRE_SEPERATION__MODEL.*'seperation' is no section"):
        load_settings({})


def test_other_variables_of_that_prefix_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITFIRE_TEST_CACHE", "somewhere")
    assert load_settings({}).model_dump() == Settings().model_dump()


@pytest.mark.parametrize("place", ["file", "environment", "flags"])
def test_an_unknown_key_lists_the_known_ones(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "file":
        write_toml('[output]\nfromat = "wav"\n')
    elif place == "environment":
        monkeypatch.setenv("SPLITFIRE_OUTPUT__FROMAT", "wav")
    with pytest.raises(ConfigError, match="output: 'fromat' is no setting; known are format, depth"):
        load_settings({"output": {"fromat": "wav"}} if place == "flags" else {})


def test_a_bad_value_names_section_field_and_what_is_wanted() -> None:
    with pytest.raises(ConfigError, match=r"runtime: workers: found 0; .*greater than or equal to 1"):
        load_settings({"runtime": {"workers": 0}})


def test_a_secret_in_the_store_options_is_refused_and_not_shown() -> None:
    write_toml('[runtime.storage."s3://"]\nsecret_access_key = "hunter2"\n')
    with pytest.raises(ConfigError, match="looks like a secret") as caught:
        load_settings({})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("given", "wanted"), [({"workers": 3}, 3), ({"ray": "10.0.0.1:6379"}, 16)])
def test_expected_workers_are_those_asked_for_or_many_on_a_cluster(
    given: dict[str, int | str], wanted: int
) -> None:
    assert expected_workers(RuntimeConfig(**given)) == wanted
