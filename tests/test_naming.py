"""Names: all different wherever case or normal form do not count, none outside the destination."""

from __future__ import annotations

import hashlib
import random
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from splitfire_batch.errors import ConfigError
from splitfire_batch.naming import NamedTrack, make_targets, stem_path

DEFAULT = "{model}/{dir}/{name}_{stem}.{ext}"
TEMPLATES = [
    DEFAULT,
    "{name}{stem}.{ext}",
    "{dir}/{stem}/{name}.{ext}",
    "{stem}.{ext}",
    "{title}/{stem}.{ext}",
    "{dir}_{title} - {name} ({stem}).{ext}",
    "../{dir}/{title}{stem}.{ext}",
    "{stem} {title}.{ext}",
]
PARTS = [
    "a",
    "A",
    "..",
    ".",
    "con",
    "é",
    "e\u0301",
    "ß",
    "SS",
    "x.wav",
    "{stem}",
    "{name}",
    "\x00\n",
    "..\\..",
    " ",
]
component = st.sampled_from(PARTS) | st.text(st.characters(exclude_characters="/"), min_size=1, max_size=90)
paths = st.lists(component, min_size=1, max_size=4).map("/".join)
files = st.tuples(
    paths, st.sampled_from(["", ".wav", ".WAV", ".flac", ".wav.flac", ".{dir}", "." + "x" * 300])
)


def named(path: str, title: str = "t") -> NamedTrack:
    # surrogatepass: object stores and file systems give names that are no valid Unicode
    return NamedTrack(
        path, hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()[:16], {"title": title}
    )


