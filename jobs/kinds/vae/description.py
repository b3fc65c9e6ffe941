"""What a variational autoencoder minimises, how it trains and samples, and what that costs, in words."""

from jobs.kinds.vae.sections import VaeSpec
from jobs.spec.kinds import Description

VAE = "Kingma & Welling 2014 (arXiv 1312.6114)"
DECODERS = {
    "discretized_gaussian": ("p_θ(x | z) = Π ∫ N(u; μ_θ(z), σ_θ(z)²) du over the bin of each grey level; in bits/dim",
                             "Ho, Jain & Abbeel 2020 (arXiv 2006.11239), eq. 13"),
    "gaussian": ("p_θ(x | z) = N(μ_θ(z), σ² I), one learned σ, summed over pixels: a density, in no bits/dim that compare",
                 "Rybkin, Daniilidis & Levine 2021 (arXiv 2006.13202), σ-VAE"),
}
"""By `vae.decoder`: the likelihood, and its source."""
NETWORK_COST = "O(H · W · C²) for convolutions of C channels at each resolution"


def description(spec: VaeSpec) -> Description:
    likelihood, source = DECODERS[spec.vae.decoder]
    given, image = (", y", "x | y") if spec.data.class_cond else ("", "x")
    classes = " with their classes y" if spec.data.class_cond else ""
    weight = f"; the KL part has the weight i / {spec.vae.kl_warmup:,} in step i at first" if spec.vae.kl_warmup else ""
    return Description(
        title="VAE",
        objective=f"−ELBO = E_{{z ~ q_φ(z | x{given})}} [−log p_θ(x | z{given})] + KL(q_φ(z | x{given}) ‖ N(0, I)) ≥ "
                  f"−log p_θ({image}); {likelihood}{weight}",
        source=f"{VAE}, eq. 3; likelihood: {source}",
        training=(f"Draw B images x{classes} from the data, and ε ~ N(0, I) of the shape of the latents.",
                  "Encode x: mean m and variance s² of q_φ; z = m + s ε.",
                  "Decode z; take a step of AdamW down the gradient of −ELBO, through encoder and decoder.",
                  "Average the weights over the steps (EMA)."),
        sampling=("Draw z ~ N(0, I).", "Decode z once.",
                  "Round the mean of p_θ(x | z) to grey levels: no draw from the likelihood of pixels."),
        training_cost="O(iterations · B · (E + F)) for batches of B images: 3 (E + F) an image, E the encoder and F the decoder; "
                      f"{NETWORK_COST}.",
        sampling_cost="O(F) a sample: one evaluation of the decoder.")
