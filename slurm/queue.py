"""What SLURM knows of our jobs, in one call for everything."""

import shutil
import subprocess
from dataclasses import dataclass

from jobs.errors import StageFailed, UserError


@dataclass(frozen=True)
class Job:
    """One job or array element that is pending or running."""

    id: str
    name: str
    state: str
    reason: str
    node: str


def needs_slurm() -> None:
    """Raises UserError where there is no SLURM."""
    if not shutil.which("sbatch"):
        raise UserError("no SLURM here (sbatch is not on the PATH): `iddpm run` does the same on this machine, "
                        "`iddpm cluster up` starts a SLURM to try")


def command(*arguments: str, text: str | None = None) -> str:
    """Output of one of SLURM's commands. Raises StageFailed with what it complained of."""
    done = subprocess.run(arguments, input=text, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise StageFailed(f"{' '.join(arguments[:2])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def live_jobs() -> dict[str, Job]:
    """All of the user's jobs in the queue by id, array elements each by their own (12_3). One call of squeue."""
    lines = command("squeue", "--me", "--noheader", "--array", "--format=%i|%j|%T|%r|%N").splitlines()
    jobs = [Job(*line.strip().split("|", 4)) for line in lines]
    return {job.id: job for job in jobs}


def max_array_size() -> int:
    for line in command("scontrol", "show", "config").splitlines():
        if line.startswith("MaxArraySize"):
            return int(line.split("=")[1])
    return 1001  # SLURM's default
