"""The package `bs-roformer`: its networks for a config, and whether a checkpoint's tensors fit them."""

from __future__ import annotations

import importlib.metadata
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.registry import ModelCard

PACKAGE_VERSION = "0.3.10"
"""The last one whose names of tensors are those of the community's checkpoints, for both networks."""

_CLASSES = {"bs_roformer": "BSRoformer", "mel_band_roformer": "MelBandRoformer"}
_WITHOUT_EFFECT = {
    "flash_attn": "how attention is computed, and here it is exact whatever it says",
    "sage_attention": "an approximation of attention, which was trained without it",
    "use_torch_checkpoint": "memory in training",
    "attn_dropout": "training",
    "ff_dropout": "training",
    "multi_stft_resolution_loss_weight": "training",
    "multi_stft_resolutions_window_sizes": "training",
    "multi_stft_hop_size": "training",
    "multi_stft_normalized": "training",
    "match_input_audio_length": "the length of the network's output: here that of its input",
    "dim_freqs_in": "nothing: the network counts the bins of its STFT",
}
"""Arguments that a config may have and that change no estimate, with what they are about."""
_ONLY = {"linear_transformer_depth": 0, "skip_connection": False, "use_pope": False}
"""Arguments of other versions of these networks, with the value at which they do nothing."""
ZERO_DC, _EXPANSION = "zero_dc", "mlp_expansion_factor"
"""Arguments of other versions that can be obeyed all the same: no estimate at 0 Hz, which is done to the
masks, and the width of the mask estimators, which the package's have but its network does not pass on."""
_MAX_NAMED = 3


def package_network(card: ModelCard, written: Mapping[str, Any]) -> nn.Module:
    """The package's network of a card for its constructor's arguments as a config has them; without values.

    Raises:
        ConfigError: the package is missing or another version, an argument is not known or not possible.
    """
    make = _constructor(card.architecture)
    arguments, expansion = _checked(written, make, card.name)
    with warnings.catch_warnings(), _WithoutValues(), torch.random.fork_rng(devices=[]):
        # it counts the bins of its STFT with noise, without a window
        warnings.filterwarnings("ignore", "A window was not provided", UserWarning)
        try:
            net: nn.Module = make(**arguments)
            if expansion is not None:
                _expand(net, expansion, arguments)
        except Exception as error:  # beartype's, einops', assertions, and whatever sizes lead to
            why = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"{card.name}: its config makes no network: {why}") from error
    return net


def _constructor(architecture: str) -> Any:
    """The package's class; importing it loads librosa, for the mel bands."""
    try:
        found = importlib.metadata.version("bs-roformer")
        import bs_roformer
    except ImportError as error:
        raise ConfigError(
            f"{architecture} needs the package bs-roformer: pip install 'splitfire-batch[roformer]' ({error})"
        ) from error
    if found != PACKAGE_VERSION:
        raise ConfigError(
            f"{architecture}: found bs-roformer {found}, wanted {PACKAGE_VERSION}, the version whose tensors "
            "are named as in the checkpoints; pip install 'splitfire-batch[roformer]'"
        )
    return getattr(bs_roformer, _CLASSES[architecture])


def _checked(arguments: Mapping[str, Any], make: Any, name: str) -> tuple[dict[str, Any], int | None]:
    """The arguments for the class, and the width of the mask estimators."""
    known = [
        key for key in inspect.signature(make.__init__).parameters if key not in ("self", *_WITHOUT_EFFECT)
    ]
    known = [key for key in known if not key.endswith("_fn")]  # functions, which are no data
    kept = {}
    for key, value in arguments.items():
        if key in (*_WITHOUT_EFFECT, ZERO_DC, _EXPANSION):
            continue
        if key in _ONLY:
            if value not in (None, _ONLY[key]):
                raise ConfigError(
                    f"{name}: model.{key} of its config is {value!r}, and bs-roformer {PACKAGE_VERSION} has "
                    f"no such part, only {_ONLY[key]!r}; these weights need another network"
                )
            continue
        if key not in known:
            raise ConfigError(
                f"{name}: model.{key} of its config is no argument of {make.__name__} in bs-roformer "
                f"{PACKAGE_VERSION}; it takes {', '.join(sorted([*known, ZERO_DC, _EXPANSION]))}"
            )
        kept[key] = tuple(value) if isinstance(value, list) else value
    # flash only decides which kernels the package asks for, and prints a line about the card
    return {**kept, "flash_attn": False}, arguments.get(_EXPANSION)


def _expand(net: Any, factor: int, arguments: Mapping[str, Any]) -> None:
    """Make the mask estimators again with hidden layers of another width."""
    make = type(net.mask_estimators[0])
    depth = arguments.get(
        "mask_estimator_depth", inspect.signature(type(net)).parameters["mask_estimator_depth"].default
    )
    inputs = net.mask_estimators[0].dim_inputs
    net.mask_estimators = nn.ModuleList(
        make(dim=arguments["dim"], dim_inputs=inputs, depth=depth, mlp_expansion_factor=factor)
        for _ in net.mask_estimators
    )


def check_tensors(net: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Returns if tensors have the names and shapes of a network's.

    Raises:
        ConfigError: one is missing, left over, or has another shape; `name` is the model's.
    """
    wanted = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    differing = [key for key in wanted if key in found and wanted[key] != found[key]]
    if missing or extra:
        raise ConfigError(
            f"{name}: its weights do not fit its config: {len(missing)} tensors are missing{_named(missing)} "
            f"and {len(extra)} left over{_named(extra)}; they belong to another network or config"
        )
    if differing:
        key = differing[0]
        raise ConfigError(
            f"{name}: {len(differing)} tensors have another shape than its config gives them, such as {key}: "
            f"found {found[key]}, wanted {wanted[key]}"
        )


def _named(keys: Sequence[str]) -> str:
    more = ", ..." if len(keys) > _MAX_NAMED else ""
    return f" ({', '.join(keys[:_MAX_NAMED])}{more})" if keys else ""


class _WithoutValues(TorchFunctionMode):
    """Weights made inside have no memory: those of a checkpoint take their places."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
