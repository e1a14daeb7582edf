"""All spellings of a key become one, and what is no key none."""

from __future__ import annotations

import pytest

from splitfire_batch.metadata.keys import parse_key

NOTES = ["C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"]


@pytest.mark.parametrize(
    ("text", "key"),
    [("Am", "Am"), ("A minor", "Am"), ("a min", "Am"), ("C", "C"), ("Cmaj", "C"), ("C Major", "C"),
     ("F#m", "F#m"), ("F♯ minor", "F#m"), ("Bbm", "Bbm"), ("B flat minor", "Bbm"), ("bb", "Bb"), ("E♭", "Eb"),
     (" Dm ", "Dm")],
)  # fmt: skip
def test_words_are_understood(text, key):
    assert parse_key(text) == key


@pytest.mark.parametrize("text", ["", None, "o", "H", "13A", "0B", "Am7", "C lydian", "128", "all", "Cm/Gm"])
def test_other_words_are_not(text):
    assert parse_key(text) is None


@pytest.mark.parametrize("number", range(1, 13))
def test_wheels_of_dj_software_go_by_fifths_and_pair_relatives(number):
    major, minor = parse_key(f"{number}B"), parse_key(f"{number}A")
    semitones = (7 * (number - 8)) % 12  # 8B is C major
    assert major == NOTES[semitones]
    assert major is not None
    tonic = {"D#m": "Ebm", "Dbm": "C#m", "Abm": "G#m"}.get(NOTES[(semitones + 9) % 12] + "m")
    assert minor == (tonic or NOTES[(semitones + 9) % 12] + "m")
    open_key = (number - 8) % 12 + 1
    assert (parse_key(f"{open_key}d"), parse_key(f"{open_key}m")) == (major, minor)
