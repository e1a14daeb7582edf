"""Who comes from another program and writes the name of its model is told what there is here."""

from __future__ import annotations

import re

import pytest

from splitfire_batch.models import model_cards
from splitfire_batch.models.foreign_names import FOREIGN_NAMES, hint

OURS = [card.name for card in model_cards()]
NOT_OFFERED = {
    "mdx": "of Demucs before v4 only hdemucs_mmi",
    "mdx_extra": "of Demucs before v4 only hdemucs_mmi",
    "mdx_extra_q": "of Demucs before v4 only hdemucs_mmi",
    "MDX23C": "SCNet and MDX23C are not offered",
    "MDX23C-8KFFT-InstVoc_HQ.ckpt": "SCNet and MDX23C are not offered",
    "model_mdx23c_ep_168_sdr_7.0207.ckpt": "SCNet and MDX23C are not offered",
    "SCNet": "SCNet and MDX23C are not offered",
    "scnet_checkpoint_musdb18.ckpt": "SCNet and MDX23C are not offered",
    "UVR-MDX-NET-Inst_HQ_3.onnx": "MDX-Net is not offered",
    "UVR_MDXNET_KARA_2": "MDX-Net is not offered",
    "Kim_Vocal_2.onnx": "MDX-Net is not offered",
    "1_HP-UVR.pth": "the VR networks",
    "UVR-De-Echo-Normal.pth": "the VR networks",
    "UVR": "the VR networks",
    "umxhq": "Open-Unmix is not offered",
    "openunmix": "Open-Unmix is not offered",
    "model_bs_roformer_ep_368_sdr_12.9628.ckpt": "a checkpoint of your own comes with --registry",
    "mel_band_roformer_karaoke_aufr33": "a checkpoint of your own comes with --registry",
    "/data/ours.ckpt": "a checkpoint of your own comes with --registry",
}
MEANT = {
    "spleeter": "spleeter-2stems",
    "spleeter:2stems": "spleeter-2stems",
    "spleeter:5stems-16kHz": "spleeter-5stems-16khz",
    "4stems": "spleeter-4stems",
    "HTDemucs": "htdemucs",
    "htdemucs_ft.yaml": "htdemucs_ft",
    "htdemucs-6s": "htdemucs_6s",
    "demucs": "htdemucs",
    "hdemucs": "hdemucs_mmi",
    "htdemucs_mmi": "hdemucs_mmi",
    "kim": "melband-roformer-kim",
    "vocals_mel_band_roformer.ckpt": "melband-roformer-kim",
    "model_bs_roformer_ep_317_sdr_12.9755.ckpt": "bs-roformer-viperx-1297",
    "BS-Roformer": "bs-roformer-viperx-1297",
    "model_bs_roformer_ep_17_sdr_9.6568.ckpt": "bs-roformer-musdb18",
    "spleter-2stems": "spleeter-2stems",
}


@pytest.mark.parametrize(("name", "ours"), MEANT.items(), ids=MEANT)
def test_a_name_of_the_same_model_elsewhere_names_ours(name: str, ours: str) -> None:
    assert hint(name, OURS) == f"did you mean {ours!r}?"


@pytest.mark.parametrize(("name", "why"), NOT_OFFERED.items(), ids=list(NOT_OFFERED))
def test_a_model_that_is_not_offered_is_said_not_to_be(name: str, why: str) -> None:
    assert hint(name, OURS).startswith(why)


def test_every_line_of_the_table_is_met_and_names_models_that_there_are() -> None:
    told = {hint(name, OURS) for name in (*MEANT, *NOT_OFFERED)}
    for foreign in FOREIGN_NAMES:
        wanted = re.escape(foreign.here).replace(r"\\1", "[245]")
        assert any(re.search(wanted, text) for text in told), foreign
    pattern = r"\bh?t?demucs\w*|\bspleeter-\w+|\b[a-z]+-roformer-[\w-]+"
    words = {word for text in told for word in re.findall(pattern, text)}
    assert len(words) > 5
    assert words <= set(OURS)


@pytest.mark.parametrize("name", ["", "x", "zebra", "passthrough2x9", "名"])
def test_what_nothing_comes_close_to_has_no_hint(name: str) -> None:
    assert hint(name, ["htdemucs"]) == ""
