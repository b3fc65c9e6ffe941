"""The GPUs that this process may use, from the environment and from /dev. No torch here: `iddpm run` counts GPUs without it."""

import os
from collections.abc import Mapping
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
# SLURM's numbers of the GPUs of a step and of a job, on the whole node. Where SLURM does not hide the node's other GPUs, a job
# whose CUDA_VISIBLE_DEVICES was lost, for example in a container, must keep to these.
OF_SLURM = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
UNIQUE_NAMES = ("GPU-", "MIG-")


def node_name() -> str:
    """Return the name of this machine: SLURM's, by which jobs can avoid the node, or else its host name."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def gpus_here() -> list[str]:
    """Return the names of the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    return visible_gpus(os.environ, gpus_present())


def gpus_present() -> int | None:
    """Count the GPUs that the system lets this process open; None where a GPU has no file of its own (Windows' Linux, Tegra)."""
    files = list(Path("/dev").glob("nvidia[0-9]*"))
    if not files and any(Path("/dev", name).exists() for name in ("dxg", "nvgpu", "nvhost-gpu")):
        return None
    return sum(os.access(file, os.R_OK | os.W_OK) for file in files)


def visible_gpus(environment: Mapping[str, str], present: int | None) -> list[str]:
    """Return the names of the GPUs that `environment` allows, where `present` (None: unknown) can be opened.

    CUDA_VISIBLE_DEVICES is read as CUDA reads the variable: names end at the first that is not one, such as -1, NoDevFiles or
    the number of a GPU that is not there. A name that stands there twice makes CUDA refuse all.
    """
    listed = environment.get(VISIBLE)
    if listed is None:
        return _of_slurm(environment, present) or [str(number) for number in range(present or 0)]
    names: list[str] = []
    for name in map(str.strip, listed.split(",")):
        if name in names:
            return []
        if not _is_gpu(name, present):
            break
        names.append(name)
    return names


def _is_gpu(name: str, present: int | None) -> bool:
    if name.startswith(UNIQUE_NAMES):
        return present != 0
    return name.isdecimal() and (present is None or int(name) < present)


def _of_slurm(environment: Mapping[str, str], present: int | None) -> list[str]:
    """Return SLURM's numbers of this job's GPUs; nothing outside of jobs, and where the job's GPUs are all that can be opened."""
    for key in OF_SLURM:
        numbers = [name for name in environment.get(key, "").split(",") if name.isdecimal()]
        if numbers and present and len(numbers) < present and all(int(number) < present for number in numbers):
            return numbers
    return []


def own_slice(environment: Mapping[str, str], local_rank: int) -> str | None:
    """Return the CUDA_VISIBLE_DEVICES of one rank where the variable names slices of GPUs (MIG); None where not.

    A process sees one slice at most, the first, so each rank must name its own.
    """
    names = [name.strip() for name in environment.get(VISIBLE, "").split(",")]
    return names[local_rank % len(names)] if len(names) > 1 and all(name.startswith("MIG-") for name in names) else None


def gpu_index(environment: Mapping[str, str], count: int, local_rank: int) -> int:
    """Return the index of a rank's GPU among the `count` that CUDA shows to this process."""
    if VISIBLE in environment:
        return local_rank % count
    names = visible_gpus(environment, count)
    return int(names[local_rank % len(names)])
