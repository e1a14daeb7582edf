"""The community's configs and checkpoints: read as data, checked, and refused in words."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from splitfire_batch.config import SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.models.precision import Arithmetic
from splitfire_batch.models.registry import ModelCard, model_cards
from splitfire_batch.models.roformer import Roformer
from splitfire_batch.models.roformer_config import read_config, read_yaml
from splitfire_batch.models.roformer_package import package_network as make_package_network
from tests.roformers import CHUNK, CPU, PUBLISHED, SMALL, as_yaml, make_card, package_network, weights_of

KIM = """\
audio:
  chunk_size: 352800
  hop_length: 441 # of no effect
  n_fft: 2048
  num_channels: 2
  sample_rate: 44100
model:
  dim: 384
  depth: 6
  stereo: true
  num_stems: 1
  num_bands: 60
  flash_attn: True
  multi_stft_resolutions_window_sizes: !!python/tuple
  - 4096
  - 2048
training:
  instruments:
  - vocals
  - other
  lr: 1.0e-05
  target_instrument: vocals
inference:
  batch_size: 4
  dim_t: 256
  num_overlap: 2
"""
"""The form of such a file, cut short."""
FULL_SIZE_BYTES = {"kim": 912_885_624, "anvuew": 204_274_176, "sw": 698_840_448}
"""Of the published weights as safetensors, from the registry of unblend 1.0.0."""
CARDS = [card for card in model_cards() if "roformer" in card.architecture]


def card_of(
    text: str | None = None, stems: tuple[str, ...] = ("vocals", "other"), **options: Any
) -> ModelCard:
    card = make_card("mel_band_roformer", {"stereo": True}, stems)
    object.__setattr__(card, "options", {**({"config": text} if text is not None else {}), **options})
    return card


def build(card: ModelCard, weights: Mapping[str, Tensor]) -> Roformer:
    return Roformer(card, weights, SeparationConfig(), Arithmetic("fp32", CPU))


def test_a_config_says_what_a_model_has_to_know():
    config = read_config(card_of(KIM), {})
    assert (config.outputs, config.chunk_frames, config.n_overlap) == (("vocals",), 352_800, 2)
    assert config.arguments["dim"] == 384
    assert config.arguments["multi_stft_resolutions_window_sizes"] == (4096, 2048)


def test_a_yaml_file_a_text_and_tables_say_the_same():
    tables = read_yaml(KIM, "kim")
    found = [
        read_config(card_of(KIM), {}),
        read_config(card_of(), {"a.yaml": KIM}),
        read_config(card_of(**tables), {}),
    ]
    assert found[0] == found[1] == found[2]


def test_the_inference_s_chunk_wins():
    text = KIM.replace("batch_size: 4", "chunk_size: 588800")
    assert read_config(card_of(text), {}).chunk_frames == 588_800


@pytest.mark.parametrize("text", [
    "!!python/object/apply:os.system ['exit 3']",
    "audio: !!python/name:os.system",
    "audio: !!python/object/new:os._exit [3]",
    "model: {dim: !!python/module:os }",
])  # fmt: skip
def test_a_tag_that_would_run_or_import_something_is_refused(text):
    with pytest.raises(ConfigError, match="no config that may be read: could not determine a constructor"):
        read_config(card_of(text), {})


@pytest.mark.parametrize(("text", "message"), [
    ("a: [", "options.config is no config that may be read"),
    ("- 1", "options.config is list, wanted a table"),
    ("audio: 5", "audio is int, wanted a table"),
    ("1: 2", "options.config is dict, wanted a table of names"),
    ("[" * 1500, "no config that may be read"),
    ("a: " + "b" * 2**20, "wanted at most 1048576"),
    (KIM.replace("training:", "trainig:"), "'trainig' is no section"),
    (KIM.replace("  chunk_size: 352800\n", ""), "no audio.chunk_size"),
    (KIM.replace("352800", "8.0"), "chunk_size is 8.0, wanted a whole number"),
    (KIM.replace("num_overlap: 2", "num_overlap: 0"), "num_overlap is 0, wanted"),
    (KIM.replace("sample_rate: 44100", "sample_rate: 48000"), "audio.sample_rate .* is 48000, and"),
    (KIM.replace("stereo: true", "stereo: false"), "model.stereo of its config is False"),
    (KIM.replace("num_stems: 1", "num_stems: 4"), "has 4 stems .*names vocals"),
    (KIM.replace("target_instrument: vocals", "target_instrument: null"), "names vocals, other"),
    (KIM.replace("vocals", "drums"), "the stems vocals, other, and its network gives drums"),
    (KIM.replace("  - vocals", "  - 5").replace("instruments:", "instruments: 7 #"), "no config that may be"),
])  # fmt: skip
def test_a_config_that_cannot_be_is_refused_in_words(text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(card_of(text), {})


def test_a_card_has_one_config():
    with pytest.raises(ConfigError, match=r"config in a.yaml, b.yml; wanted one place"):
        read_config(card_of(), {"a.yaml": KIM, "b.yml": KIM})
    with pytest.raises(ConfigError, match=r"config in a.yaml, options.config"):
        read_config(card_of(KIM), {"a.yaml": KIM})
    with pytest.raises(ConfigError, match="wanted a YAML file"):
        read_config(card_of(stems=("vocals",)), {})


@pytest.mark.parametrize("architecture", sorted(SMALL))
@pytest.mark.parametrize(("key", "value", "message"), [
    ("colour", 3, r"model.colour .* no argument of \w+ in bs-roformer 0.3.10; it takes .*depth"),
    ("linear_transformer_depth", 1, "linear_transformer_depth of its config is 1, and .* only 0"),
    ("skip_connection", True, "skip_connection"),
    ("stft_window_fn", "hann", "stft_window_fn of its config is no argument"),
    ("dim", "wide", "its config makes no network"),
    ("stft_n_fft", 0, "its config makes no network"),
])  # fmt: skip
def test_what_the_pinned_network_cannot_be_is_refused(architecture, key, value, message):
    card = make_card(architecture, {**SMALL[architecture], key: value})
    with pytest.raises(ConfigError, match=message):
        build(card, {})


@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_arguments_without_effect_are_taken(architecture):
    more = {"flash_attn": True, "sage_attention": True, "use_torch_checkpoint": True, "attn_dropout": 0.5}
    more |= {
        "ff_dropout": 0.5,
        "multi_stft_hop_size": 1,
        "linear_transformer_depth": 0,
        "skip_connection": False,
    }
    weights = weights_of(package_network(architecture, SMALL[architecture]))
    segments = torch.rand((1, 2, CHUNK), generator=torch.Generator().manual_seed(4))
    plain, other = (
        build(make_card(architecture, {**SMALL[architecture], **each}), weights) for each in ({}, more)
    )
    assert torch.equal(plain(segments), other(segments))


@pytest.mark.parametrize("architecture", sorted(SMALL))
def test_mask_estimators_of_another_width_are_made(architecture):
    import bs_roformer.bs_roformer as bs
    import bs_roformer.mel_band_roformer as mel

    arguments = SMALL[architecture]
    package: Any = package_network(architecture, arguments)
    make = bs.MaskEstimator if architecture == "bs_roformer" else mel.MaskEstimator
    sizes = {"dim": arguments["dim"], "dim_inputs": package.mask_estimators[0].dim_inputs, "depth": 2}
    package.mask_estimators[0] = make(**sizes, mlp_expansion_factor=2).requires_grad_(False)
    model = build(make_card(architecture, {**arguments, "mlp_expansion_factor": 2}), weights_of(package))
    segments = torch.rand((1, 2, CHUNK), generator=torch.Generator().manual_seed(5))
    wanted = package(segments)[:, None]
    torch.testing.assert_close(model(segments), wanted, rtol=0, atol=1e-5 * wanted.abs().max())


def test_weights_that_do_not_fit_are_refused_with_their_names():
    arguments = SMALL["bs_roformer"]
    card = make_card("bs_roformer", arguments)
    weights = weights_of(package_network("bs_roformer", arguments))
    with pytest.raises(ConfigError, match=r"1 tensors are missing \(final_norm.gamma\) and 0 left over"):
        build(card, {key: value for key, value in weights.items() if key != "final_norm.gamma"})
    with pytest.raises(ConfigError, match=r"0 tensors are missing and 1 left over \(layers.9\)"):
        build(card, {**weights, "layers.9": torch.zeros(1)})
    with pytest.raises(
        ConfigError, match=r"1 tensors have another shape .* final_norm.gamma: found \(3,\), wanted \(12,\)"
    ):
        build(card, {**weights, "final_norm.gamma": torch.zeros(3)})
    with pytest.raises(ConfigError, match="another network or config"):
        build(make_card("mel_band_roformer", SMALL["mel_band_roformer"]), weights)


def test_weights_in_half_precision_are_read():
    arguments = SMALL["bs_roformer"]
    weights = {
        key: value.half() for key, value in weights_of(package_network("bs_roformer", arguments)).items()
    }
    assert torch.isfinite(build(make_card("bs_roformer", arguments), weights)(torch.ones(1, 2, CHUNK))).all()


def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bs_roformer", None)
    with pytest.raises(ConfigError, match=r"pip install 'splitfire-batch\[roformer\]'"):
        build(make_card("bs_roformer", SMALL["bs_roformer"]), {})


def test_another_version_of_the_package_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.2.4")
    with pytest.raises(ConfigError, match=r"found bs-roformer 1.2.4, wanted 0.3.10"):
        build(make_card("bs_roformer", SMALL["bs_roformer"]), {})


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Of the tensors that a published config wants."""
    architecture, arguments = PUBLISHED[name]
    net = make_package_network(make_card(architecture, arguments), arguments)
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