def caseless(path: str) -> str:
    """Unicode's canonical caseless form (D145), letter by letter as the standard says it."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def targets(*track_paths: str, template: str = DEFAULT) -> list[str]:
    return make_targets([named(path) for path in track_paths], template, "m")


@given(
    st.lists(
        st.tuples(files.map("".join), component), min_size=1, max_size=12, unique_by=lambda pair: pair[0]
    ),
    st.sampled_from(TEMPLATES),
    st.randoms(use_true_random=False),
)
@example([("x.wav", "t"), ("x.flac", "t"), ("x.wav.mp3", "t")], DEFAULT, random.Random(1))
@example([("é.wav", "t"), ("e\u0301.wav", "t"), ("É.wav", "t")], DEFAULT, random.Random(1))
@example([("X", "t"), ("x", "t")], DEFAULT, random.Random(1))
def test_every_listing_gives_safe_names_that_all_differ(pairs, template, chance):
    tracks = [named(path, title) for path, title in pairs]
    found = make_targets(tracks, template, "m")

    stems = [stem_path(t, s, "flac", "f" * 64) for t in found for s in ("vocals", "accompaniment")]
    assert len({caseless(path) for path in stems}) == len(stems)
    for path in stems:
        assert not path.startswith("/")
        assert not {"", ".", ".."} & set(path.split("/"))
        assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in path)
        assert max(len(part.encode()) for part in path.split("/")) <= 255

    shuffled = tracks.copy()
    chance.shuffle(shuffled)
    again = dict(zip([t.track_id for t in shuffled], make_targets(shuffled, template, "m"), strict=True))
    assert [again[track.track_id] for track in tracks] == found


def test_the_source_tree_is_mirrored_and_names_survive():
    assert targets("A b/Ünï (2)/x #1.wav") == ["m/A b/Ünï (2)/x #1_{stem}.{ext}"]
    assert targets("x.wav") == ["m/x_{stem}.{ext}"]


def test_tracks_that_differ_in_extension_are_told_apart_by_it():
    assert targets("x.wav", "x.flac", "y.wav") == [
        "m/x.wav_{stem}.{ext}",
        "m/x.flac_{stem}.{ext}",
        "m/y_{stem}.{ext}",
    ]


def test_tracks_that_differ_in_case_alone_are_told_apart_by_their_ids():
    found = targets("x.wav", "X.wav")
    assert found == [f"m/{name}.wav~{named(name + '.wav').track_id}_{{stem}}.{{ext}}" for name in ("x", "X")]


def test_a_name_made_to_look_like_another_tracks_id_does_not_get_its_place():
    decoy = f"x.wav~{named('x.wav').track_id}.mp3"
    found = targets("x.wav", "X.wav", decoy)
    assert len(set(map(caseless, found))) == 3


def test_templates_may_use_the_catalogues_columns():
    tracks = [NamedTrack("a/x.wav", "1", {"isrc": "DE/01", "the title": "Ok"})]
    assert make_targets(tracks, "{isrc}/{the title}_{stem}.{ext}", "m") == ["DE_01/Ok_{stem}.{ext}"]
    assert make_targets(tracks, "{track_id}-{stem}.{ext}", "m") == ["1-{stem}.{ext}"]


@pytest.mark.parametrize("token", ["artist", "the title", "Name", ""])
def test_an_unknown_token_is_refused_and_the_known_ones_are_listed(token):
    with pytest.raises(ConfigError, match=r"known here are dir, ext, model, name, stem, title, track_id"):
        targets("x.wav", template=f"{{{token}}}/{{name}}_{{stem}}.{{ext}}")


def test_a_column_that_some_tracks_lack_is_no_token():
    tracks = [NamedTrack("x.wav", "1", {"isrc": "A"}), NamedTrack("y.wav", "2", {})]
    with pytest.raises(ConfigError, match="isrc"):
        make_targets(tracks, "{isrc}_{stem}.{ext}", "m")


def test_tracks_with_the_same_id_and_path_are_refused():
    with pytest.raises(ConfigError, match="several tracks"):
        targets("x.wav", "x.wav")


@pytest.mark.parametrize("letter", ["a", "ü", "語", "🎸"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_long_names_fit_a_file_system_and_what_is_cut_still_counts(letter, template):
    tracks = [named(f"{letter * 300}/{letter * 300}{i}.wav", f"{letter * 300}{i}") for i in range(3)]
    found = make_targets(tracks, template, "spleeter-2stems")
    assert len(set(found)) == 3
    for target in found:
        path = stem_path(target, "accompaniment", "flac", "0" * 64)
        assert max(len(part.encode()) for part in path.split("/")) <= 255


def test_the_hash_ends_an_immutable_name():
    digest = hashlib.sha256(b"stem").hexdigest()
    assert stem_path("m/x_{stem}.{ext}", "vocals", "wav", digest) == f"m/x_vocals-{digest[:16]}.wav"
    assert stem_path("m/x_{stem}.{ext}", "vocals", "wav", None) == "m/x_vocals.wav"


HELD = NamedTrack("a/x.wav", "1" * 16, {})
OTHER = NamedTrack("a/x.flac", "2" * 16, {})
TEMPLATE = "{model}/{dir}/{name}_{stem}.{ext}"


def test_a_track_keeps_the_name_it_was_given_when_neighbours_come():
    (given,) = make_targets([HELD], TEMPLATE, "m")
    both = make_targets([HELD, OTHER], TEMPLATE, "m", {HELD.track_id: given})
    assert both == [given, "m/a/x.flac_{stem}.{ext}"]


def test_nobody_gets_a_name_whose_stems_belong_to_a_track_that_is_not_listed():
    (given,) = make_targets([HELD], TEMPLATE, "m")
    (other,) = make_targets([OTHER], TEMPLATE, "m", {HELD.track_id: given.upper()})
    assert other == "m/a/x.flac_{stem}.{ext}"


def test_a_name_that_no_longer_fits_the_template_is_given_anew():
    (given,) = make_targets([HELD], TEMPLATE, "m")
    (moved,) = make_targets([HELD], "{stem}/{name}.{ext}", "m", {HELD.track_id: given})
    assert moved == "{stem}/x.{ext}"
