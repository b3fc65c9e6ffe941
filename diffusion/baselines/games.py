"""Names and facts of the losses of a GAN: table `GAMES`. Loads no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Game:
    """What the discriminator D and the generator G minimise, but for the penalties. softplus(t) = log(1 + exp(t))."""

    paired: bool
    """Whether a loss compares the score of the i-th real image with that of the i-th generated one."""
    discriminator: str
    """A formula in the scores D_r of real and D_f of generated images, like that of the generator."""
    generator: str
    source: str


GAMES: dict[str, Game] = {
    "relativistic": Game(True, "E softplus(D_f − D_r)", "E softplus(D_r − D_f)",
                         "Jolicoeur-Martineau 2019 (arXiv 1807.00734); Huang et al. 2024 (R3GAN, arXiv 2501.05441), section 2"),
    "non_saturating": Game(False, "E softplus(−D_r) + E softplus(D_f)", "E softplus(−D_f)",
                           "Goodfellow et al. 2014 (arXiv 1406.2661), section 3"),
}
