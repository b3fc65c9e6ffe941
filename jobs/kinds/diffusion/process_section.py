"""The keys of a spec that describe the forward process, which a diffusion model and a classifier that guides it share."""

from typing import Annotated

from pydantic import Field

from diffusion.schedules import SCHEDULES
from jobs.spec.fields import Count, OneOf, Section
from jobs.spec.sections import Contradiction


class Process(Section):
    diffusion_steps: Annotated[Count, Field(ge=2, le=1_000_000)] = 4000
    noise_schedule: Annotated[str, OneOf(SCHEDULES)] = "cosine"
    rescale_timesteps: bool = True
    """Give the network t * 1000 / diffusion_steps. No checkpoint records this setting; README has it for published ones."""


def process_contradictions(process: Process) -> list[Contradiction]:
    name, steps = process.noise_schedule, process.diffusion_steps
    if steps >= (fewest := SCHEDULES[name].fewest_steps):
        return []
    return [("diffusion.diffusion_steps", f"{steps} is too few for noise_schedule: {name}, which is scaled to reach "
             f"equal noise for any number of steps; it needs at least {fewest}")]
