"""Names: all different wherever case or normal form do not count, none outside the destination."""

from __future__ import annotations

import hashlib
import random
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from splitfire_batch.audio.formats import EXTENSIONS
from splitfire_batch.errors import ConfigError
from splitfire_batch.naming import NamedTrack, make_targets, stem_path
from splitfire_batch.spelling import FILE_ENDINGS

DEFAULT = "{model}/{dir}/{name}_{stem}.{ext}"
STEMS = ("vocals", "accompaniment", "lead_vocals", "bass", "residual", "instrumental")
TEMPLATES = [
    DEFAULT,
    "{dir}/{name}_{stem}.{ext}",
    "{dir}_{stem}/{title}/{name}.{ext}",
    "{name}{stem}{title}.{ext}",
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
    "lead",
    "vocals",
    "bass",
    "a_vocals.wav",
    "_splitfire",
    "_SplitFire",
    "CON.live",
    "com¹",
    "lpt1 .x",
    "Vol. 1.",
    "end ",
    "%2e%2e",
    "x?versionId=1",
    "x?versionId=2",
    "\u202egnp.a",
    "two\u2028lines",
    "bell\a",
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
    return make_targets([named(path) for path in track_paths], template, "m", stems=STEMS)


tracks_given = st.lists(
    st.tuples(files.map("".join), component), min_size=1, max_size=12, unique_by=lambda pair: pair[0]
).map(lambda pairs: [named(path, title) for path, title in pairs])
EXAMPLES = [
    [("x.wav", "t"), ("x.flac", "t"), ("x.wav.mp3", "t")],
    [("é.wav", "t"), ("e\u0301.wav", "t"), ("É.wav", "t")],
    [("X", "t"), ("x", "t")],
    [("a.wav", "t"), ("a_lead.wav", "t"), ("a_vocals.wav/a.wav", "t"), ("a_vocals.wav", "t")],
    [("_splitfire/x.wav", "t"), ("_splitfire_/x.wav", "t")],
    [("end/x.wav", "t"), ("end./x.wav", "t"), ("end_/x.wav", "t")],
]


def with_examples(template, *more):
    """The listings that once went wrong, in front of those that are drawn."""

    def decorate(test):
        for pairs in EXAMPLES:
            test = example([named(path, title) for path, title in pairs], template, *more)(test)
        return test

    return decorate


def stem_paths(target, digest="f" * 64):
    return [stem_path(target, stem, ext, digest) for stem in STEMS for ext in ("flac", "wav")]


def assert_nobody_shares(found):
    """No path is another track's, and none is a folder of another."""
    for digest in ("f" * 64, None):
        owners: dict[str, int] = {}
        for number, target in enumerate(found):
            for path in stem_paths(target, digest):
                assert owners.setdefault(caseless(path), number) == number, path
        folders = {
            caseless(path.rpartition("/")[0]) for target in found for path in stem_paths(target, digest)
        }
        parents = {
            "/".join(folder.split("/")[:n]) for folder in folders for n in range(folder.count("/") + 2)
        }
        assert not parents & owners.keys()


def assert_safe(path):
    """Below the destination and beside our own records, on every file system, as it looks."""
    assert not path.startswith("/")
    parts = path.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert caseless(parts[0]) != "_splitfire"
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in path)
    assert not any(unicodedata.bidirectional(char) in DIRECTIONS for char in path)
    assert not {"\u200e", "\u200f", "\u061c"} & set(path)
    assert "?versionId=" not in path
    assert len(path.encode()) <= 1024 - 100
    for part in parts:
        assert len(part.encode()) <= 255
        assert not part.endswith((".", " "))
        assert part.partition(".")[0].rstrip().casefold() not in DEVICES


DIRECTIONS = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$", "com¹", "lpt³"}
DEVICES |= {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}


