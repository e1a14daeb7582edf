"""What is shown of foreign texts obeys nobody: no terminal, no Markdown, no spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from splitfire_batch.errors import TrackError
from splitfire_batch.escapes import csv_cell, lines, markdown, one_line, shell_word, traced

ESCAPES = {
    "\x1b[2J": r"\x1b[2J",
    "a\nb\r\tc\0": r"a\nb\r\tc\x00",
    "rtl\u202egnp.wav": r"rtl\u202egnp.wav",
    "\x9b31m": r"\x9b31m",
    "\u2028": r"\u2028",
    "\udcff": r"\udcff",
}


@pytest.mark.parametrize(("text", "shown"), ESCAPES.items())
def test_what_a_terminal_would_obey_is_spelled_out(text: str, shown: str) -> None:
    assert one_line(text) == shown
    assert one_line(text).isprintable()


@pytest.mark.parametrize("text", ["", "Ünïcödé 日本語.wav", "[red]x[/red]", "a b", r"back\slash"])
def test_what_prints_is_shown_as_it_is(text: str) -> None:
    assert one_line(text) == text


def test_lines_stay_lines_without_colours() -> None:
    assert lines("\x1b[36mone\x1b[0m\ntwo\x1b]0;title\x07") == "one\n" + r"two\x1b]0;title\x07"


def test_markdown_has_neither_markup_nor_html_nor_cells() -> None:
    text = "<img src=x onerror=alert(1)> `x` | [a](javascript:b) **c** _d_ \n# e"
    shown = markdown(text)
    assert "<" not in shown
    assert "\n" not in shown
    for letter in "`|[]*_":
        assert all(shown[at - 1] == "\\" for at, found in enumerate(shown) if found == letter), shown


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@sum", "\tx", "\rx", "\nx", "\0x", "＝1", "-1+cmd|x"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-3.5", "+4", "-1e-5", "/music/=x.wav", "s3://b/-x.wav", "a=b", ""])
def test_numbers_and_uris_stay_what_they_are(text: str) -> None:
    assert csv_cell(text) == text
    assert next(csv.reader(io.StringIO(f'"{csv_cell(text)}"'))) == [text]


def test_a_pasted_word_is_one_word() -> None:
    assert shell_word("/a b/$(x)") == "'/a b/$(x)'"


def test_a_traceback_names_its_lines_and_its_cause_and_obeys_nobody() -> None:
    try:
        try:
            raise KeyError("deep\x1b[2J")
        except KeyError as error:
            raise TrackError("INTERNAL", "two\nlines\x1b[31m") from error
    except TrackError as error:
        text = traced(error)
    assert text.count("test_escapes.py") == 2
    assert "TrackError: INTERNAL: two\\nlines\\x1b[31m" in text
    assert "KeyError: 'deep\\x1b[2J'" in text
    assert all(line.isprintable() for line in text.split("\n"))
