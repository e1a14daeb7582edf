"""Texts of others made harmless where they are shown: on a terminal, in Markdown, in a spreadsheet.

Names of objects and what decoders say of them may hold anything: escape sequences that a terminal obeys,
marks that reverse the direction of text, HTML, and cells that a spreadsheet computes. In rows and in JSON
they stay as they are; what is shown goes through here.
"""

from __future__ import annotations

import html
import re
import shlex
import traceback
from pathlib import Path

_FORMULA = re.compile("[=+\\-@\t\r\n\0＝＋－＠]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_COLOUR = re.compile(r"\x1b\[\d*m")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~])")


def one_line(text: str) -> str:
    """The text with everything that does not print as a letter of its own spelled as Python spells it."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def lines(text: str) -> str:
    """As `one_line` for each line of a text that has several; colours are left out."""
    return "\n".join(map(one_line, _COLOUR.sub("", text).split("\n")))


def markdown(text: str) -> str:
    """The text for a line or a table cell of Markdown: neither markup nor HTML."""
    return _MARKDOWN.sub(r"\\\1", html.escape(one_line(text), quote=False))


def shell_word(text: str) -> str:
    """The text as a word of a command line that can be pasted."""
    return shlex.quote(one_line(text))


def csv_cell(text: str) -> str:
    """The text with `'` before it if a spreadsheet would take it for a formula; numbers stay numbers.

    What begins with `=`, `+`, `-`, `@`, also wide ones, a tab, a line's end or NUL (OWASP, CSV injection).
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def traced(error: BaseException) -> str:
    """An error for a log: the lines it came by, then what it says, on one line; its causes behind it."""
    found: BaseException | None = error
    lines: list[str] = []
    while found is not None:
        frames = "".join(traceback.format_tb(found.__traceback__)).splitlines()
        lines += [*frames, one_line(f"{type(found).__name__}: {found}")]
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return "\n".join(lines)


def origin(error: BaseException) -> str:
    """The line that raised, for a report: a log with the whole traceback may be out of reach."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}, {frame.name}"
