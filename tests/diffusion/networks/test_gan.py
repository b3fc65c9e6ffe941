"""The networks of a GAN: shapes, classes, and examples that know nothing of each other."""

import pytest
import torch

from diffusion.networks.gan import Discriminator, Generator, ResBlock


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("classes", [None, 5])
@pytest.mark.parametrize("size, widths, channels", [(8, [4], 1), (8, [4, 6], 1), (16, [4, 6, 8], 3), (12, [4, 6, 6], 2)])
def test_images_have_their_size_and_scores_are_one_number(classes, size, widths, channels):
    generator = Generator(size, channels, 7, widths, 2, classes)
    discriminator = Discriminator(size, channels, widths, 2, classes)
    given = {} if classes is None else {"y": torch.tensor([1, 4, 0])}
    x = generator(torch.randn(3, 7), **given)
    assert x.shape == (3, channels, size, size) and x.abs().max() < 1
    assert discriminator(x, **given).shape == (3,)


def test_blocks_start_as_the_identity():
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(ResBlock(4, depth=6)(x), x)


def test_an_example_does_not_depend_on_the_others():
    generator, discriminator = Generator(8, 1, 7, [4, 6], 1, 5).double(), Discriminator(8, 1, [4, 6], 1, 5).double()
    z, y = torch.randn(4, 7, dtype=torch.float64), torch.tensor([1, 4, 0, 1])
    x = generator(z, y)
    scores = discriminator(x, y)
    for each in range(4):
        alone = generator(z[each:each + 1], y[each:each + 1])
        torch.testing.assert_close(alone, x[each:each + 1])
        torch.testing.assert_close(discriminator(alone, y[each:each + 1]), scores[each:each + 1])


def test_the_class_changes_image_and_score():
    generator, discriminator = Generator(8, 1, 7, [4, 6], 1, 5), Discriminator(8, 1, [4, 6], 1, 5)
    z = torch.randn(1, 7)
    x, other = (generator(z, torch.tensor([y])) for y in (0, 1))
    assert (x - other).abs().max() > 0.01
    assert discriminator(x, torch.tensor([0])) != discriminator(x, torch.tensor([1]))


def test_scores_and_images_are_float32_under_autocast():
    generator, discriminator = Generator(8, 1, 7, [4, 6], 1), Discriminator(8, 1, [4, 6], 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = generator(torch.randn(3, 7))
        assert x.dtype == torch.float32 and discriminator(x).dtype == torch.float32