@with_examples(DEFAULT, random.Random(1))
@with_examples("{dir}/{name}_{stem}.{ext}", random.Random(1))
@given(tracks_given, st.sampled_from(TEMPLATES), st.randoms(use_true_random=False))
def test_every_listing_gives_safe_names_that_nobody_shares(tracks, template, chance):
    found = make_targets(tracks, template, "m", stems=STEMS)
    for target in found:
        for path in stem_paths(target):
            assert_safe(path)
    assert_nobody_shares(found)

    shuffled = tracks.copy()
    chance.shuffle(shuffled)
    again = make_targets(shuffled, template, "m", stems=STEMS)
    by_id = {track.track_id: target for track, target in zip(shuffled, again, strict=True)}
    assert [by_id[track.track_id] for track in tracks] == found


def names_of(tracks, template, held=None):
    """Targets by track_id; nothing is asked for no tracks."""
    found = make_targets(tracks, template, "m", held or {}, STEMS) if tracks else []
    return dict(zip([track.track_id for track in tracks], found, strict=True))


@with_examples(DEFAULT, 1)
@given(tracks_given, st.sampled_from(TEMPLATES), st.integers(0, 12))
def test_names_once_given_stay_and_are_nobody_elses(tracks, template, n_first):
    held = names_of(tracks[:n_first], template)
    found = names_of(tracks, template, held)
    assert {track_id: found[track_id] for track_id in held} == held
    assert_nobody_shares([*found.values()])
    # the first are gone from the listing, their stems are not
    others = names_of(tracks[n_first:], template, held)
    assert_nobody_shares([*held.values(), *others.values()])


@given(tracks_given, st.sampled_from(TEMPLATES), st.sampled_from(TEMPLATES))
def test_another_template_gives_no_path_that_is_taken(tracks, template, other):
    half = len(tracks) // 2
    held = names_of(tracks[:half], template)
    found = names_of(tracks[half:], other, held)
    owners = {caseless(path) for target in held.values() for path in stem_paths(target)}
    assert not owners & {caseless(path) for target in found.values() for path in stem_paths(target)}


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


def test_stems_whose_paths_alone_would_be_equal_are_told_apart():
    found = targets("a.wav", "a_lead.wav")
    assert found == ["m/a.wav_{stem}.{ext}", "m/a_lead.wav_{stem}.{ext}"]
    assert targets("a_vocals.wav", "a.wav") == ["m/a_vocals_{stem}.{ext}", "m/a_{stem}.{ext}"]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("Vol. 1./x.wav", "m/Vol. 1_/x_{stem}.{ext}"),
        ("a b  /x.wav", "m/a b__/x_{stem}.{ext}"),
        ("Aux/con.live.wav", "m/Aux_/con_.live_{stem}.{ext}"),
        ("stems.wav/x.wav", "m/stems.wav_/x_{stem}.{ext}"),
        ("/etc/x.wav", "m/etc/x_{stem}.{ext}"),
        ("%2e%2e/x.wav", "m/%2e%2e/x_{stem}.{ext}"),
        ("x?versionId=3.wav", "m/x_versionId=3_{stem}.{ext}"),
        ("a\nb\u2029c/\u202ex.wav", "m/a_b_c/_x_{stem}.{ext}"),
        ("👩\u200d🎤/می\u200cخواهم.wav", "m/👩\u200d🎤/می\u200cخواهم_{stem}.{ext}"),
    ],
)
def test_only_what_would_break_or_mislead_is_replaced(path, wanted):
    assert targets(path) == [wanted]


def test_our_own_records_are_nobodys_folder():
    found = targets("_splitfire/x.wav", "_SPLITFIRE/y.wav", template="{dir}/{name}_{stem}.{ext}")
    assert found == ["_splitfire_/x_{stem}.{ext}", "_SPLITFIRE_/y_{stem}.{ext}"]


def test_a_cut_folder_keeps_the_stem_that_tells_it_apart():
    (found,) = targets(f"{'d' * 300}/x.wav", template="{dir}_{stem}/{name}.{ext}")
    assert found.count("{stem}") == 1
    assert len(set(stem_paths(found))) == 2 * len(STEMS)


def test_no_folder_ends_like_a_file_that_is_written():
    assert set(EXTENSIONS.values()) <= FILE_ENDINGS
