"""How a model that enlarges images trains and samples, in words: as the diffusion model that it is, given a small image."""

from jobs.kinds.diffusion.description.algorithms import description as of_diffusion
from jobs.kinds.diffusion.description.objective import network_call
from jobs.kinds.upsampler.sections import UpsamplerSpec
from jobs.spec.kinds import Description

SMALL = "x_low"
CASCADE = "Ho et al. 2022, Cascaded Diffusion Models"


def description(spec: UpsamplerSpec) -> Description:
    plain, call = of_diffusion(spec), network_call(spec)

    def given(text: str) -> str:
        return text.replace(call, f"{call[:-1]}, {SMALL})").replace("p_θ(x_{t−1} | x_t)", f"p_θ(x_{{t−1}} | x_t, {SMALL})")
    first, *training = map(given, plain.training)
    noised = f", and add noise of a random level, which the network is told ({CASCADE})" if spec.upsampler.low_res_noise else ""
    noise = ", with a little noise" if spec.sample.low_res_noise else ""
    reduce = f"Reduce each to a small image {SMALL}, by means over squares{noised}."
    take = (f"Take a small image {SMALL}{noise}, such as a sample of another model; the network sees it enlarged bilinearly, "
            "beside x_t.")
    source = f"{plain.source}; upsampling: Dhariwal & Nichol 2021"
    return Description(f"Upsampler ({plain.title})", given(plain.objective), source, (first, reduce, *training),
                       (take, *map(given, plain.sampling)), plain.training_cost, plain.sampling_cost)
