"""Check before submission: whether the cluster takes the jobs, and whether SLURM can handle the path of the study."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import StageFailed, UserError
from jobs.quantities import clock
from slurm.launch.job_arrays import REPORT, Array
from slurm.launch.profiles import Profile
from slurm.launch.sbatch_script import cores, executor, script
from slurm.launch.sites.nodes import NEVER, NOT_NOW, time_limit_s, why_it_waits
from slurm.launch.sites.queue_limit import queue_limit
from slurm.launch.squeue import command


@dataclass(frozen=True)
class Limits:
    """Limits of the cluster from slurm.conf. The defaults are SLURM's own."""

    array_size: int = 1001
    jobs: int = 10_000
    enforced: bool = False
    """Whether the limits of QOS and associations hold."""


def cluster_limits() -> Limits:
    """Read the limits with `scontrol show config`. Raises StageFailed if SLURM does not answer."""
    lines = command("scontrol", "show", "config").splitlines()
    settings = dict(line.replace(" ", "").split("=", 1) for line in lines if "=" in line)
    return Limits(int(settings.get("MaxArraySize", Limits.array_size)), int(settings.get("MaxJobCount", Limits.jobs)),
                  "limits" in settings.get("AccountingStorageEnforce", "").lower().split(","))


def with_queue_limit(profile: Profile, limits: Limits) -> Profile:
    """The profile with max_queued, if SLURM's accounting limits how many jobs this user may have in the queue."""
    if profile.max_queued is not None or not limits.enforced:
        return profile
    return profile.model_copy(update={"max_queued": queue_limit(profile)})


def check_folder(folder: Path) -> None:
    """Raise UserError if the path has characters that SLURM interprets: it expands %, and sbatch has its own quoting."""
    bad = sorted({character for character in str(folder) if character in "'\"\\%`$" or not character.isprintable()})
    if bad:
        raise UserError(f"--runs: {str(folder)!r} has {' '.join(map(repr, bad))}, which SLURM does not take as part of a path; "
                        "choose another folder")


def check_cluster(arrays: Sequence[Array], study: Path, profile: Profile, limits: Limits) -> None:
    """Ask the cluster (`sbatch --test-only`) whether it accepts the arrays: partition, QOS, account, nodes, time, job count.

    Asks once for each stage and its resources. Raises UserError with the cluster's answer if it refuses for good. If no node
    can start such a job by now, such as during maintenance, prints a note: the job waits in the queue.
    """
    total = sum(array.size for array in arrays)
    if total >= limits.jobs:
        raise UserError(f"{total:,} jobs, and the cluster holds at most {limits.jobs:,} (MaxJobCount); submit a part of the "
                        "sweep, and the rest when that part is done")
    largest: dict[tuple, Array] = {}
    for array in arrays:
        stage, resources = shape = (array.stage, array.resources)
        if stage != REPORT and resources.minutes * 60 <= profile.signal_lead_s:
            raise UserError(f"resources.{stage}.time: {resources.time} is not longer than the time that a job gets for saving: "
                            f"the cluster profile's signal_lead_s is {profile.signal_lead_s}")
        if shape not in largest or largest[shape].size < array.size:
            largest[shape] = array
    for (stage, _), array in largest.items():
        text = script(executor(array, study, profile, "test", Path.cwd(), None), array.size)
        longest = time_limit_s(profile.of_stage(stage))
        if longest is not None and array.resources.seconds > longest:  # where EnforcePartLimits=NO, sbatch takes such a job
            print(f"note: resources.{stage}.time: {array.resources.time} is longer than the partition's limit, {clock(longest)}: "
                  "the job may wait for ever")
        try:
            command("sbatch", "--test-only", text=text)
        except StageFailed as error:
            waits = None
            if any(words in str(error) for words in NOT_NOW) and NEVER not in str(error):
                waits = why_it_waits(array.resources, cores(array, profile), profile.of_stage(stage))
            if waits is None:
                raise UserError(f"resources.{stage}: the cluster refuses such a job: {error}") from error
            print(f"note: resources.{stage}: such a job has to wait: {waits}")
