"""Tempo and key in the names of files, as sample packs write them: `SM_100_guitar_Dmaj`, `120bpm_Am`.

Most words that could be a key are something else (I Am, Emin, FM, take A), and most numbers are no
tempo (808, take 100, opus 94): a doubtful one counts only beside one that is certain, and two that
contradict each other count as none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from splitfire_batch.metadata.keys import spell
from splitfire_batch.metadata.sampler import as_bpm

_BPM = re.compile(
    r"(?<![\d.])(\d{2,3}(?:[.,]\d{1,2})?)[ _-]?bpm(?![a-z])|(?<![a-z])bpm[ _-]?(\d{2,3}(?:\.\d{1,2})?)(?!\d)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\s_\-()\[\]{},.+&]+")
_KEY = re.compile(r"([A-Ga-g])(#|♯|b|♭|[Ss]harp|[Ff]lat)?(m|(?i:minor|min|major|maj))?")
_MODES = ("minor", "min", "major", "maj")
_SIGNS = ("sharp", "flat")
_MAY_BE_BARE_BPM = range(60, 201)
_COUNTING = {
    "no", "nr", "op", "opus", "bwv", "kv", "k", "hob", "d", "rv", "hwv", "woo", "track", "take", "vol", "pt",
    "part", "symphony", "sonata", "concerto", "quartet", "etude", "prelude", "fugue", "mazurka", "chapter",
}  # fmt: skip
"""Words before a number that counts something."""
_PERSONS = {"amin", "emin"}


@dataclass(frozen=True, slots=True)
class NameFacts:
    """None for what a name does not say for certain. `sample_type` is "loop" or "one-shot"."""

    bpm: float | None = None
    key: str | None = None
    sample_type: str | None = None


@dataclass(frozen=True, slots=True)
class _KeyWord:
    """A key in words `at` to `end` (exclusive) of a name."""

    key: str
    at: int
    end: int
    is_certain: bool


def read_name(path: str) -> NameFacts:
    """What the last part of a path, without its extension, says."""
    name = path.rpartition("/")[2]
    name = name.rpartition(".")[0] or name
    tempos = {float((match[1] or match[2]).replace(",", ".")) for match in _BPM.finditer(name)}
    words = _WORD.findall(_BPM.sub(" bpm ", name))
    keys = _keys(words)
    if tempos:  # whoever writes the tempo so plainly means a key by what looks like one
        bpm = as_bpm(min(tempos)) if len(tempos) == 1 else None
    else:
        bpm, keys = _beside_a_key(words, keys, name)
    found = {word.key for word in keys if word.is_certain} or {word.key for word in keys}
    return NameFacts(bpm, found.pop() if len(found) == 1 else None, _sample_type(words, bpm))


def _keys(words: list[str]) -> list[_KeyWord]:
    """Everything that could be a key."""
    found = []
    for at, word in enumerate(words):
        match = _KEY.fullmatch(word)
        neighbours = words[max(0, at - 1) : at] + words[at + 1 : at + 2]
        if match is None or (match[2] is None and {"I", "i"} & set(neighbours)):
            continue
        tonic, sign, mode = match.groups()
        rest = [word.lower() for word in words[at + 1 : at + 3]]
        end = at + 1
        if sign is None and mode is None and rest[:1] and rest[0] in _SIGNS:
            sign, end, rest = rest[0], end + 1, rest[1:]
        if mode is None and rest[:1] and rest[0] in _MODES:
            mode, end = rest[0], end + 1
        if (sign is None and mode is None) or not _is_written_as_key(tonic, sign, mode):
            continue
        is_article = tonic == "A" and sign is None and end > at + 1 and words[at - 1 : at] != ["in"]
        is_certain = mode is not None and not is_article and not (sign is None and mode == "m")
        found.append(_KeyWord(spell(tonic, sign, mode), at, end, is_certain and word.lower() not in _PERSONS))
    return found


def _is_written_as_key(tonic: str, sign: str | None, mode: str | None) -> bool:
    """Small letters need more than a flat and an m: `ebm`, `am`, `dm` and `ab` are other things."""
    return tonic.isupper() or (mode is not None and (sign in ("#", "♯") or mode.lower() in _MODES))


def _beside_a_key(words: list[str], keys: list[_KeyWord], name: str) -> tuple[float | None, list[_KeyWord]]:
    """A bare number as tempo, and keys: one word, certain by itself or right beside the number."""
    numbers = [
        at
        for at, word in enumerate(words)
        if word.isascii() and word.isdigit() and len(word) <= 3 and int(word) in _MAY_BE_BARE_BPM
        and not (at and words[at - 1].lower() in _COUNTING)
    ]  # fmt: skip
    certain = [key for key in keys if key.is_certain]
    single = [key for key in keys if key.end == key.at + 1]
    is_pack_name = re.search(r"[_-]", name) is not None
    if len(numbers) != 1 or not single or not is_pack_name:
        return None, certain
    beside = [key for key in single if numbers[0] in (key.at - 1, key.end)]
    if not beside and not any(key.is_certain for key in single):
        return None, certain
    return float(words[numbers[0]]), certain + [key for key in beside if not key.is_certain]


def _sample_type(words: list[str], bpm: float | None) -> str | None:
    """A loop has a tempo; a one-shot says so."""
    text = " ".join(words).lower()
    if re.search(r"\bone ?shots?\b", text):
        return "one-shot"
    return "loop" if bpm is not None and re.search(r"loops?\b", text) else None
