"""Networks of the package `demucs`, as its published checkpoints name and shape them.

The only module that knows the package. A network is made from its class and the arguments that it was
trained with (`ModelCard.options`: `class` and `kwargs`), and from tensors under the package's own names.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.registry import ModelCard

_CLASSES = {"HTDemucs": "htdemucs", "HDemucs": "hdemucs"}
"""The networks that there is inference for, and the package's module of each."""
_WANTED: Mapping[str, tuple[Any, ...]] = {
    "cac": (True,),
    "hybrid": (True,),
    "hybrid_old": (False,),
    "use_train_segment": (True,),
    "t_sparse_self_attn": (False,),
    "t_sparse_cross_attn": (False,),
}
"""Arguments of which there is inference for some values only; every hybrid checkpoint since v3 has those."""
_N_SHOWN = 3


def make_network(card: ModelCard, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network of a card with its weights: float32, on the CPU, for inference.

    Args:
        card: `options` may hold `class` (HTDemucs, the default, or HDemucs), `kwargs` (of that class, as
            published; a fraction may be written "39/5") and `segment` (seconds, in place of the trained one).
        tensors: the published state, in any precision.

    Raises:
        ConfigError: the extra is not installed, options that the package or we do not know, or tensors that
            are missing, unknown, or of another shape.
    """
    made_by = _class(card)
    kwargs = _kwargs(card, made_by)
    try:
        net = made_by(**kwargs)
    except (TypeError, ValueError, AssertionError, ZeroDivisionError) as error:
        raise ConfigError(f"{card.name}: its options make no {made_by.__name__}: {error}") from error
    _check_tensors(card, net, tensors)
    net.load_state_dict(dict(tensors))
    module: nn.Module = net.eval().requires_grad_(False)
    return module


def with_package(card: ModelCard, package: str) -> ModelCard:
    """The card with class and arguments of its published package, where its own options do not say them.

    Args:
        card: of a model with files.
        package: JSON with `klass`, `args` and `kwargs`, as `weights.load_texts` gives it; empty for none.

    Raises:
        ConfigError: it is no such JSON.
    """
    if not package:
        return card
    try:
        found = json.loads(package)
        sources = {"sources": found["args"][0]} if found["args"] else {}
        options = {"class": found["klass"], "kwargs": {**sources, **found["kwargs"]}}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"{card.name}: its package does not say klass, args and kwargs ({error}); write options.class "
            "and options.kwargs into its registry"
        ) from error
    return replace(card, options={**options, **card.options})


def segment_frames(net: nn.Module) -> int:
    """Frames of a full segment: for HTDemucs the one length that it takes."""
    return int(_of(net, "segment") * _of(net, "samplerate"))


def is_of_fixed_length(net: nn.Module) -> bool:
    """Whether it takes full segments only."""
    return type(net).__name__ == "HTDemucs"


def positions(net: nn.Module) -> tuple[Tensor, Tensor] | None:
    """What its transformer adds to tell places apart, weighted; None without a transformer.

    Returns:
        Of the spectrum (1, T K, C), columns before bins, and of the waveform (1, T, C).
    """
    transformer = getattr(net, "crosstransformer", None)
    if transformer is None:
        return None
    from demucs.transformer import create_2d_sin_embedding

    n_frames, n_bins = segment_frames(net), _of(net, "nfft") // 2
    n_columns = math.ceil(n_frames / (_of(net, "nfft") // 4))
    for _ in range(_of(net, "depth")):
        n_frames, n_bins = math.ceil(n_frames / _of(net, "stride")), n_bins // _of(net, "stride")
    n_channels = transformer.layers[0].linear1.in_features
    with torch.inference_mode():
        make_grid: Any = create_2d_sin_embedding
        grid = make_grid(n_channels, n_bins, n_columns, "cpu", transformer.max_period)
        line = transformer._get_pos_embedding(n_frames, 1, n_channels, "cpu").transpose(0, 1)
        weight = transformer.weight_pos_embed
        of_spectrum, of_time = grid.permute(0, 3, 2, 1).flatten(1, 2) * weight, line * weight
    return of_spectrum.clone(), of_time.clone()


def _class(card: ModelCard) -> Any:
    """The package's class that the card names; its package may be missing."""
    name = str(card.options.get("class", "HTDemucs")).rpartition(".")[2]
    if name not in _CLASSES:
        raise ConfigError(f"{card.name}: options.class: found {name!r}, known are {', '.join(_CLASSES)}")
    try:
        module = importlib.import_module(f"demucs.{_CLASSES[name]}")
    except ImportError as error:
        raise ConfigError(
            f"{card.name} needs the package demucs, which cannot be imported ({error}); "
            "pip install 'splitfire-batch[demucs]'"
        ) from error
    return getattr(module, name)


def _kwargs(card: ModelCard, made_by: Any) -> dict[str, Any]:
    """The arguments of the class; those that it no longer has are left out, as the package itself does."""
    published = {name: _decoded(value) for name, value in dict(card.options.get("kwargs", {})).items()}
    sources = published.setdefault("sources", list(card.stems))
    if tuple(sources) != card.stems:
        raise ConfigError(
            f"{card.name}: its network gives {', '.join(sources)}; list its stems in that order"
        )
    for name, allowed in _WANTED.items():
        if (found := published.get(name, allowed[0])) not in allowed:
            raise ConfigError(f"{card.name}: options.kwargs.{name}: found {found!r}, wanted {allowed[0]!r}")
    for name, wanted in {"samplerate": card.sample_rate, "audio_channels": card.n_channels}.items():
        if (found := published.setdefault(name, wanted)) != wanted:
            raise ConfigError(f"{card.name}: options.kwargs.{name}: found {found!r}, its card says {wanted}")
    if "segment" in card.options:
        published["segment"] = _decoded(card.options["segment"])
    known = inspect.signature(made_by).parameters
    return {name: value for name, value in published.items() if name in known}


def _decoded(value: Any) -> Any:
    """A published argument: "39/5", and what the package's JSON makes of a fraction, are fractions."""
    if isinstance(value, Mapping) and value.get("_type") == "fraction":
        return Fraction(int(value["numerator"]), int(value["denominator"]))
    if isinstance(value, str) and value.replace("/", "", 1).isdigit():
        return Fraction(value)
    return list(value) if isinstance(value, tuple) else value


def _check_tensors(card: ModelCard, net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for what, names in {
        "lack": sorted(wanted.keys() - found.keys()),
        "have, unknown to the network,": sorted(found.keys() - wanted.keys()),
    }.items():
        if names:
            more = f" and {len(names) - _N_SHOWN} more" if len(names) > _N_SHOWN else ""
            raise ConfigError(
                f"{card.name}: its weights {what} {', '.join(names[:_N_SHOWN])}{more}; "
                "they are of another model, or options.kwargs are"
            )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ConfigError(
                f"{card.name}: {name} has the shape {found[name]}, wanted {shape}; check options.kwargs"
            )


def _of(net: nn.Module, name: str) -> Any:
    """An attribute of the package's network, which torch's types take for a tensor or module."""
    return getattr(net, name)
