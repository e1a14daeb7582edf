"""Globs on whole paths, case-sensitive, as `pathlib`'s `full_match` does.

`*` and `?` stay within one folder, `**` spans folders, so `*.wav` is the top folder only and `**/*.wav` is
all of them; `[ab]` is a set of characters, `[!ab]` all but these.
"""

from __future__ import annotations

import re


def glob(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression, to be matched against a whole path."""
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]/]+\])", pattern)
    text = "".join(
        known.get(part) or (part.replace("[!", "[^") if part[:1] == "[" and part[1:] else re.escape(part))
        for part in parts
    )
    return re.compile(text, re.DOTALL)
