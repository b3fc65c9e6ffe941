"""The networks of guided-diffusion under torch.compile, as one graph. The backend runs it as it is: C++ would take minutes."""

import pytest
import torch
from torch import nn

from diffusion.networks.dropout import random_numbers
from diffusion.networks.half_unet import HalfUNet
from diffusion.networks.unet import UNet

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SMALL = dict(image_size=4, in_channels=1, out_channels=2, num_channels=8, num_res_blocks=1, channel_mult=[0.5, 1], num_heads=4,
             attention_resolutions=[2], num_head_channels=4, resblock_updown=True, use_new_attention_order=True, dropout=0.5)


@pytest.mark.parametrize("kind", [UNet, HalfUNet])
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_networks_give_the_outputs_and_gradients_of_eager_ones(kind, recompute):
    torch.manual_seed(0)
    network = kind(**SMALL, gradient_checkpointing=recompute)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, t = torch.randn(3, 1, 4, 4), torch.tensor([1.0, 300.0, 999.0])
    drawn = random_numbers(torch.tensor([5, 6, 7]), network.draws)

    def results(call) -> list[torch.Tensor]:
        network.zero_grad()
        given = x.clone().requires_grad_()
        out = call(given, t, drawn=drawn)
        out.square().sum().backward()
        return [out.detach(), given.grad, *(parameter.grad.clone() for parameter in network.parameters())]
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    for ours, theirs in zip(results(compiled), results(network), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
