"""Bags are what the package `demucs` makes of the same members, and load and call only who is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from demucs.apply import BagOfModels, apply_model
from torch import Tensor

from splitfire_batch.config import SeparationConfig
from splitfire_batch.engine import Engine
from splitfire_batch.errors import ConfigError
from splitfire_batch.models import members
from splitfire_batch.models.bag import Bag, have_same_segments, load_parts
from splitfire_batch.models.registry import Member, ModelCard
from splitfire_batch.segments import Model
from tests.demucs_networks import FOUR, SMALL, SMALL_V3, Network, make_card

NETWORKS = [replace(SMALL, name=f"member-{seed}", seed=seed) for seed in range(10, 14)]
ONE_EACH = [[float(row == column) for column in range(4)] for row in range(4)]
MIXED = [[1.0, 1.0, 0.0, 0.5], [0.0, 1.0, 2.0, 0.5], [1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry knows the members."""
    cards = {network.name: network.card for network in [*NETWORKS, SMALL_V3]}
    monkeypatch.setattr(members, "find_card", cards.__getitem__)


def card_of(weights: list[list[float]], networks: list[Network] = NETWORKS) -> ModelCard:
    members = [
        Member(network.name, dict(zip(FOUR, row, strict=True)))
        for network, row in zip(networks, weights, strict=True)
    ]
    return make_card("bag", FOUR, members=members)


class Loader:
    """Makes members, and counts how often each was called."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def __call__(self, separation: SeparationConfig) -> Model:
        network = next(each for each in [*NETWORKS, SMALL_V3] if each.name == separation.model)
        model: Any = network.model(stems=separation.stems, tail=separation.tail)
        self.calls[network.name] = 0
        layers = model._layers

        def counted(x: Tensor, xt: Tensor) -> Any:
            self.calls[network.name] += 1
            return layers(x, xt)

        model._layers = counted
        return model


def bag_of(weights: list[list[float]], **settings: Any) -> tuple[Bag, Loader]:
    loader, card = Loader(), card_of(weights)
    separation = SeparationConfig(**{"model": "bag", "residual": "drop", **settings})
    return Bag(card, load_parts(card, separation, loader)), loader


def noise(n_frames: int) -> Tensor:
    return torch.randn((1, 2, n_frames), generator=torch.Generator().manual_seed(1)) * 0.1


def separated(model: Model, mix: Tensor) -> Tensor:
    with Engine(model) as engine:
        return torch.cat(list(engine.separate([mix])), dim=3)


@pytest.mark.parametrize("weights", [ONE_EACH, MIXED], ids=["one each", "mixed"])
@pytest.mark.parametrize("n_frames", [4_000, 30_000])
def test_a_bag_is_what_the_package_makes_of_its_members(weights, n_frames):
    mix = noise(n_frames)
    package = BagOfModels([network.reference for network in NETWORKS], weights)
    with torch.inference_mode():
        wanted = apply_model(package, mix, shifts=0, split=True, overlap=0.25)
    found = separated(bag_of(weights, tail="reference")[0], mix)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


@pytest.mark.parametrize("stem", FOUR)
def test_one_stem_takes_one_member_where_each_gives_one(stem):
    bag, loader = bag_of(ONE_EACH, stems=stem)
    separated(bag, noise(19_000))  # two segments
    assert loader.calls == {NETWORKS[FOUR.index(stem)].name: 2}
    assert bag.stems == (stem,)


def test_with_the_folded_residual_the_stem_that_takes_it_needs_no_member():
    bag, loader = bag_of(ONE_EACH, residual="fold")
    assert set(loader.calls) == {NETWORKS[index].name for index in (0, 1, 3)}
    assert bag.stems == ("drums", "bass", "vocals")


def test_a_member_that_gives_a_stem_alone_gives_it_bit_for_bit():
    bag, _ = bag_of(ONE_EACH)
    segment = noise(bag.segments(1)[0].n_frames)
    for index, network in enumerate(NETWORKS):
        assert torch.equal(bag(segment)[:, index], network.model()(segment)[:, index])


def test_a_stem_that_no_member_gives_is_refused():
    with pytest.raises(ConfigError, match="bag: no member gives vocals"):
        bag_of([[1.0, 1.0, 1.0, 0.0]] * 4)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(ConfigError, match="member-10 has a weight below 0"):
        bag_of([[-1.0, 1.0, 1.0, 1.0], *MIXED[1:]])


@pytest.mark.parametrize(
    ("network", "settings"), [(SMALL_V3, {}), (SMALL, {"overlap": 0.5}), (SMALL, {"tail": "reference"})]
)
def test_members_with_other_segments_are_told_apart(network, settings):
    other = network.model(**settings)
    assert not have_same_segments([SMALL.model(), other])
    assert have_same_segments([other, other])


def test_members_that_read_other_segments_make_no_bag():
    card = card_of([[1.0] * 4] * 2, [NETWORKS[0], SMALL_V3])
    separation = SeparationConfig(model="bag", residual="drop")
    with pytest.raises(ConfigError, match="bag: member-10, small-hdemucs read different segments"):
        Bag(card, load_parts(card, separation, Loader()))
