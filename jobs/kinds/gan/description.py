"""What a GAN minimises, how it trains and samples, and what that costs, in words and formulas, by the settings of its spec."""

from diffusion.baselines.games import GAMES
from jobs.kinds.gan.layer_costs import DISCRIMINATOR, training_passes
from jobs.kinds.gan.sections import GanSpec
from jobs.spec.kinds import MODEL, Description


def description(spec: GanSpec) -> Description:
    game, settings, passes = GAMES[spec.gan.loss], spec.gan, training_passes(spec)
    given = ", y" if spec.data.class_cond else ""
    penalties = [(name, gamma, scores, at) for name, gamma, scores, at in (
        ("R1", settings.r1_gamma, "D_r", "x"), ("R2", settings.r2_gamma, "D_f", "G(z)")) if gamma]
    whole = " + ".join([game.discriminator, *(f"γ_{name[1]} / 2 · E ‖∇ {scores}‖²" for name, _, scores, _ in penalties)])
    named = [f"{name} = squared gradient at {at}, γ_{name[1]} = {gamma:g}" for name, gamma, _, at in penalties]
    formula = "; ".join([f"D: {whole}", f"G: {game.generator}", f"D_r = D(x{given}), D_f = D(G(z{given}){given})", *named])
    sources = [game.source, *(["penalties: Mescheder et al. 2018 (arXiv 1801.04406), section 4.1"] if penalties else []),
               *(["classes: Miyato & Koyama 2018 (arXiv 1802.05637)"] if given else [])]
    return Description(
        "GAN", formula, "; ".join(sources),
        (f"Draw B images x{' with their classes y' if given else ''} from the data, and z ~ N(0, I).",
         f"Make G(z{given}); take a step of Adam down the gradient of D's loss"
         f"{', which has gradients of gradients' if penalties else ''}.",
         "Draw other z; take a step of Adam down the gradient of G's loss, with the new D.",
         "Average the weights of G over the steps (EMA)."),
        ("Draw z ~ N(0, I).", f"Evaluate G(z{given}) once, with the averaged weights.", "Round the image to grey levels."),
        f"O(iterations · B · (F_G + F_D)) for batches of B images: {passes[MODEL]} F_G + {passes[DISCRIMINATOR]} F_D an image, "
        "where F_G and F_D, forward passes of the generator and the discriminator, are O(H · W · C²) for convolutions of C "
        "channels at each resolution.",
        "O(F_G) a sample: one evaluation of the generator, O(H · W · C²); there is no T, and no way to spend more on a sample.")
