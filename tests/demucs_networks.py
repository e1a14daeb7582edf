"""Networks of the package `demucs` with random weights, small and at full size, and their cards.

The published arguments are those of the checkpoints 955717e8 (htdemucs), f7e0c4bc, d12395a8, 92cfc3b6 and
04573f0d (htdemucs_ft), and 5c90dfd2 (htdemucs_6s), as the metadata of the package unblend 1.0.0 lists them;
it gives 84,023,856 bytes for one of the first five in half precision and 54,884,136 for the last.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from torch import Tensor, nn

from splitfire_batch.config import SeparationConfig
from splitfire_batch.models.htdemucs import Demucs
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.registry import ModelCard, find_card

FOUR = ("drums", "bass", "other", "vocals")
SIX = (*FOUR, "guitar", "piano")
CPU = torch.device("cpu")

_SMALL: dict[str, Any] = {
    "channels": 8, "depth": 3, "nfft": 1024, "dconv_mode": 3, "t_layers": 5, "t_heads": 2,
    "bottom_channels": 16, "segment": "1/4",
}  # fmt: skip
_PUBLISHED: dict[str, Any] = {
    "audio_channels": 2, "samplerate": 44_100, "segment": "39/5", "channels": 48, "channels_time": None,
    "growth": 2, "nfft": 4096, "wiener_iters": 0, "end_iters": 0, "wiener_residual": False, "cac": True,
    "depth": 4, "rewrite": True, "multi_freqs": [], "multi_freqs_depth": 3, "freq_emb": 0.2, "emb_scale": 10,
    "emb_smooth": True, "kernel_size": 8, "stride": 4, "time_stride": 2, "context": 1, "context_enc": 0,
    "norm_starts": 4, "norm_groups": 4, "dconv_mode": 3, "dconv_depth": 2, "dconv_comp": 8,
    "dconv_init": 0.001, "bottom_channels": 512, "t_layers": 5, "t_hidden_scale": 4.0, "t_heads": 8,
    "t_dropout": 0.02, "t_layer_scale": True, "t_gelu": True, "t_emb": "sin", "t_max_positions": 10_000,
    "t_max_period": 10_000.0, "t_weight_pos_embed": 1.0, "t_cape_mean_normalize": True,
    "t_cape_augment": True, "t_cape_glob_loc_scale": [5000.0, 1.0, 1.4], "t_sin_random_shift": 0,
    "t_norm_in": True, "t_norm_in_group": False, "t_group_norm": False, "t_norm_first": True,
    "t_norm_out": True, "t_cross_first": False, "rescale": 0.1,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Network:
    """One network: the package's class and arguments, and its stems."""

    name: str
    kwargs: Mapping[str, Any]
    stems: tuple[str, ...] = FOUR
    made_by: str = "HTDemucs"
    seed: int = 1

    def __str__(self) -> str:
        return self.name

    @property
    def card(self) -> ModelCard:
        """Of a user's registry, say: without files, for the tests have the tensors."""
        options = {"class": self.made_by, "kwargs": dict(self.kwargs)}
        return make_card(self.name, self.stems, options=options)

    @functools.cached_property
    def reference(self) -> nn.Module:
        """The package's own network, made once. Branches that training finds scaled to nearly nothing are
        scaled by up to 1, as if they had learnt something.
        """
        kwargs = {**self.kwargs, "sources": list(self.stems), "segment": Fraction(self.kwargs["segment"])}
        made_by: Any = {"HTDemucs": HTDemucs, "HDemucs": HDemucs}[self.made_by]
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            net: nn.Module = made_by(**kwargs).eval()
            for name, parameter in net.named_parameters():
                if name.endswith(".scale"):
                    parameter.data.uniform_(0.1, 1)
        return net.requires_grad_(False)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its state."""
        return dict(self.reference.state_dict())

    def shapes(self) -> dict[str, Tensor]:
        """Its state without numbers, made in no time at any size."""
        with torch.device("meta"):
            return dict(replace(self).reference.state_dict())

    def model(self, arithmetic: Arithmetic | None = None, **settings: Any) -> Demucs:
        """Ours, with the same state; all estimates by default."""
        separation = SeparationConfig(**{"model": self.name, "residual": "drop", **settings})
        return Demucs(self.card, self.tensors, separation, arithmetic or Arithmetic("fp32", CPU))


def make_card(name: str, stems: tuple[str, ...], **fields: Any) -> ModelCard:
    """A card without weights, licences and numbers."""
    return ModelCard(
        **{
            "name": name, "architecture": "htdemucs", "stems": stems, "sample_rate": 44_100, "n_channels": 2,
            "files": (), "code_license": "MIT", "weights_license": "none: random", "license_url": "",
            "is_commercial_ok": True, "training_data": "none", "citation": "", "published_sdr": (), **fields,
        }
    )  # fmt: skip


SMALL = Network("small-htdemucs", _SMALL)
SMALL_SIX = Network("small-htdemucs-6s", {**_SMALL, "bottom_channels": 0}, SIX, seed=2)
SMALL_V3 = Network(
    "small-hdemucs",
    {
        "channels": 8, "depth": 5, "nfft": 1024, "norm_starts": 3, "dconv_attn": 3, "dconv_lstm": 3,
        "dconv_mode": 3, "segment": "1/4",
    },
    made_by="HDemucs",
    seed=3,
)  # fmt: skip
FULL = Network("htdemucs-at-full-size", _PUBLISHED)
FULL_SIX = Network("htdemucs-6s-at-full-size", {**_PUBLISHED, "bottom_channels": 0}, SIX)
FULL_V3 = Network(
    "hdemucs-mmi-at-full-size",
    {**find_card("hdemucs_mmi").options["kwargs"], "segment": "44"},
    made_by="HDemucs",
    seed=3,
)
"""As our registry says, since no list of its arguments was at hand."""
