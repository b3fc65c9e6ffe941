"""The losses of a GAN, [N] each, and the gradient penalties R1 and R2.

Sources: `games.GAMES`; Mescheder et al. 2018, section 4.1 (R1 and R2); Huang et al. 2024 (R3GAN), section 2, for both at once.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import softplus

from diffusion.baselines.games import GAMES
from diffusion.lookup import look_up

Discriminator = Callable[..., Tensor]
"""Images [N, C, H, W], and perhaps classes y int64 [N] -> scores [N]; an example's score depends on this example alone."""


def discriminator_loss(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss [N] of the scores [N] of N real images and N generated ones.

    Raises ValueError for a name that is not in GAMES, like `generator_loss`.
    """
    if look_up(GAMES, loss, "loss").paired:
        return softplus(fake - real)
    return softplus(-real) + softplus(fake)


def generator_loss(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    """Return the generator's loss [N]. `real` has an effect only where the game is paired."""
    return softplus(real - fake if look_up(GAMES, loss, "loss").paired else -fake)


def squared_gradient(scores: Tensor, images: Tensor) -> Tensor:
    """Return |d score / d image|^2 of each example, [N], itself differentiable: what R1 and R2 are the means of."""
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1)


def discriminator_losses(discriminator: Discriminator, real: Tensor, fake: Tensor, loss: str, r1_gamma: float, r2_gamma: float,
                         given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return loss, score_real, score_fake and, with its gamma, r1 or r2, [N] each: of real and generated images [N, C, H, W].

    loss = the game's + r1_gamma / 2 r1 + r2_gamma / 2 r2. `discriminator` must not be wrapped in
    DDP, which does not average gradients of gradients.
    """
    scores, penalties = {}, {}
    for name, penalty, images, gamma in (("score_real", "r1", real, r1_gamma), ("score_fake", "r2", fake, r2_gamma)):
        images = images.detach().requires_grad_(gamma > 0)
        scores[name] = discriminator(images, **given)
        if gamma:
            penalties[penalty] = squared_gradient(scores[name], images)
    whole = discriminator_loss(loss, scores["score_real"], scores["score_fake"])
    whole = whole + sum(gamma / 2 * penalties[name] for name, gamma in (("r1", r1_gamma), ("r2", r2_gamma)) if gamma)
    return {"loss": whole, **scores, **penalties}


def discriminator_terms(r1_gamma: float, r2_gamma: float) -> list[str]:
    """Return the names of the values of `discriminator_losses`."""
    return ["loss", "score_real", "score_fake", *(name for name, gamma in (("r1", r1_gamma), ("r2", r2_gamma)) if gamma)]


def generator_losses(discriminator: Discriminator, real: Tensor, fake: Tensor, loss: str,
                     given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the generator's loss [N] of generated images `fake`, through which gradients pass, beside N real ones."""
    scores = discriminator(fake, **given)
    if look_up(GAMES, loss, "loss").paired:
        with torch.no_grad():
            compared = discriminator(real, **given)
    else:
        compared = torch.zeros_like(scores)
    return {"loss": generator_loss(loss, compared, scores)}
