"""A guided chain costs what its evaluations cost: chains with guidance against as many evaluations of the networks alone.

    python tests/benchmarks/guidance.py            # a network as that of configs/quickstart.yaml, 64 samples at once

Ratios are the time of a chain by that of its evaluations (medians, quartiles of interleaved rounds): 1.00 is nothing more.
"""

import torch
from sample import SPEC, table

from diffusion.guidance.intervals import sigma_of, strength
from diffusion.guidance.networks import Autoguidance, Classifier, ClassifierFree
from diffusion.networks.half_unet import HalfUNet
from diffusion.samplers.ancestral import ancestral
from diffusion.samplers.chain import final
from diffusion.samplers.denoiser import Denoiser
from jobs.cost.bench.timing import Repeats, rates_in_turns
from jobs.kinds.diffusion.build import build_diffusion, build_network

STEPS, ROWS, REPEATS = 20, 64, Repeats(rounds=9, slice_s=0.1)


def main() -> None:
    torch.set_num_threads(1)
    diffusion = build_diffusion(SPEC, "cpu", str(STEPS))
    with_null_class = SPEC.model_copy(update={"train": SPEC.train.model_copy(update={"label_dropout": 0.1})})
    network, weak = build_network(with_null_class).eval(), build_network(with_null_class).eval()
    classifier = HalfUNet(image_size=8, in_channels=1, out_channels=10, num_channels=32, num_res_blocks=1, channel_mult=[1, 2],
                          attention_resolutions=[4], num_head_channels=16, resblock_updown=True).eval()
    x, y, number = torch.randn(ROWS, 1, 8, 8), torch.arange(ROWS) % 10, torch.tensor([1])
    alphas_cumprod = diffusion.coefficients.alphas_cumprod
    sigma = sigma_of(alphas_cumprod)
    half = [float(sigma[STEPS // 4]), float(sigma[STEPS // 4 + STEPS // 2 - 1])]  # ten of the twenty steps
    everywhere, inside = strength(alphas_cumprod, 1.0), strength(alphas_cumprod, 1.0, half)
    alone = network.along(diffusion.network_times, y=y)
    both = network.along(diffusion.network_times, y=torch.cat([y, torch.full_like(y, 10)]))
    other = weak.along(diffusion.network_times, y=y)
    gradient = Classifier(classifier, y, everywhere).along(diffusion.network_times).at(1)
    plain = {"network": network}
    cases = {
        "no guidance": (plain, [(alone, STEPS)]),
        "classifier_free": ({"network": ClassifierFree(network, 10, everywhere)}, [(both, STEPS)]),
        "  in half of the steps": ({"network": ClassifierFree(network, 10, inside)}, [(alone, STEPS // 2), (both, STEPS // 2)]),
        "autoguidance": ({"network": Autoguidance(network, weak, everywhere)}, [(alone, STEPS), (other, STEPS)]),
        "classifier": (plain | {"guide": Classifier(classifier, y, everywhere)}, [(alone, STEPS), (gradient, STEPS)]),
    }
    for name, (made_of, evaluations) in cases.items():
        denoise = Denoiser(diffusion, model_kwargs={"y": y}, **made_of)

        def evaluate(evaluations=evaluations) -> None:
            for at_step, times in evaluations:
                rows = torch.cat([x, x]) if at_step is both else x
                for _ in range(times):
                    at_step(rows, number)

        def chain(denoise=denoise) -> None:
            final(ancestral(denoise, {"x": x}, torch.randn_like))
        with torch.no_grad():
            table(name, rates_in_turns({"chain": chain, "alone": evaluate}, REPEATS, torch.device("cpu")))


if __name__ == "__main__":
    main()
