"""`iddpm submit`: the stages of all runs of a spec as SLURM jobs, one array for each stage and kind of resources."""

import shlex
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError

from jobs.errors import StageFailed, UserError
from jobs.preflight import check_inputs
from jobs.rundir import RunDir, freeze
from jobs.spec import StageResources
from jobs.spec_file import load
from jobs.stage import STAGES
from slurm.profiles import Profile, load_profile
from slurm.queue import command, live_jobs, max_array_size, needs_slurm
from slurm.submissions import Submission, jobs_by_run, record
from slurm.task import run_in_slurm


@dataclass(frozen=True)
class Chain:
    """Runs that need the same stages with the same resources: an array for each stage, element i of each for run i."""

    stages: tuple[str, ...]
    resources: tuple[StageResources, ...]
    runs: tuple[RunDir, ...]


def submit_study(spec: Path, overrides: Sequence[str], runs_folder: Path, cluster: str | None, dry_run: bool) -> None:
    """Submit what is neither done nor in the queue. Raises UserError for what can be known to go wrong beforehand."""
    needs_slurm()
    profile = load_profile(cluster)
    study = load(spec, overrides)
    specs = {run.name: run.spec for run in study.runs}
    check_inputs(list(specs.values()))
    folder = runs_folder.resolve() / study.name
    queued = {run for run, _ in jobs_by_run(folder, live_jobs())}
    waiting = {name: run for name, run in specs.items() if name not in queued}
    chains = chains_of(folder, waiting, profile.max_array_size or max_array_size())
    for stage, resources in {pair for chain in chains for pair in zip(chain.stages, chain.resources)}:
        test_only(script(executor(folder, stage, resources, profile, "test"), 1), stage)
    if dry_run:
        print_plan(chains, folder, profile)
        return
    freeze(study, runs_folder)
    print(f"{study.name}: {len(specs)} runs, {len(queued & specs.keys())} in the queue already, "
          f"{len(waiting) - sum(len(chain.runs) for chain in chains)} done, {hours(chains)}")
    for chain in chains:
        submit_chain(chain, folder, profile)


def chains_of(folder: Path, specs: dict, max_size: int) -> list[Chain]:
    """Group the runs by what is left to do and what it needs; no chain longer than the cluster's arrays may be."""
    groups: dict[tuple, list[RunDir]] = {}
    for name, spec in specs.items():
        run = RunDir(folder / name)
        left = tuple(stage for stage in STAGES if not (run.spec_file.is_file() and run.is_done(stage)))
        if left:
            resources = tuple(getattr(spec.resources, stage) for stage in left)
            groups.setdefault((left, resources), []).append(run)
    return [Chain(stages, resources, tuple(runs[start:start + max_size]))
            for (stages, resources), runs in groups.items() for start in range(0, len(runs), max_size)]


def submit_chain(chain: Chain, folder: Path, profile: Profile) -> None:
    """One sbatch for each stage; each run's next stage starts when its last one succeeded."""
    dependency = None
    for stage, resources in zip(chain.stages, chain.resources):
        name = f"{folder.name}-{stage}-{uuid.uuid4().hex[:8]}"
        submission = Submission(name, stage, [run.path.name for run in chain.runs], time.time())
        record(folder, submission)
        launcher = executor(folder, stage, resources, profile, name, dependency)
        try:
            with launcher.batch():
                jobs = [launcher.submit(run_in_slurm, stage, str(run.path)) for run in chain.runs]
        except FailedJobError as error:
            raise StageFailed(f"{stage}: sbatch refused: {error}; submit again for what is missing") from error
        submission = replace(submission, job_id=jobs[0].job_id.split("_")[0])
        record(folder, submission)
        # aftercorr: element i waits for element i, not for the whole array.
        dependency = f"{'aftercorr' if len(chain.runs) > 1 else 'afterok'}:{submission.job_id}"
        print(f"{stage:<9} job {submission.job_id}, {len(chain.runs)} run{'s' if len(chain.runs) > 1 else ''}", flush=True)


def executor(folder: Path, stage: str, resources: StageResources, profile: Profile, name: str,
             dependency: str | None = None) -> SlurmExecutor:
    """submitit's executor for one stage, with logs in study/logs/NAME."""
    options = {"kill-on-invalid-dep": "yes", "requeue": True}
    if resources.gpus_per_node and profile.gpu_request == "gres":
        options["gres"] = f"gpu:{resources.gpus_per_node}"
    memory = resources.mem_gb or profile.mem_gb
    parameters = {
        "job_name": name, "partition": profile.partition, "account": profile.account, "qos": profile.qos,
        "constraint": profile.constraint, "time": minutes(resources.time), "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks, "cpus_per_task": resources.cpus_per_task,
        "gpus_per_node": resources.gpus_per_node if profile.gpu_request == "gpus_per_node" else None,
        "mem": f"{memory * 1024:.0f}MB" if memory else None, "signal_delay_s": profile.signal_lead_s,
        "dependency": dependency, "stderr_to_stdout": True, "additional_parameters": options,
        # A rank that dies must not leave the others waiting for it until the time limit.
        "srun_args": ["--kill-on-bad-exit=1"],
        "setup": [*(f"export {key}={shlex.quote(value)}" for key, value in profile.environment.items()), *profile.setup] or None}
    launcher = SlurmExecutor(folder / "logs" / name, python=profile.python)
    launcher.update_parameters(**{key: value for key, value in parameters.items() if value})
    return launcher


def minutes(wall_time: str) -> int:
    """"D-HH:MM:SS", "HH:MM:SS" or "HH:MM", rounded up to minutes."""
    days, _, clock = wall_time.rpartition("-")
    parts = [int(part) for part in clock.split(":")] + [0]
    return int(days or 0) * 1440 + parts[0] * 60 + parts[1] + (parts[2] > 0)


def script(launcher: SlurmExecutor, runs: int) -> str:
    """The text that sbatch gets for an array of so many runs."""
    if runs > 1:
        launcher.parameters["map_count"] = runs
    return launcher._make_submission_file_text(launcher._submitit_command_str, "dry-run")


def test_only(text: str, stage: str) -> None:
    """Ask the cluster whether it would take such a job. Raises UserError with its answer where not."""
    try:
        command("sbatch", "--test-only", text=text)
    except StageFailed as error:
        raise UserError(f"resources.{stage}: the cluster refuses such a job: {error}") from error


def hours(chains: Sequence[Chain]) -> str:
    """What the time limits allow to be spent."""
    asked = [(resources, len(chain.runs) * minutes(resources.time) / 60) for chain in chains for resources in chain.resources]
    gpus = sum(each * resources.nodes * resources.gpus_per_node for resources, each in asked)
    cpus = sum(each * resources.world_size * resources.cpus_per_task for resources, each in asked)
    return f"at most {gpus:,.0f} GPU-hours" if gpus else f"at most {cpus:,.0f} CPU-hours"


def print_plan(chains: Sequence[Chain], folder: Path, profile: Profile) -> None:
    for chain in chains:
        for stage, resources in zip(chain.stages, chain.resources):
            print(f"# {stage}: {len(chain.runs)} runs: {', '.join(run.path.name for run in chain.runs[:5])}")
            print(script(executor(folder, stage, resources, profile, f"{folder.name}-{stage}"), len(chain.runs)))
        print(f"# each run: {' -> '.join(chain.stages)}")
    print(f"# {hours(chains)}")
