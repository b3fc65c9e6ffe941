"""Points between two latents, which a network can denoise like any other noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

ALMOST_STRAIGHT = 1e-6  # radians: below this angle both formulas agree, and sin(angle) is too small to divide by


def slerp(first: Tensor, second: Tensor, fractions: Sequence[float]) -> Tensor:
    """The points at `fractions` (0: first, 1: second) of the arc between two latents [C, H, W]: float32 [n, C, H, W].

    Spherical linear interpolation (Shoemake 1985, section 3.3; DDIM, eq. 67): noise in many dimensions lies near a sphere, and
    points of the straight line between lie inside, where no network was trained. Raises ValueError for opposite latents, between
    which no arc is the shortest, and for latents of zeros.
    """
    a, b = first.double().flatten(), second.double().flatten()
    length = a.norm() * b.norm()
    if not length:
        raise ValueError("a latent of zeros has no direction")
    # The half angle by lengths: arccos of a product near 1 or -1 would lose half of the digits.
    unit_a, unit_b = a / a.norm(), b / b.norm()
    angle = 2 * torch.atan2((unit_a - unit_b).norm(), (unit_a + unit_b).norm())
    if torch.pi - angle < ALMOST_STRAIGHT:
        raise ValueError("the latents are opposite, and no arc between them is the shortest")
    f = torch.tensor(fractions, dtype=torch.float64, device=first.device)[:, None]
    weights = (1 - f, f) if angle < ALMOST_STRAIGHT else (((1 - f) * angle).sin() / angle.sin(), (f * angle).sin() / angle.sin())
    return (weights[0] * a + weights[1] * b).float().view(-1, *first.shape)
