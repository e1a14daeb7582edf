"""What a path component may look like, so that every file system and every reader takes it for the same.

Names survive; replaced is only what a file system refuses or changes (control characters, Windows' device
names, dots and spaces at the end), what shows a name as another (marks that reverse the direction of text),
and what fsspec would take for a version of an object. Unicode's own equality is `folded`.
"""

from __future__ import annotations

import unicodedata
from hashlib import blake2b

OPEN_TOKENS = ("{stem}", "{ext}")
"""Of a template: what is filled in once the stem is written."""
FILE_ENDINGS = frozenset({"aif", "aiff", "caf", "flac", "m4a", "mp3", "mp4", "ogg", "opus", "wav"})
"""How stems' files may end; no folder may, or a file and a folder could want the same name."""

_DEVICE_NAMES = {"con", "prn", "aux", "nul", "conin$", "conout$"}
_DEVICE_NAMES |= {f"{port}{digit}" for port in ("com", "lpt") for digit in "123456789¹²³"}
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # control characters, lone surrogates, line and paragraph separators
_DIRECTION_MARKS = {
    "\u061c",
    "\u200e",
    "\u200f",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
}

UNSAFE_PATTERN = (
    r"\x00-\x1f\x7f-\x9f\x{2028}\x{2029}"
    r"\x{061c}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}"
)
"""In the brackets of a regular expression of Arrow (RE2): the letters that `safe_part` replaces."""
DEVICE_PATTERN = r"con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[1-9¹²³]"
"""In such an expression: the names of devices, where case does not count."""


def is_text(path: str) -> bool:
    """Whether a name was UTF-8: Python spells bytes that it cannot decode as lone surrogates."""
    return path.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in path)


def safe_part(part: str) -> str:
    """A value to be put into a path component: one line, never empty, and no open token."""
    if not (part.isascii() and part.isprintable()):
        part = "".join("_" if _is_unsafe(letter) else letter for letter in part)
    if any(token in part for token in OPEN_TOKENS):
        part = part.replace("{", "(").replace("}", ")")
    return _named(part)


def safe_folder(part: str) -> str:
    """A whole folder name of a template that is filled in: it may hold open tokens."""
    part = _named(part)
    kept = part.rstrip(" .")
    part = kept + "_" * (len(part) - len(kept))
    return f"{part}_" if part.rpartition(".")[2].lower() in FILE_ENDINGS else part


def shortened(name: str, room: int, suffix: str = "") -> str:
    """The name with its suffix, cut to `room` bytes in such a way that what is cut still counts."""
    data = name.encode()
    if len(data) + len(suffix.encode()) <= room:
        return name + suffix
    digest = blake2b(data, digest_size=4).hexdigest()
    kept = max(0, room - len(suffix.encode()) - 9)
    return data[:kept].decode(errors="ignore") + "~" + digest + suffix


def folded(path: str) -> str:
    """Equal for what some file system takes for equal (Unicode's definition D145)."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def _is_unsafe(letter: str) -> bool:
    return letter in _DIRECTION_MARKS or unicodedata.category(letter) in _UNPRINTABLE


def _named(part: str) -> str:
    """Neither empty nor dots only, no device, and no version of an object."""
    if not part.strip(" ."):
        return "_" * max(1, len(part))
    part = part.replace("?versionId=", "_versionId=")
    base, dot, rest = part.partition(".")
    return f"{base}_{dot}{rest}" if base.rstrip(" ").lower() in _DEVICE_NAMES else part
