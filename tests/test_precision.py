"""What each device can do is told and nothing else is taken; what is taken keeps its floor on real music."""

from __future__ import annotations

import functools

import av
import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from splitfire_batch.config import SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.models import find_card, load_model
from splitfire_batch.models.fidelity import FLOORS_DB, excerpt, full_segment, measure
from splitfire_batch.models.precision import Arithmetic, precisions
from splitfire_batch.models.spleeter_unet import make_unet
from splitfire_batch.models.weights import load_weights
from tests.assets import audio_example, musdb_song, music

CPU = torch.device("cpu")
SECONDS = 6
CPU_SLACK_DB = 0.1
"""oneDNN rounds elsewhere on other CPUs with AMX: the hardest piece has 41.0 dB on one, 39.95 on another."""


def song() -> Tensor:
    """The mix of a MUSDB18 excerpt, 44,100 Hz."""
    with av.open(str(musdb_song())) as container:
        frames = [frame.to_ndarray() for frame in container.decode(container.streams.audio[0])]
    return torch.from_numpy(np.concatenate(frames, axis=1))


def piece(number: int) -> Tensor:
    """From the middle of a whole piece, without a singer."""
    samples, _ = soundfile.read(music()[number], dtype="float32", start=40 * 44_100, frames=SECONDS * 44_100)
    return torch.from_numpy(samples.T)


def example() -> Tensor:
    samples, _ = soundfile.read(audio_example(), dtype="float32")
    return torch.from_numpy(samples.T)


MUSIC = {"sung, pop": example, "sung, rock": song, "piece 0": lambda: piece(0), "piece 1": lambda: piece(1)}


@functools.cache
def loaded(precision: str, device: str) -> object:
    separation = SeparationConfig(precision=precision, residual="drop")  # type: ignore[arg-type]
    return load_model(separation, device)


def worst_db(precision: str, device: str, mix: Tensor) -> float:
    """The SNR of the worst stem, after a check of each; `pytest -s` prints them all."""
    model, exact = loaded(precision, device), loaded("fp32", device)
    n_frames = model.segments(SECONDS * 44_100)[0].n_frames  # type: ignore[attr-defined]
    segment = nn.functional.pad(mix[:, :n_frames], (0, max(0, n_frames - mix.shape[1])))
    found = measure(model, exact, segment)  # type: ignore[arg-type]
    print(precision, device, *found)
    floor_db = FLOORS_DB[precision] - (CPU_SLACK_DB if device == "cpu" else 0)
    assert all(stem.keeps(floor_db) for stem in found)
    return min(stem.snr_db for stem in found)


@pytest.mark.skipif("bf16" not in precisions(CPU), reason="this CPU has no units for bf16")
@pytest.mark.parametrize("name", MUSIC)
def test_on_a_cpu_bf16_keeps_its_floor_on_real_music_and_is_really_bf16(name):
    found_db = worst_db("bf16", "cpu", MUSIC[name]())
    assert found_db < 70  # 8 bits of mantissa cannot do better: fp32 by mistake would


@pytest.mark.gpu
@pytest.mark.parametrize("name", MUSIC)
@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_on_a_gpu_every_precision_keeps_its_floor_on_real_music(name, precision):
    if precision not in precisions(torch.device("cuda")):
        pytest.skip(f"this GPU has no {precision}")
    worst_db(precision, "cuda", MUSIC[name]())


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_what_a_cpu_lacks_is_refused_with_what_it_has(precision):
    with pytest.raises(ConfigError, match=rf"found '{precision}', and this cpu device can do fp32"):
        load_model(SeparationConfig(precision=precision), "cpu")


def test_a_cpu_without_bf16_units_refuses_bf16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(ConfigError, match="found 'bf16', and this cpu device can do fp32;"):
        Arithmetic("bf16", CPU)


@pytest.mark.parametrize(
    ("capability", "wanted"),
    [
        ((6, 1), ("fp32",)),
        ((7, 5), ("fp32", "fp16")),
        ((8, 0), ("fp32", "tf32", "bf16", "fp16")),
        ((9, 0), ("fp32", "tf32", "bf16", "fp16")),
    ],
)
def test_a_gpu_can_do_what_its_generation_computes_in_hardware(capability, wanted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precisions(torch.device("cuda")) == wanted


@pytest.mark.parametrize(("precision", "wanted"), [("fp32", "ieee"), ("tf32", "tf32")])
def test_cuda_convolutions_are_ieee_unless_tf32_is_asked_for(precision, wanted, monkeypatch):
    """The switches exist without a GPU, too; cuDNN's own default is TF32."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    arithmetic = Arithmetic(precision, torch.device("cuda"))
    before = torch.backends.cudnn.conv.fp32_precision
    with arithmetic.exactly():
        assert torch.backends.cudnn.conv.fp32_precision == wanted
        assert torch.backends.cuda.matmul.fp32_precision == wanted
        assert torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.conv.fp32_precision == before == "tf32"


@pytest.mark.skipif("bf16" not in precisions(CPU), reason="this CPU has no units for bf16")
def test_weights_are_cast_once_and_outputs_come_back_in_float32():
    seen = []
    arithmetic = Arithmetic("bf16", CPU)
    net = nn.Conv2d(2, 2, 1)
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    out = arithmetic.network(net)(arithmetic.inputs(torch.zeros(1, 2, 4, 4)))
    assert (net.weight.dtype, seen, out.dtype) == (torch.bfloat16, [torch.bfloat16], torch.float32)


def test_the_layout_in_memory_changes_no_more_than_rounding():
    x = torch.rand((1, 2, 64, 1024), generator=torch.Generator().manual_seed(1))
    weights = load_weights(find_card("spleeter-2stems"))
    answers = []
    for is_last in (True, False):
        arithmetic = Arithmetic("fp32", CPU, is_channels_last=is_last)
        with torch.inference_mode():
            answers.append(arithmetic.network(make_unet(weights, 0))(arithmetic.inputs(x)).double())
    last, first = answers
    snr_db = float(10 * torch.log10(last.square().sum() / (last - first).square().sum()))
    assert 100 <= snr_db < 200  # float32 rounding of sums of a few thousand; infinity: it is the same layout


@pytest.mark.skipif("bf16" not in precisions(CPU), reason="this CPU has no units for bf16")
def test_bf16_is_not_compiled():
    """Fused operations skip its roundings, and are 40 to 50 dB from the eager ones."""
    with pytest.raises(ConfigError, match=r"compile: with bf16 .* choose fp32"):
        Arithmetic("bf16", CPU, is_compiled=True)


def test_compiling_without_a_compiler_is_refused_before_anything_is_computed():
    import torch._inductor.config as inductor

    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ConfigError, match=r"compile: on a CPU .* needs a C.. compiler"),
    ):
        load_model(SeparationConfig(), "cpu", is_compiled=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's, of its own parts
def test_compiled_networks_agree_with_eager_ones_to_rounding():
    model = load_model(
        SeparationConfig(residual="drop"), "cpu", is_compiled=True
    )  # its gate is what is tested: 90 dB
    segment = excerpt(full_segment(model), model.sample_rate)
    found = measure(model, loaded("fp32", "cpu"), segment)  # type: ignore[arg-type]
    assert all(90 <= stem.snr_db < 200 for stem in found), found  # infinity: it was not compiled
