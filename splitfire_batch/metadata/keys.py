"""Musical keys as people write them, and the one way we do: `Am`, `C#m`, `Eb`, `F`.

That is the form of ID3's TKEY frame (id3.org, v2.4 §4.2.3): tonic, accidental, `m` for minor.
"""

from __future__ import annotations

import re

_WRITTEN = re.compile(r"([A-G])[ _-]?(#|♯|b|♭|sharp|flat)?[ _-]?(minor|min|major|maj|m)?", re.IGNORECASE)
_WHEEL = re.compile(r"(1[0-2]|[1-9])([ABDM])", re.IGNORECASE)
_FIFTHS = ("C", "G", "D", "A", "E", "B", "F#", "Db", "Ab", "Eb", "Bb", "F")
"""Major keys around the circle of fifths."""
_RELATIVE_MINORS = ("Am", "Em", "Bm", "F#m", "C#m", "G#m", "Ebm", "Bbm", "Fm", "Cm", "Gm", "Dm")
_ACCIDENTALS = {"#": "#", "♯": "#", "sharp": "#", "b": "b", "♭": "b", "flat": "b"}


def parse_key(text: str | None) -> str | None:
    """The key that a tag names, in words ("A minor", "Abm"), or as DJ software numbers it (8A, 1m).

    Camelot's 8B and Open Key's 1d are C major. None for anything else, "o" (off key) included.
    """
    text = (text or "").strip()
    if wheel := _WHEEL.fullmatch(text):
        number, letter = int(wheel[1]), wheel[2].upper()
        place = (number - 8) % 12 if letter in "AB" else number - 1
        return (_RELATIVE_MINORS if letter in "AM" else _FIFTHS)[place]
    written = _WRITTEN.fullmatch(text)
    return spell(*written.groups()) if written else None


def spell(tonic: str, accidental: str | None, mode: str | None) -> str:
    """The key of a tonic (A to G), an accidental and a mode, in any of their spellings."""
    is_minor = mode is not None and (mode == "m" or mode.lower().startswith("min"))
    return tonic.upper() + _ACCIDENTALS.get((accidental or "").lower(), "") + ("m" if is_minor else "")
