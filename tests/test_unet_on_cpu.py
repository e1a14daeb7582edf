"""The U-Net for CPUs against the plain one in float64, with the published weights and with random ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from torch import Tensor

from splitfire_batch.models import find_card
from splitfire_batch.models.spleeter_options import PLAIN, SpleeterOptions
from splitfire_batch.models.spleeter_unet import UNet, make_unet
from splitfire_batch.models.unet_activations import ACTIVATIONS
from splitfire_batch.models.unet_on_cpu import UNetOnCpu, Workspace, is_suited
from splitfire_batch.models.weights import load_weights

WIDTHS = [32, 64, 96, 160, 192, 512]


@pytest.fixture(scope="module")
def published() -> UNet:
    return make_unet(load_weights(find_card("spleeter-2stems")), 0)


@pytest.fixture(scope="module")
def random_net() -> UNet:
    return random_unet(PLAIN)


@pytest.fixture(scope="module")
def elu_net() -> UNet:
    return random_unet(SpleeterOptions(activation="elu"))


@pytest.fixture(scope="module")
def logits_net() -> UNet:
    return random_unet(SpleeterOptions(activation="elu", mask="softmax"))


def random_unet(options: SpleeterOptions) -> UNet:
    """With normalisations that move and mirror, as those of the published weights do not."""
    numbers = torch.Generator().manual_seed(3)
    net = UNet(options).eval().requires_grad_(False)
    for name, value in net.state_dict().items():
        if value.ndim == 4:
            value.copy_(torch.randn(value.shape, generator=numbers) / value[0].numel() ** 0.5)
            if name.startswith("up."):  # four parities: the outer taps of the even ones do not exist
                value.view(-1, 2, 2, *value.shape[1:])[:, 0, :, :, 2] = 0
                value.view(-1, 2, 2, *value.shape[1:])[:, :, 0, :, :, 2] = 0
        elif name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=numbers) + 0.5)
        elif value.ndim == 1:
            value.copy_(torch.randn(value.shape, generator=numbers))
            if "_norm." in name and name.endswith("weight"):
                value.add_(value.sign() * 0.2)
            elif name.startswith("up."):  # one bias for all parities
                value.copy_(value[::4].repeat_interleave(4))
    return net


def magnitudes(n: int, columns: int, bins: int = 1024) -> Tensor:
    """Like those of music: over many orders of magnitude."""
    numbers = torch.Generator().manual_seed(columns)
    return torch.randn((n, 2, columns, bins), generator=numbers).exp().mul_(3)


def snr_db(wanted: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("weights", ["published", "random_net"])
def test_it_is_the_same_function(request, weights, columns):
    assert agreement_db(request.getfixturevalue(weights), magnitudes(1, columns)) > 95


@pytest.mark.slow
@pytest.mark.parametrize("columns", [32, 96, 512])
@pytest.mark.parametrize("weights", ["elu_net", "logits_net"])
def test_it_is_the_same_function_with_elu_and_without_sigmoid(request, weights, columns):
    assert agreement_db(request.getfixturevalue(weights), magnitudes(1, columns)) > 95


@pytest.mark.parametrize("columns", [32, 160])
@pytest.mark.parametrize("weights", ["published", "elu_net"])
def test_it_is_the_same_function_of_more_bins(request, weights, columns):
    assert agreement_db(request.getfixturevalue(weights), magnitudes(1, columns, 1536)) > 95


def agreement_db(net: UNet, x: Tensor) -> float:
    """Of the network for CPUs with the plain one in float64; in float32 that has 105 to 115."""
    exact, quick = exact_and_quick(net)
    with torch.inference_mode():
        return snr_db(exact(x.double()), quick(x))


@cache
def exact_and_quick(net: UNet) -> tuple[UNet, UNetOnCpu]:
    """Built once: that takes longer than an image of most widths."""
    exact = UNet(net.options).eval()
    exact.load_state_dict(net.state_dict())
    return exact.double(), UNetOnCpu(net, Workspace())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "columns"),
    [*(("published", columns) for columns in WIDTHS), *(("elu_net", columns) for columns in (32, 96, 192))],
)
def test_an_image_does_not_depend_on_its_neighbours_its_place_or_on_what_came_before(
    request, weights, columns
):
    net = UNetOnCpu(request.getfixturevalue(weights), Workspace())
    x, loud = magnitudes(1, columns), magnitudes(3, columns) * 10
    first = net(torch.cat((x, loud)))[0]
    net(magnitudes(1, 192) * 100)  # another shape in the same memory
    assert torch.equal(net(torch.cat((loud, x)))[3], first)
    assert torch.equal(net(torch.cat((loud[:1] * 0, x, loud[:2] * 0)))[1], first)
    assert torch.equal(net(torch.cat((x, x, x, x))), first.expand(4, -1, -1, -1))


@pytest.mark.parametrize("columns", [32, 64, 128])
def test_images_of_a_pack_are_those_of_one_alone_but_for_rounding(published, columns):
    net, x = UNetOnCpu(published, Workspace()), magnitudes(3, columns)
    alone = torch.cat([net(image[None]) for image in x])
    assert snr_db(alone, net(x)) > 95


@pytest.mark.parametrize(("columns", "full_columns"), [(192, 512), (512, 512), (32, 64)])
def test_longer_images_are_to_the_last_bit_those_of_one_alone(published, columns, full_columns):
    net, x = UNetOnCpu(published, Workspace(), full_columns), magnitudes(3, columns)
    assert torch.equal(net(x), torch.cat([net(image[None]) for image in x]))


def test_a_silent_image_is_answered_with_zeros(published):
    net, x = UNetOnCpu(published, Workspace()), magnitudes(2, 64)
    x[1] = 0
    out = net(x)
    assert not out[1].any()
    assert out[0].all()


def test_an_answer_is_not_written_over_by_the_next(published):
    net = UNetOnCpu(published, Workspace())
    first = net(magnitudes(1, 64))
    kept = first.clone()
    net(magnitudes(1, 64) * 2)
    assert torch.equal(first, kept)


def test_networks_share_memory_one_after_the_other_and_threads_have_their_own(published, random_net):
    workspace, x = Workspace(), magnitudes(1, 64)
    nets = [UNetOnCpu(published, workspace), UNetOnCpu(random_net, workspace)]
    alone = [UNetOnCpu(net, Workspace())(x) for net in (published, random_net)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda i: nets[i % 2](x), range(24)))
    assert all(torch.equal(out, alone[i % 2]) for i, out in enumerate(found))


def test_a_normalisation_that_multiplies_by_zero_does_not_suit(published, random_net):
    assert is_suited(published)
    assert is_suited(random_net)
    random_net = UNet().eval().requires_grad_(False)
    random_net.up_norm[2].weight[5] = 0.0
    assert not is_suited(random_net)


@pytest.mark.parametrize(("gamma", "suits"), [(0.01, True), (0.0005, False)])
def test_a_normalisation_that_leaves_too_few_digits_for_the_skip_does_not_suit(gamma, suits):
    """Small beside beta, gamma makes the skip a difference of large numbers."""
    net = UNet().eval().requires_grad_(False)
    net.down_norm[3].bias[7], net.down_norm[3].weight[7] = 1.0, gamma
    assert is_suited(net) == suits


def test_elu_is_torchs_and_rounds_alike_wherever_an_element_stands():
    x = torch.randn(1, 19, 7, 3, generator=torch.Generator().manual_seed(4)) * 5
    out, above = torch.empty_like(x), torch.empty_like(x)
    ACTIVATIONS["elu"].down(x, out)
    torch.testing.assert_close(out, torch.nn.functional.elu(x.double()).float(), rtol=1e-6, atol=0)
    for row in range(19):
        alone = torch.empty_like(x[:, row : row + 1])
        ACTIVATIONS["elu"].down(x[:, row : row + 1].clone(), alone)
        assert torch.equal(alone[:, 0], out[:, row])
    ACTIVATIONS["elu"].up(x.clone(), torch.tensor([1.0, -2.0, 0.5]), torch.empty_like(x), above)
    assert torch.equal(above, out + torch.tensor([1.0, -2.0, 0.5]))
