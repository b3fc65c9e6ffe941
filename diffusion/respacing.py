"""Shorter sampling chains: the timesteps that a chain keeps of the T that the network was trained on.

Pure Python: a login node checks specs without torch.
Source: Nichol & Dhariwal 2021, section 4 (strided sampling); `ddimN` is the striding of Song et al. 2021 (DDIM).
"""


def space_timesteps(diffusion_steps: int, timestep_respacing: str) -> list[int]:
    """The timesteps that the chain keeps, ascending, out of 0 .. diffusion_steps - 1.

    `timestep_respacing` is one of
      ""          all timesteps;
      "250"       250 evenly spaced timesteps, with the first and the last;
      "10,15,20"  cut the chain into three equal sections; take 10, 15 and 20 evenly spaced timesteps from them;
      "ddim50"    every k-th timestep from 0 on, for the whole number k that gives exactly 50.
    Raises ValueError for other text, and for a chain that does not exist; the message names the nearest that do.
    """
    if timestep_respacing == "":
        return list(range(diffusion_steps))
    if timestep_respacing.startswith("ddim"):
        return _fixed_stride(diffusion_steps, _count(timestep_respacing[4:], timestep_respacing))
    counts = [_count(part, timestep_respacing) for part in timestep_respacing.split(",")]
    return _sections(diffusion_steps, counts)


def _count(text: str, timestep_respacing: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"{timestep_respacing!r} is not a respacing; write \"250\", \"10,15,20\" or \"ddim50\"")
    return int(text)


def _fixed_stride(diffusion_steps: int, wanted: int) -> list[int]:
    for stride in range(1, diffusion_steps + 1):
        if len(range(0, diffusion_steps, stride)) == wanted:
            return list(range(0, diffusion_steps, stride))
    possible = sorted({len(range(0, diffusion_steps, stride)) for stride in range(1, diffusion_steps + 1)})
    below = max((count for count in possible if count < wanted), default=None)
    above = min((count for count in possible if count > wanted), default=None)
    nearest = " and ".join(f"ddim{count}" for count in (below, above) if count is not None)
    raise ValueError(f"ddim{wanted}: no whole stride through {diffusion_steps} steps gives {wanted}; nearest are {nearest}")


def _sections(diffusion_steps: int, counts: list[int]) -> list[int]:
    size, extra = divmod(diffusion_steps, len(counts))
    kept: list[int] = []
    start = 0
    for index, count in enumerate(counts):
        section = size + (index < extra)  # the first sections take the remainder
        if section < count:
            raise ValueError(f"section {index + 1} of {len(counts)} has {section} of the {diffusion_steps} steps; "
                             f"{count} cannot be taken from it")
        # Published chains were made by adding up floats and rounding half to even: this decides ties as they did.
        stride = 1 if count == 1 else (section - 1) / (count - 1)
        position = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += section
    return kept
