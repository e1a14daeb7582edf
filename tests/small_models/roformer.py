"""RoFormers with random weights and segments of 25 STFT columns."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from torch import Tensor

from tests.roformers import CHUNK, SMALL, make_card, package_network, weights_of
from tests.small_models import Case

_FOUR = ("drums", "bass", "other", "vocals")
_TARGET = {"instruments": ["vocals", "other"], "target_instrument": "vocals"}


def random_weights(architecture: str, n_stems: int) -> Mapping[str, Tensor]:
    return weights_of(package_network(architecture, {**SMALL[architecture], "num_stems": n_stems}))


CASES = [
    # where a clip is long enough to be mirrored at its end
    Case(
        "bs-roformer",
        make_card("bs_roformer", SMALL["bs_roformer"], ("vocals", "other"), training=_TARGET),
        functools.partial(random_weights, "bs_roformer", 1),
        lengths=(CHUNK // 2,),
        is_silent_on_silence=True,
    ),
    Case(
        "mel-band-roformer",
        make_card("mel_band_roformer", {**SMALL["mel_band_roformer"], "num_stems": 4}, _FOUR),
        functools.partial(random_weights, "mel_band_roformer", 4),
        {"overlap": 0.1},
        lengths=(CHUNK // 2,),
        is_silent_on_silence=True,
    ),
    Case(
        "bs-roformer-reference",
        make_card("bs_roformer", {**SMALL["bs_roformer"], "num_stems": 4}, _FOUR),
        functools.partial(random_weights, "bs_roformer", 4),
        {"tail": "reference", "overlap": 0.75},
        is_silent_on_silence=True,
    ),
]