@pytest.mark.parametrize("name", sorted(FULL_SIZE_BYTES))
def test_tensors_at_full_size_fill_the_published_files_to_the_byte(name):
    """A safetensors file is a table of names, shapes and places, and numbers: other names, other bytes."""
    table, end = {}, 0
    for key, shape in sorted(shapes(name).items()):
        start, end = end, end + 4 * torch.Size(shape).numel()
        table[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    header = len(json.dumps(table, separators=(",", ":")))
    assert 8 + -(-header // 8) * 8 + end == FULL_SIZE_BYTES[name]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_registry_s_configs_make_networks_that_fill_their_checkpoints(card):
    tensors = make_package_network(card, read_config(card, {}).arguments).state_dict()
    (file,) = card.files
    if file.n_bytes is not None:
        n_bytes_each = (file.n_bytes - 4 * sum(map(torch.numel, tensors.values()))) / len(tensors)
        assert 300 < n_bytes_each < 500  # what zip and pickle take for each tensor


def test_what_is_made_for_tests_is_written_as_the_community_does():
    text = as_yaml({"model": SMALL["bs_roformer"]})
    assert "!!python/tuple" in text
    assert read_yaml(text, "made")["model"] == SMALL["bs_roformer"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("audio: &a [1, 2]\nmodel: *a\n", "it has an alias"),
        ("model: " + "[" * 20 + "]" * 20, "nested deeper"),
    ],
)
def test_yaml_that_could_grow_beyond_bounds_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        read_yaml(text, "x.yaml")


def test_a_foreign_value_is_told_in_short():
    with pytest.raises(ConfigError, match=r"audio.chunk_size is \[.*\.\.\.\]") as raised:
        read_config(card_of(None, audio={"chunk_size": list(range(10**5))}, model={"stereo": True}), {})
    assert len(str(raised.value)) < 300
