"""Copies of deployment files with one thing wrong, to see that their validators say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.validators.refusal import ROOT, Refused
from tests.validators.table import check


@dataclass(frozen=True)
class Broken:
    """What is replaced in a file, and what the refusal must say."""

    name: str
    """The file, from the repository's root."""
    old: str
    new: str
    says: str
    """A regular expression."""

    @property
    def id(self) -> str:
        """For pytest: the file and what became of it."""
        return f"{self.name.split('/', 1)[1]}-{self.new.strip()[:40] or 'without ' + self.old.strip()[:40]}"


def expect_refusal(broken: Broken, folder: Path) -> None:
    """Write the broken copy into `folder`, under the file's own name, and let its validators refuse it."""
    text = (ROOT / broken.name).read_text()
    assert broken.old in text, f"{broken.name} has no {broken.old!r} any more"
    copy = folder / Path(broken.name).name
    copy.write_text(text.replace(broken.old, broken.new))
    with pytest.raises(Refused, match=broken.says):
        check(broken.name, copy)
