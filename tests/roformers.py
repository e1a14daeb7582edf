"""RoFormers for tests: small random ones, the package's own to compare with, and published configs.

The published ones are facts: of KimberleyJensen's and viperx' models as their YAML files state them, of the
others as the registry of the package unblend 1.0.0 does.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from splitfire_batch.config import SeparationConfig
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.registry import ModelCard
from splitfire_batch.models.roformer import Roformer

CPU = torch.device("cpu")
CHUNK = 400
"""Frames of a small model's segment: 25 hops."""
_SMALL = {
    "dim": 12,
    "depth": 2,
    "stereo": True,
    "num_stems": 1,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 1,
    "dim_head": 8,
    "heads": 2,
    "stft_n_fft": 64,
    "stft_hop_length": 16,
    "stft_win_length": 64,
    "mask_estimator_depth": 2,
}
SMALL: dict[str, dict[str, Any]] = {
    "bs_roformer": {**_SMALL, "freqs_per_bands": (2, 2, 4, 8, 17)},
    "mel_band_roformer": {**_SMALL, "num_bands": 6, "sample_rate": 44_100},
}
"""Arguments of the constructor, by architecture."""

_BIG = {
    "stereo": True,
    "num_stems": 1,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 1,
    "dim_head": 64,
    "heads": 8,
    "attn_dropout": 0,
    "ff_dropout": 0,
    "flash_attn": True,
    "dim_freqs_in": 1025,
    "stft_n_fft": 2048,
    "stft_hop_length": 441,
    "stft_win_length": 2048,
    "stft_normalized": False,
    "mask_estimator_depth": 2,
    "multi_stft_resolutions_window_sizes": (4096, 2048, 1024, 512, 256),
}
_OF_OTHERS = ("zero_dc", "linear_transformer_depth", "mlp_expansion_factor")
BANDS = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "kim": ("mel_band_roformer", {**_BIG, "dim": 384, "depth": 6, "num_bands": 60, "sample_rate": 44_100}),
    "viperx_ep317": (
        "bs_roformer",
        {**_BIG, "dim": 512, "depth": 12, "freqs_per_bands": BANDS, "linear_transformer_depth": 0},
    ),
    "anvuew": (
        "bs_roformer",
        {**_BIG, "dim": 256, "depth": 12, "freqs_per_bands": BANDS, "stft_hop_length": 512},
    ),
    "sw": (
        "bs_roformer",
        {**_BIG, "dim": 256, "depth": 12, "num_stems": 6, "stft_hop_length": 512, "mlp_expansion_factor": 4},
    ),
}
"""Architecture and constructor's arguments of models that people use."""


def package_network(architecture: str, arguments: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """The package's own network with random weights; its gains and rotary frequencies are unusual, too.

    Arguments that it does not know are left out.
    """
    import bs_roformer

    make = {"bs_roformer": bs_roformer.BSRoformer, "mel_band_roformer": bs_roformer.MelBandRoformer}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "A window was not provided", UserWarning)
        torch.manual_seed(seed)
        known = {key: value for key, value in arguments.items() if key not in _OF_OTHERS}
        net: nn.Module = make[architecture](**{**known, "flash_attn": False})
        for name, value in net.named_parameters():
            if name.endswith(("gamma", "freqs")):
                value.data *= 0.7 + 0.6 * torch.rand(value.shape)
    return net.eval().requires_grad_(False)


def make_card(
    architecture: str, arguments: Mapping[str, Any], stems: Sequence[str] = ("vocals",), **sections: Any
) -> ModelCard:
    """A card whose options hold a config.

    Args:
        sections: of the config, beside `model`; by default just a chunk.
    """
    options = {"audio": {"chunk_size": CHUNK}, "model": dict(arguments), **sections}
    return ModelCard(
        name="small",
        architecture=architecture,
        stems=tuple(stems),
        sample_rate=44_100,
        n_channels=2 if arguments.get("stereo") else 1,
        files=(),
        code_license="MIT",
        weights_license="none: they are random",
        license_url="",
        is_commercial_ok=True,
        training_data="none",
        citation="",
        published_sdr=(),
        options=options,
    )


def make_small(
    architecture: str = "bs_roformer",
    stems: Sequence[str] = ("vocals",),
    separation: SeparationConfig | None = None,
    **arguments: Any,
) -> tuple[Roformer, nn.Module]:
    """A small model and the package's network with the same weights.

    Args:
        stems: of the card; the first `num_stems` of them are the network's.
        separation: settings; by default the card's stems as they are estimated.
        arguments: other ones of the constructor, and `sections` as of `make_card`.
    """
    sections = arguments.pop("sections", {})
    arguments = {**SMALL[architecture], **arguments}
    net = package_network(architecture, arguments)
    card = make_card(architecture, arguments, stems, **sections)
    separation = separation or SeparationConfig(residual="drop")
    return Roformer(card, weights_of(net), separation, Arithmetic("fp32", CPU)), net


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's tensors by name."""
    return copy.deepcopy(dict(net.state_dict()))


def as_yaml(sections: Mapping[str, Any]) -> str:
    """A config as the community writes them, tuples with their tag."""
    return yaml.dump(dict(sections))


def blended(
    mix: NDArray[np.float32], estimate: Callable[[Tensor], Tensor], length: int, stride: int, is_lean: bool
) -> NDArray[np.float64]:
    """The estimate of a whole track (C, T) at once, in float64: chunks over the mirrored track, faded but at
    its ends, as the formulas of `models.roformer` have it.
    """
    n_frames = mix.shape[1]
    border = length - stride if n_frames >= length else 0
    places = np.arange(-border, n_frames + (length if border else 0))
    period = max(1, 2 * (n_frames - 1))
    padded = mix[:, np.minimum(places % period, -places % period)]
    end = border + n_frames
    starts = list(range(0, end, stride))
    if is_lean:
        starts = starts[: 1 + next(i for i, start in enumerate(starts) if start + length >= end)]
    total, weight, fade = np.zeros((len(mix), end + length)), np.zeros(end + length), length // 10
    for start in starts:
        chunk = padded[:, start : start + length]
        if n_missing := length - chunk.shape[1]:
            how: Any = "reflect" if chunk.shape[1] > length / 2 else "constant"
            chunk = np.pad(chunk, ((0, 0), (0, n_missing)), mode=how)
        window = np.ones(length)
        if start != starts[0]:
            window[:fade] = np.linspace(0, 1, fade)
        if start != starts[-1]:
            window[-fade:] = np.linspace(1, 0, fade)
        window = np.maximum(window, 1e-9)  # what no other chunk covers is as it is
        signal = estimate(torch.from_numpy(chunk.copy())[None])[0].double().numpy()
        total[:, start : start + length] += window * signal
        weight[start : start + length] += window
    return total[:, border:end] / weight[border:end]
