"""Names that models have in other programs, and what there is here in their place.

Names of demucs, spleeter, audio-separator, Ultimate Vocal Remover and the community's training repository,
with or without the ending of a file. They are hints in messages, never aliases: a model has one name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple


class ForeignName(NamedTuple):
    """Names of one kind."""

    pattern: str
    """Of the whole name in lower case, `-` for every gap."""
    here: str
    """The nearest model, or a sentence that says why there is none; `\\1` is the pattern's first group."""
    is_model: bool = True


def _not_offered(pattern: str, why: str) -> ForeignName:
    return ForeignName(pattern, why, is_model=False)


FOREIGN_NAMES = (
    ForeignName("spleeter", "spleeter-2stems"),
    ForeignName(r"(?:spleeter-)?([245])-?stems?", r"spleeter-\1stems"),
    ForeignName(r"(?:spleeter-)?([245])-?stems?-16khz", r"spleeter-\1stems-16khz"),
    ForeignName(r"(?:hybrid-)?demucs(?:-?v?4)?|demucs4ht", "htdemucs"),
    ForeignName(r"h?t?demucs-mmi|hdemucs|demucs-?v?3", "hdemucs_mmi"),
    ForeignName(r"kim|kimmel.*|(?:vocals-)?mel-?band-?roformer(?:-kim)?", "melband-roformer-kim"),
    ForeignName(r"(?:model-)?bs-?roformer(?:-ep-317.*)?|viperx(?:-1297)?", "bs-roformer-viperx-1297"),
    ForeignName(r"(?:model-)?bs-?roformer-ep-17-.*", "bs-roformer-musdb18"),
    _not_offered(
        r"mdx(?:-extra)?(?:-q)?|repro-mdx.*|demucs-?v?[12]|demucs-extra|tasnet.*",
        "of Demucs before v4 only hdemucs_mmi is offered; htdemucs_ft has the highest published SDR of all",
    ),
    _not_offered(
        r".*mdx-?23c.*|.*scnet.*",
        "SCNet and MDX23C are not offered yet: no settled package has networks to prove ours against; "
        "melband-roformer-kim separates vocals, htdemucs four stems",
    ),
    _not_offered(
        r".*mdx-?net.*|kim-(?:vocal|inst).*|kuielab.*|.*inst-hq.*|.*\.onnx",
        "MDX-Net is not offered: its networks are published as ONNX files, which nothing here reads; "
        "melband-roformer-kim separates vocals",
    ),
    _not_offered(
        r"uvr.*|.*-uvr|\d+-hp.*|.*\.pth",
        "the VR networks of Ultimate Vocal Remover are not offered: the package that has them excludes "
        "versions that this one needs; melband-roformer-kim separates vocals",
    ),
    _not_offered(
        r"open-?unmix|x?-?umx.*",
        "Open-Unmix is not offered: it takes a track whole, so memory would grow with its length; "
        "htdemucs and spleeter-4stems give the same stems",
    ),
    _not_offered(
        r".*ro-?former.*|.*/.*|.*\.(?:ckpt|th|safetensors)",
        "a checkpoint of your own comes with --registry, a TOML file that names it",
    ),
)
_ENDINGS = r"(?:\.(?:ckpt|onnx|pth|th|ya?ml|safetensors))?"


def hint(name: str, known: Iterable[str]) -> str:
    """What may have been meant by a model's name that is not known; empty where nothing comes close."""
    ours = list(known)
    bare = re.sub(_ENDINGS + "$", "", _spelt(name))
    meant = next((one for one in ours if _spelt(one) == bare), "")
    if meant:
        return f"did you mean {meant!r}?"
    for foreign in FOREIGN_NAMES:
        match = re.fullmatch(f"(?:{foreign.pattern}){_ENDINGS}", _spelt(name))
        if match:
            here = match.expand(foreign.here)
            return f"did you mean {here!r}?" if foreign.is_model else here
    close = difflib.get_close_matches(name, ours, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def _spelt(name: str) -> str:
    """In lower case, and with one sign for what stands between words."""
    return re.sub(r"[\s_:-]+", "-", name.strip().lower())
