"""Which of the T training timesteps a shorter sampling chain keeps.

Pure Python, so that a spec can be checked without torch.
Source: Nichol & Dhariwal 2021, section 4 (strided sampling); `ddimN` is the striding of Song et al. 2021 (DDIM).
"""


def space_timesteps(diffusion_steps: int, timestep_respacing: str) -> list[int]:
    """The timesteps kept, ascending, out of 0 .. diffusion_steps - 1.

    `timestep_respacing` is one of
      ""          all of them;
      "250"       250 evenly spaced ones, first and last included;
      "10,15,20"  the chain cut into equal sections, so many evenly spaced ones from each;
      "ddim50"    every k-th from 0 on, with the whole k that gives exactly 50.
    Raises ValueError where that cannot be made, saying what can.
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
        section = size + (index < extra)  # the first sections take what does not divide
        if section < count:
            raise ValueError(f"section {index + 1} of {len(counts)} has {section} of the {diffusion_steps} steps; "
                             f"{count} cannot be taken from it")
        # Floating-point accumulation and round-half-even decide ties exactly as published chains had them.
        stride = 1 if count == 1 else (section - 1) / (count - 1)
        position = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += section
    return kept
