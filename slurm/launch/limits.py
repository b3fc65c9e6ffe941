"""What can be known to go wrong before anything is submitted: the cluster's limits, and the disk's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import StageFailed, UserError
from slurm.launch.job_arrays import Array
from slurm.launch.profiles import Profile
from slurm.launch.sbatch_script import executor, script
from slurm.launch.squeue import command


@dataclass(frozen=True)
class Limits:
    """What slurm.conf allows; SLURM's defaults where it is silent."""

    array_size: int = 1001
    jobs: int = 10_000


def cluster_limits() -> Limits:
    lines = command("scontrol", "show", "config").splitlines()
    told = dict(line.replace(" ", "").split("=", 1) for line in lines if "=" in line)
    return Limits(int(told.get("MaxArraySize", Limits.array_size)), int(told.get("MaxJobCount", Limits.jobs)))


def check_folder(folder: Path) -> None:
    """Raises UserError where SLURM would take the path of logs and code apart: it expands %, and sbatch has its own quoting."""
    bad = sorted({character for character in str(folder) if character in "'\"\\%`$" or not character.isprintable()})
    if bad:
        raise UserError(f"--runs: {str(folder)!r} has {' '.join(map(repr, bad))}, which SLURM does not take as part of a path; "
                        "choose another folder")


def check_cluster(arrays: Sequence[Array], study: Path, profile: Profile, limits: Limits) -> None:
    """Ask the cluster whether it would take such arrays: partition, QOS, account, nodes, time, number of jobs.

    One question for each stage and shape. Raises UserError with the cluster's answer where it would not.
    """
    total = sum(array.size for array in arrays)
    if total >= limits.jobs:
        raise UserError(f"{total:,} jobs, and the cluster holds at most {limits.jobs:,} (MaxJobCount); submit a part of the "
                        "sweep, and the rest when it is done")
    for stage, resources in dict.fromkeys((array.stage, array.resources) for array in arrays):
        if resources.minutes * 60 <= profile.signal_lead_s:
            raise UserError(f"resources.{stage}.time: {resources.time} is over before a job is asked to save: "
                            f"the cluster profile's signal_lead_s is {profile.signal_lead_s}")
    largest: dict[tuple, Array] = {}
    for array in arrays:
        shape = (array.stage, array.resources)
        if shape not in largest or largest[shape].size < array.size:
            largest[shape] = array
    for (stage, _), array in largest.items():
        text = script(executor(array, study, profile, "test", Path.cwd(), None), array.size)
        try:
            command("sbatch", "--test-only", text=text)
        except StageFailed as error:
            raise UserError(f"resources.{stage}: the cluster refuses such a job: {error}") from error
