"""Environment variables by which launchers tell a process its rank. No torch here: the command line reads this, too."""

import os
from collections.abc import Mapping

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# What launchers of any kind leave for the processes that they start, by the beginning of the name.
LEFT_BY_OTHERS = (*TORCHRUN, "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE",
                  "TORCHELASTIC_", "SUBMITIT_", "IDDPM_REQUEST")


def under_torchrun(environment: Mapping[str, str]) -> bool:
    """Whether torchrun, or a launcher that sets all of its variables, started this process. A lone RANK is somebody else's."""
    if "SUBMITIT_EXECUTOR" in environment or not all(environment.get(key) for key in TORCHRUN):
        return False
    numbers = [environment[key] for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")]
    return all(number.isdecimal() for number in numbers) and int(numbers[0]) < int(numbers[2])


def forget_launchers(keep: tuple[str, ...] = ()) -> None:
    """Remove such variables from the environment of this process and of those that it starts, except names in `keep`.

    Templates, containers and notebooks leave them behind, and so does a job from which this command was started.
    """
    for key in list(os.environ):
        if key.startswith(LEFT_BY_OTHERS) and not key.startswith(keep):
            del os.environ[key]
