"""Names of a whole listing as columns: letter for letter what they are track by track, clashes included."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitfire_batch import targets as targets_module
from splitfire_batch.clashes import Survey, find_held
from splitfire_batch.errors import ConfigError
from splitfire_batch.naming import NamedTrack, make_targets, spellings
from splitfire_batch.rows import rows_of
from splitfire_batch.spelling import folded, is_text
from splitfire_batch.targets import check_columns, first_targets, folded_all
from tests.test_naming import DEFAULT, STEMS, TEMPLATES, component, files, named, with_examples

MORE_TEMPLATES = [
    "con.{dir}/{name}_{stem}.{ext}",
    "{{dir}{stem}/{title}{name}/{stem}.{ext}",
    "_Ünï/{name}{stem}.{ext}",
    "//{dir}//{name}/{title}/{stem}{track_id}.{ext}",
]
MODELS = st.sampled_from(["m", "_splitfire", "modèle"])
plain = st.sampled_from(["a/b/x.wav", "a/b/x.flac", "A/b/X.wav", "a/b/x_lead.wav", "Beyoncé/é.wav", "x"])
listings = st.lists(
    st.tuples(st.one_of(plain, files.map("".join)).filter(is_text), component.filter(is_text)),
    min_size=1,
    max_size=25,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: [named(path, title) for path, title in pairs])


def batch_of(tracks: list[NamedTrack]) -> pa.RecordBatch:
    columns = {
        "path": pa.array([track.path for track in tracks], pa.string()),
        "track_id": pa.array([track.track_id for track in tracks], pa.string()),
        "meta": pa.array([list(track.meta.items()) for track in tracks], pa.map_(pa.string(), pa.string())),
    }
    return pa.RecordBatch.from_pydict(columns)


def all_targets(tracks: list[NamedTrack], template: str, held: dict[str, str]) -> list[str]:
    """In two batches, as `plan` does it."""
    table = pa.table({"track_id": list(held), "target": list(held.values())}, pa.schema(HELD))
    batches = [batch_of(part) for part in (tracks[: len(tracks) // 2], tracks[len(tracks) // 2 :])]
    listing = rows_of(batches, batches[0].schema)
    survey = Survey(template, "m", STEMS, find_held(listing.table()["track_id"], table))
    found: list[str] = []
    for batch in batches:
        first = first_targets(batch, template, "m")
        survey.add(batch, first)
        found += first.to_pylist()
    for row, target in survey.changed(listing).items():
        found[row] = target
    return found


HELD = [("track_id", pa.string()), ("target", pa.string())]


@settings(deadline=None, max_examples=60)
@given(listings, st.sampled_from(TEMPLATES + MORE_TEMPLATES), MODELS)
def test_columns_spell_what_naming_spells(tracks, template, model):
    found = first_targets(batch_of(tracks), template, model)
    assert found.to_pylist() == [spellings(track, template, model)[0] for track in tracks]
    assert folded_all(found).to_pylist() == [folded(target) for target in found.to_pylist()]


def test_ordinary_paths_are_not_gone_through_one_by_one(monkeypatch):
    monkeypatch.setattr(targets_module, "spellings", lambda *_: pytest.fail("one was"))
    paths = [
        "label/Sigur Rós/( ) [2002]/01 Vaka.flac",
        "日本/東京/夜 & 雨.wav",
        "x.wav",
        "a/b.c/d.mp3",
        "y",
    ]
    found = first_targets(batch_of([named(path) for path in paths]), DEFAULT, "m").to_pylist()
    assert found[2:] == ["m/x_{stem}.{ext}", "m/a/b.c/d_{stem}.{ext}", "m/y_{stem}.{ext}"]


@settings(deadline=None, max_examples=60)
@with_examples(DEFAULT, {}, 0)
@given(
    listings,
    st.sampled_from(TEMPLATES),
    st.dictionaries(st.sampled_from("pq"), st.sampled_from(["m/x_{stem}.{ext}", "m/A/B/x_{stem}.{ext}"])),
    st.integers(0, 20),
)
def test_a_listing_gets_the_names_that_naming_gives_it(tracks, template, others, n_held):
    """Also where the destination holds some of it, under this template or another, and other tracks."""
    before = make_targets(tracks[:n_held], DEFAULT if n_held % 2 else template, "m", {}, STEMS)
    held = {track.track_id: target for track, target in zip(tracks, before, strict=False)} | others
    try:
        wanted = make_targets(tracks, template, "m", held, STEMS)
    except ConfigError:
        with pytest.raises(ConfigError, match=r"put \{track_id\} into the template"):
            all_targets(tracks, template, held)
    else:
        assert all_targets(tracks, template, held) == wanted


def test_the_last_target_of_a_held_track_counts():
    held = pa.table({"track_id": ["a", "b", "a"], "target": ["1", "2", "3"]})
    found = find_held(pa.chunked_array([["b", "c", "a"]]), held)
    assert dict(zip(found.track_ids.to_pylist(), found.targets.to_pylist(), strict=True)) == {
        "a": "3",
        "b": "2",
    }
    assert [found.track_ids[n].as_py() if n >= 0 else None for n in found.at.tolist()] == ["b", None, "a"]


def test_a_token_that_not_every_track_has_is_refused_with_those_that_all_have():
    tracks = [named("x.wav"), NamedTrack("y.wav", "y", {"title": "t", "isrc": "1"})]
    metas = [batch_of([track])["meta"] for track in tracks]
    check_columns(metas, 2, "{title}_{stem}.{ext}")
    with pytest.raises(ConfigError, match=r"the token {isrc}; known here are dir, .*title, track_id"):
        check_columns(metas, 2, "{isrc}_{stem}.{ext}")
