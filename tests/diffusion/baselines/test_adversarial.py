"""A GAN's losses against their formulas, and its penalties against finite differences."""

import copy

import pytest
import torch
from torch import nn

from diffusion.baselines.adversarial import (
    discriminator_loss,
    discriminator_losses,
    discriminator_terms,
    generator_loss,
    generator_losses,
    squared_gradient,
)
from diffusion.networks.gan import Discriminator

REAL, FAKE = torch.tensor([0.3, -2.0, 40.0], dtype=torch.float64), torch.tensor([-1.0, 0.5, -40.0], dtype=torch.float64)
Y = torch.tensor([2, 0, 1, 2])


@pytest.fixture
def discriminator() -> Discriminator:
    """All its layers have random weights, in double precision, so that differences are exact to many digits."""
    torch.manual_seed(0)
    network = Discriminator(8, 1, [6, 10], 2, num_classes=3).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def images(seed: int = 1) -> torch.Tensor:
    return torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_losses_are_their_formulas():
    sigmoid = torch.sigmoid
    torch.testing.assert_close(discriminator_loss("relativistic", REAL, FAKE), -sigmoid(REAL - FAKE).log())
    torch.testing.assert_close(generator_loss("relativistic", REAL[:2], FAKE[:2]), -sigmoid(FAKE - REAL)[:2].log())
    torch.testing.assert_close(discriminator_loss("non_saturating", REAL, FAKE), -sigmoid(REAL).log() - (1 - sigmoid(FAKE)).log())
    torch.testing.assert_close(generator_loss("non_saturating", REAL, FAKE), -sigmoid(FAKE).log())
    # A score far beyond the range of exp keeps its gradient.
    assert generator_loss("relativistic", torch.tensor([1000.0]), torch.tensor([-1000.0])).item() == 2000
    for function in (discriminator_loss, generator_loss):
        with pytest.raises(ValueError, match="hinge"):
            function("hinge", REAL, FAKE)


def test_a_penalty_is_the_squared_gradient_by_finite_differences(discriminator):
    x, step = images(), 1e-6
    found = squared_gradient(discriminator(x.requires_grad_(), Y), x)
    expected = torch.zeros(4, dtype=torch.float64)
    with torch.no_grad():
        for pixel in range(64):
            shift = torch.zeros(64, dtype=torch.float64)
            shift[pixel] = step
            shift = shift.view(1, 1, 8, 8)
            expected += ((discriminator(x + shift, Y) - discriminator(x - shift, Y)) / (2 * step)) ** 2
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_the_gradient_of_the_whole_loss_by_finite_differences(discriminator):
    real, fake, step = images(), images(2), 1e-6

    def loss(network):
        return discriminator_losses(network, real, fake, "relativistic", 0.7, 0.3, {"y": Y})["loss"].mean()

    parameters = list(discriminator.parameters())
    gradients = torch.autograd.grad(loss(discriminator), parameters)
    torch.manual_seed(3)
    way = [torch.randn_like(parameter) for parameter in parameters]
    ends = []
    for sign in (1, -1):
        moved = copy.deepcopy(discriminator)
        with torch.no_grad():
            for parameter, shift in zip(moved.parameters(), way, strict=True):
                parameter += sign * step * shift
        ends.append(loss(moved).item())
    along = sum((gradient * shift).sum() for gradient, shift in zip(gradients, way, strict=True)).item()
    assert along == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("gammas", [(0.0, 0.0), (2.0, 0.0), (0.0, 3.0), (2.0, 3.0)])
def test_the_discriminators_loss_is_the_games_and_half_the_penalties(discriminator, gammas):
    r1, r2 = gammas
    real, fake = images(), images(2)
    found = discriminator_losses(discriminator, real, fake, "non_saturating", r1, r2, {"y": Y})
    assert list(found) == discriminator_terms(r1, r2)
    torch.testing.assert_close(found["score_real"], discriminator(real, Y))
    torch.testing.assert_close(found["score_fake"], discriminator(fake, Y))
    expected = discriminator_loss("non_saturating", found["score_real"], found["score_fake"])
    for name, x, gamma in (("r1", real, r1), ("r2", fake, r2)):
        if gamma:
            torch.testing.assert_close(found[name], squared_gradient(discriminator(x.requires_grad_(), Y), x))
            expected = expected + gamma / 2 * found[name]
    torch.testing.assert_close(found["loss"], expected)


@pytest.mark.parametrize("loss", ["relativistic", "non_saturating"])
def test_the_generators_gradient_comes_through_its_own_images_alone(discriminator, loss):
    real, fake = images().requires_grad_(), images(2).requires_grad_()
    generator_losses(discriminator, real, fake, loss, {"y": Y})["loss"].sum().backward()
    assert real.grad is None and fake.grad.abs().sum() > 0
